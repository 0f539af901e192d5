"""Runs as operators of torch: `torch.ops.throughtime.run`, which `torch.compile` and `torch.export` keep whole.

A program is passed as its JSON, so a graph that holds an operator is whole without this process. All operators are told
the same first, then come their tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from throughtime.engines import get
from throughtime.engines.autograd import Call, differentiable, flat, run, slots, split
from throughtime.engines.capture import has_tangent
from throughtime.program.core import Program
from throughtime.program.gradient import Slots, gradient, with_tape
from throughtime.program.saving import from_json

__all__ = ["program_of", "run"]

program_of = lru_cache(maxsize=512)(from_json)


def _kernel(*given: Any) -> list[Tensor]:
    call, (inputs, states, parameters) = _told(given)
    return flat(call.run(inputs, states, parameters))


def _fake(*given: Any) -> list[Tensor]:
    call, (_, states, _) = _told(given)
    return call.shapes(call.program, states[0])


def _autograd_kernel(*given: Any) -> list[Tensor]:
    call, (inputs, states, parameters) = _told(given)
    tensors = (*inputs, *states, *parameters)
    if has_tangent(tensors):
        raise NotImplementedError(
            "torch.ops.throughtime.run has no forward-mode derivative: use a module of throughtime, which goes to the "
            "reference engine for it, or engine='reference'."
        )
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        with torch._C._AutoDispatchBelowAutograd():
            plain: list[Tensor] = torch.ops.throughtime.run(*given)
            return plain
    return flat(differentiable(call, inputs, states, parameters, as_operator=True))


def _segments_kernel(*given: Any) -> list[Tensor]:
    call, (inputs, states, parameters) = _told(given)
    result, starts = call.segments.run(inputs, states, parameters)
    return [*flat(result), *starts]


def _segments_fake(*given: Any) -> list[Tensor]:
    call, (_, states, _) = _told(given)
    count = call.segments.count(len(states[0]))
    return [*call.shapes(call.program, states[0]), *(s.new_empty(count, *s.shape) for s in states)]


def _segments_gradient_kernel(*given: Any) -> list[Tensor]:
    call, (inputs, starts, parameters, cotangents, known, needed) = _told(given)
    known, wanted = _given_and_wanted(call.program, known, needed)
    of = split(cotangents, len(known.vectors), len(starts))
    return flat(call.segments.gradient(known, wanted, inputs, starts, parameters, of))


def _segments_gradient_fake(*given: Any) -> list[Tensor]:
    call, (_, starts, _, _, known, needed) = _told(given)
    known, wanted = _given_and_wanted(call.program, known, needed)
    return call.shapes(gradient(with_tape(call.program, wanted), known, wanted).program, starts[0][0])


def _given_and_wanted(program: Program, known: Sequence[bool], needed: Sequence[bool]) -> tuple[Slots, Slots]:
    states = len(program.states)
    return slots(len(program.outputs), states, tuple(known)), slots(len(program.inputs), states, tuple(needed))


def _told(given: Sequence[Any]) -> tuple[Call, Sequence[Any]]:
    engine, program, steps, batch_sizes, packed, every, *rest = given
    read = program_of(program)
    return Call(get(engine), read, steps, batch_sizes, packed, every, None, len(read.outputs)), rest


_TOLD_FIRST = "str engine, str program, SymInt steps, SymInt[]? batch_sizes, bool packed, int? every"
library = torch.library.Library("throughtime", "DEF")  # type: ignore[no-untyped-call]
for _name, _tensors, _function, _by_shape in (
    ("run", "inputs, Tensor[] states, Tensor[] parameters", _kernel, _fake),
    ("run_in_segments", "inputs, Tensor[] states, Tensor[] parameters", _segments_kernel, _segments_fake),
    (
        "gradient_in_segments",
        "inputs, Tensor[] starts, Tensor[] parameters, Tensor[] cotangents, bool[] given, bool[] wanted",
        _segments_gradient_kernel,
        _segments_gradient_fake,
    ),
):
    _schema = f"{_name}({_TOLD_FIRST}, Tensor[] {_tensors}) -> Tensor[]"
    library.define(_schema, tags=[torch.Tag.pt2_compliant_tag])  # type: ignore[no-untyped-call]
    for _key in ("CPU", "CUDA"):
        library.impl(_name, _function, _key)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"throughtime::{_name}", _by_shape, lib=library)
library.impl("run", _autograd_kernel, "Autograd")  # type: ignore[no-untyped-call]

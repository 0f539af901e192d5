"""Runs as torch operators such as `torch.ops.throughtime.run`, which are opaque to `torch.compile` and `torch.export`.

Programs are passed as JSON, so an exported graph is self-contained. All operators have the same first arguments; see
`throughtime.engines.autograd.Pass.signature`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from throughtime.engines import get
from throughtime.engines.autograd import Pass, flat, slots, split
from throughtime.engines.base import Layout, Operands
from throughtime.engines.capture import has_tangent
from throughtime.program.core import Program
from throughtime.program.gradient import Slots, gradient, with_residuals
from throughtime.program.saving import from_json

__all__ = ["program_of"]

program_of = lru_cache(maxsize=512)(from_json)


def _kernel(*given: Any) -> list[Tensor]:
    this, operands, _ = _parsed(given)
    return flat(this.execute(operands))


def _fake(*given: Any) -> list[Tensor]:
    this, operands, _ = _parsed(given)
    return this.fakes(this.program, operands.states[0])


def _autograd_kernel(*given: Any) -> list[Tensor]:
    this, operands, _ = _parsed(given)
    tensors = operands.tensors
    if has_tangent(tensors):
        raise NotImplementedError(
            "torch.ops.throughtime.run has no forward-mode derivative: use a throughtime module, which switches to "
            "the reference engine for it, or engine='reference'"
        )
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        with torch._C._AutoDispatchBelowAutograd():
            plain: list[Tensor] = torch.ops.throughtime.run(*given)
            return plain
    return flat(this.differentiable(operands, as_operator=True))


def _segments_kernel(*given: Any) -> list[Tensor]:
    this, operands, _ = _parsed(given)
    result, starts = this.segments.run(operands)
    return [*flat(result), *starts]


def _segments_fake(*given: Any) -> list[Tensor]:
    this, operands, _ = _parsed(given)
    states = operands.states
    return [*this.fakes(this.program, states[0]), *(s.new_empty(this.segments.count, *s.shape) for s in states)]


def _segments_gradient_kernel(*given: Any) -> list[Tensor]:
    this, operands, (cotangents, known, needed) = _parsed(given, segment_starts=True)
    known, wanted = _given_and_wanted(this.program, known, needed)
    of = split(cotangents, len(known.vectors), len(operands.states))
    return flat(this.segments.gradient(known, wanted, operands, of))


def _segments_gradient_fake(*given: Any) -> list[Tensor]:
    this, operands, (_, known, needed) = _parsed(given, segment_starts=True)
    known, wanted = _given_and_wanted(this.program, known, needed)
    return this.fakes(gradient(with_residuals(this.program, wanted), known, wanted).program, operands.states[0][0])


def _given_and_wanted(program: Program, known: Sequence[bool], needed: Sequence[bool]) -> tuple[Slots, Slots]:
    states = len(program.states)
    return slots(len(program.outputs), states, tuple(known)), slots(len(program.inputs), states, tuple(needed))


def _parsed(given: Sequence[Any], *, segment_starts: bool = False) -> tuple[Pass, Any, Sequence[Any]]:
    """Parse an operator's arguments into the pass, its operands with states, and the rest."""
    engine, program, steps, batch_sizes, packed, every, inputs, states, parameters, *rest = given
    rows = states[0].shape[1 if segment_starts else 0]
    this = Pass(get(engine), program_of(program), Layout(steps, rows, batch_sizes, packed), every)
    return this, Operands(inputs, states, parameters), rest


_SIGNATURE = "str engine, str program, SymInt steps, SymInt[]? batch_sizes, bool packed, int? every"
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
    _schema = f"{_name}({_SIGNATURE}, Tensor[] {_tensors}) -> Tensor[]"
    library.define(_schema, tags=[torch.Tag.pt2_compliant_tag])  # type: ignore[no-untyped-call]
    for _key in ("CPU", "CUDA"):
        library.impl(_name, _function, _key)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"throughtime::{_name}", _by_shape, lib=library)
library.impl("run", _autograd_kernel, "Autograd")  # type: ignore[no-untyped-call]

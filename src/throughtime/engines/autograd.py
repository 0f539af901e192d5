"""The derivative of a run is a run of the gradient program: this makes any engine part of torch's autograd.

As the gradient program is run by the same function, its derivative is had in the same way, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.engines.base import Engine, Result
from throughtime.program.core import Program
from throughtime.program.gradient import Slots, gradient, with_tape


def run(
    engine: Engine,
    program: Program,
    steps: int,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    batch_sizes: Sequence[int] | None = None,
) -> Result:
    """Runs a program on an engine, with its derivative known to autograd; see `Engine.run`."""
    tensors = (*inputs, *states, *parameters)
    if engine.transparent or not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return engine.run(program, steps, inputs, states, parameters, batch_sizes)
    wanted = _slots(program, [t.requires_grad for t in tensors])
    taped = with_tape(program, wanted)
    given: tuple[Tensor, ...] = _Run.apply(  # type: ignore[no-untyped-call]
        engine, taped, steps, batch_sizes, *tensors
    )
    every = _split(given, len(taped.outputs), len(taped.states))
    return Result(every.outputs[: len(program.outputs)], every.states, every.reductions)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, engine: Engine, program: Program, steps: int, batch_sizes: Sequence[int] | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        arguments = _split(tensors, len(program.inputs), len(program.states))
        result = engine.run(program, steps, *arguments, batch_sizes)
        ctx.set_materialize_grads(False)
        ctx.call = engine, program, steps, batch_sizes
        ctx.save_for_backward(*tensors, *result.outputs)
        return (*result.outputs, *result.states, *result.reductions)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        engine, program, steps, batch_sizes = ctx.call
        saved = ctx.saved_tensors
        arguments = _split(saved, len(program.inputs), len(program.states))
        parameters = arguments.reductions[: len(program.parameters)]
        outputs = arguments.reductions[len(program.parameters) :]
        wanted = _slots(program, ctx.needs_input_grad[4:])
        cotangents = _split(gradients, len(program.outputs), len(program.states))
        given = Slots(*(tuple(k for k, g in enumerate(of) if g is not None) for of in cotangents))
        plan = gradient(program, given, wanted)
        result = run(
            engine,
            plan.program,
            steps,
            [*(arguments.outputs[k] for k in plan.inputs), *(outputs[k] for k in plan.tape)]
            + [cotangents.outputs[k] for k in given.vectors],
            [
                torch.zeros_like(state) if g is None else g
                for state, g in zip(arguments.states, cotangents.states, strict=True)
            ],
            [*(parameters[k] for k in plan.parameters), *(cotangents.reductions[k] for k in given.arrays)],
            batch_sizes,
        )
        found: list[Tensor | None] = [None] * (4 + len(ctx.needs_input_grad[4:]))
        first_state, first_parameter = 4 + len(program.inputs), 4 + len(program.inputs) + len(program.states)
        for k, g in zip(wanted.vectors, result.outputs, strict=True):
            found[4 + k] = g
        for k in wanted.states:
            found[first_state + k] = result.states[k]
        for k, g in zip(wanted.arrays, result.reductions, strict=True):
            found[first_parameter + k] = g
        return tuple(found)


def _split(tensors: Sequence[Any], vectors: int, states: int) -> Result:
    return Result(list(tensors[:vectors]), list(tensors[vectors : vectors + states]), list(tensors[vectors + states :]))


def _slots(program: Program, flags: Sequence[bool]) -> Slots:
    split = _split(flags, len(program.inputs), len(program.states))
    return Slots(*(tuple(k for k, flag in enumerate(of) if flag) for of in split))

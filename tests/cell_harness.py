"""Holds a cell against a plain torch loop that somebody wrote from the paper: values, gradients, both engines.

    def step(w, x, states):
        (h,) = states
        h = torch.tanh(w.affine("hidden", x=x, h=h))
        return h, [h]

    hold(my_cell, step)

A loop takes a layer's parameters by gate, not as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from helpers import (
    Arguments,
    assert_close,
    differentiable_run,
    flat,
    random_arguments,
    random_cotangents,
    run_gradient,
    run_on,
)
from torch import Tensor

from throughtime.engines.native import NativeEngine
from throughtime.engines.reference import ReferenceEngine
from throughtime.program.cell import Cell
from throughtime.program.core import Program

STEPS, ROWS, INPUT, HIDDEN = 5, 3, 3, 4


class Weights:
    """A layer's parameters by gate."""

    def __init__(self, program: Program, tensors: Sequence[Tensor]) -> None:
        self.tensors = dict(zip((p.name for p in program.parameters), tensors, strict=True))
        self.rows = {(p.name, q.gate): slice(q.start, q.stop) for p in program.parameters for q in p.parts}

    def __getitem__(self, name: str) -> Tensor:
        """A parameter that belongs to no gate."""
        return self.tensors[name]

    def of(self, parameter: str, gate: str) -> Tensor:
        """A gate's rows of a parameter."""
        return self.tensors[parameter][self.rows[parameter, gate]]

    def bias(self, gate: str) -> Tensor | float:
        """A gate's bias; 0 if it has none."""
        return self.of("bias", gate) if ("bias", gate) in self.rows else 0.0

    def affine(self, gate: str, **sources: Tensor) -> Tensor:
        """The sum of W v for each vector v, given by the end of its matrix's name, and the gate's bias."""
        total: Tensor = sum(v @ self.of(f"weight_{name}", gate).T for name, v in sources.items()) + self.bias(gate)
        return total


Step = Callable[[Weights, Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


def hold(
    cell: Cell,
    step: Step,
    *,
    input_size: int = INPUT,
    hidden_size: int = HIDDEN,
    bias: bool = True,
    states: Callable[[list[Tensor]], list[Tensor]] = list,
    **hyper: object,
) -> Program:
    """Asserts that outputs, final states and all gradients of a cell are those of a loop over `step`.

    In float64 by the reference engine and its gradient program, and by the native engine where it is built; there in
    float32 too.

    Args:
        cell: the cell.
        step: one step of the loop: `(weights, x [B, I], states [B, width]...)` to the output and the new states.
        input_size, hidden_size, bias, **hyper: the sizes and hyper-parameters of the cell.
        states: makes of normally distributed initial states such as the cell can have.

    Returns:
        The cell's program.
    """
    program = cell.program(input_size, hidden_size, bias=bias, **hyper)
    arguments = random_arguments(program, STEPS, ROWS)
    arguments = Arguments(arguments.inputs, states(arguments.states), arguments.parameters)

    leaves = arguments.map(lambda t: t.clone().requires_grad_())
    outputs, final = loop(step, Weights(program, leaves.parameters), leaves)
    wanted = [outputs, *final]
    cotangents = random_cotangents(run_on(ReferenceEngine(), program, STEPS, *arguments, None))
    gradients = torch.autograd.grad(wanted, leaves.flat, flat(cotangents), allow_unused=True)
    unused = [k for k, g in enumerate(gradients) if g is None]
    assert not unused, f"the loop does not use arguments {unused} of {[t.shape for t in arguments.flat]}"

    assert_close(flat(run_on(ReferenceEngine(), program, STEPS, *arguments, None)), wanted, 1e-13)
    assert_close(run_gradient(program, arguments, cotangents, STEPS).flat, gradients, 1e-12)
    if NativeEngine().refuses(program, arguments.inputs[0]) is None:
        # A few roundings of each type, which some steps carry on.
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
            found = by_autograd(program, arguments.map(lambda t, dtype=dtype: t.to(dtype)), flat(cotangents))
            assert_close(found[0], wanted, tolerance)
            assert_close(found[1], gradients, tolerance)
    return program


def loop(step: Step, weights: Weights, arguments: Arguments) -> tuple[Tensor, list[Tensor]]:
    """The outputs of all steps and the final states, by a Python loop."""
    outputs, states = [], list(arguments.states)
    for x in arguments.inputs[0]:
        y, states = step(weights, x, states)
        outputs.append(y)
    return torch.stack(outputs), states


def by_autograd(program: Program, arguments: Arguments, cotangents: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients by the native engine, as a user's module has them."""
    leaves = arguments.map(lambda t: t.clone().requires_grad_())
    result = differentiable_run(NativeEngine(), program, STEPS, *leaves)
    weights = [c.to(t.dtype) for c, t in zip(cotangents, flat(result), strict=True)]
    return flat(result), list(torch.autograd.grad(flat(result), leaves.flat, weights))

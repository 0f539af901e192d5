"""Compare a cell with a plain torch loop written from its paper: values and gradients, on both engines.

    def step(w, x, states):
        (h,) = states
        h = torch.tanh(w.affine("hidden", x=x, h=h))
        return h, [h]

    assert_matches_loop(my_cell, step)

A loop accesses a layer's parameters by gate, regardless of how they are stored.
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
    """A layer's parameters, accessed by gate."""

    def __init__(self, program: Program, tensors: Sequence[Tensor]) -> None:
        self.tensors = dict(zip((p.name for p in program.parameters), tensors, strict=True))
        self.rows = {(p.name, q.gate): slice(q.start, q.stop) for p in program.parameters for q in p.parts}

    def __getitem__(self, name: str) -> Tensor:
        """Return a parameter that belongs to no gate."""
        return self.tensors[name]

    def of(self, parameter: str, gate: str) -> Tensor:
        """Return a gate's rows of a parameter."""
        return self.tensors[parameter][self.rows[parameter, gate]]

    def bias(self, gate: str) -> Tensor | float:
        """Return a gate's bias, or 0 if it has none."""
        return self.of("bias", gate) if ("bias", gate) in self.rows else 0.0

    def affine(self, gate: str, **sources: Tensor) -> Tensor:
        """Return a gate's pre-activation: its bias plus W v for each source v, where W is `weight_<keyword>`."""
        total: Tensor = sum(v @ self.of(f"weight_{name}", gate).T for name, v in sources.items()) + self.bias(gate)
        return total


Step = Callable[[Weights, Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


def assert_matches_loop(
    cell: Cell,
    step: Step,
    *,
    input_size: int = INPUT,
    hidden_size: int = HIDDEN,
    bias: bool = True,
    states: Callable[[list[Tensor]], list[Tensor]] = list,
    **hyper: object,
) -> Program:
    """Assert that a cell's outputs, final states and all gradients equal those of a loop over `step`.

    The comparison runs in float64 on the reference engine with the cell's gradient program, and in float64 and float32
    on the native engine if it is built.

    Args:
        cell: the cell to test.
        step: one step of the loop; maps `(weights, x [B, I], states [B, width]...)` to the output and the new states.
        input_size: the number of input features.
        hidden_size: the number of hidden units.
        bias: whether the cell has biases.
        states: a function that maps normally distributed initial states to states that are valid for the cell.
        **hyper: the hyper-parameters of the cell.

    Returns:
        The program of the cell.
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
        # Rounding errors of each dtype, which accumulate over the steps.
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
            found = by_autograd(program, arguments.map(lambda t, dtype=dtype: t.to(dtype)), flat(cotangents))
            assert_close(found[0], wanted, tolerance)
            assert_close(found[1], gradients, tolerance)
    return program


def loop(step: Step, weights: Weights, arguments: Arguments) -> tuple[Tensor, list[Tensor]]:
    """Run a Python loop over `step` and return the outputs of all steps and the final states."""
    outputs, states = [], list(arguments.states)
    for x in arguments.inputs[0]:
        y, states = step(weights, x, states)
        outputs.append(y)
    return torch.stack(outputs), states


def by_autograd(program: Program, arguments: Arguments, cotangents: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Compute results and gradients on the native engine through autograd, as a module does."""
    leaves = arguments.map(lambda t: t.clone().requires_grad_())
    result = differentiable_run(NativeEngine(), program, STEPS, *leaves)
    weights = [c.to(t.dtype) for c, t in zip(cotangents, flat(result), strict=True)]
    return flat(result), list(torch.autograd.grad(flat(result), leaves.flat, weights))

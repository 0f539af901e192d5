"""Shared test helpers: random arguments, runs on an engine, gradients in two ways, and subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.engines.autograd import Pass
from throughtime.engines.base import Engine, Layout, Operands, Result
from throughtime.engines.reference import ReferenceEngine
from throughtime.program.core import Program
from throughtime.program.gradient import Slots, everything_given, everything_wanted, gradient, with_residuals

REFERENCE = ReferenceEngine()


class Arguments(NamedTuple):
    """The arguments of a run, or their gradients (zero where an argument has none)."""

    inputs: list[Tensor]
    states: list[Tensor]
    parameters: list[Tensor]

    @property
    def flat(self) -> list[Tensor]:
        return [*self.inputs, *self.states, *self.parameters]

    def like(self, flat: Sequence[Tensor]) -> Arguments:
        """Group a flat list of tensors into inputs, states and parameters, as in these arguments."""
        n, m = len(self.inputs), len(self.inputs) + len(self.states)
        return Arguments(list(flat[:n]), list(flat[n:m]), list(flat[m:]))

    def map(self, function: Callable[[Tensor], Tensor]) -> Arguments:
        """Apply a function to all tensors except token ids."""
        return self.like([function(tensor) if tensor.is_floating_point() else tensor for tensor in self.flat])


def random_arguments(program: Program, steps: int = 4, rows: int = 3, *, seed: int = 0) -> Arguments:
    """Draw normally distributed inputs, states and parameters in float64.

    Matrices are scaled so that products keep the scale of the values. One-hot inputs are uniformly drawn token ids.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Arguments(
        [
            torch.randint(i.width, (steps, rows), generator=generator) if i.one_hot else normal(steps, rows, i.width)
            for i in program.inputs
        ],
        [normal(rows, s.width) for s in program.states],
        [normal(*p.shape) / (p.shape[1] ** 0.5 if len(p.shape) == 2 else 1.0) for p in program.parameters],
    )


def flat(result: Result) -> list[Tensor]:
    """Return all tensors of a result."""
    return [*result.outputs, *result.states, *result.reductions]


def run(program: Program, arguments: Arguments, steps: int = 4, batch_sizes: list[int] | None = None) -> Result:
    """Run a program on the reference engine."""
    return run_on(REFERENCE, program, steps, *arguments, batch_sizes)


def layout_of(
    steps: int, inputs: Sequence[Any], states: Sequence[Any] | None, batch_sizes: Sequence[int] | None, packed: bool
) -> Layout:
    """Return the layout of a run with these operands."""
    if states:
        rows = states[0].shape[0]
    elif packed:
        rows = next(iter(batch_sizes or ()), 0)
    else:
        rows = inputs[0].shape[1] if inputs else 0
    return Layout(steps, rows, batch_sizes, packed)


def run_on(
    engine: Engine,
    program: Program,
    steps: int,
    inputs: Sequence[Any],
    states: Sequence[Any] | None,
    parameters: Sequence[Any],
    batch_sizes: Sequence[int] | None = None,
    *,
    packed: bool = False,
    accumulate_into: Sequence[Any] | None = None,
) -> Result:
    """Run a program on an engine."""
    layout = layout_of(steps, inputs, states, batch_sizes, packed)
    return engine.run(program, Operands(inputs, states, parameters), layout, accumulate_into=accumulate_into)


def differentiable_run(
    engine: Engine,
    program: Program,
    steps: int,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor] | None,
    parameters: Sequence[Tensor],
    batch_sizes: Sequence[int] | None = None,
    *,
    packed: bool = False,
    checkpoint_every: int | None = None,
) -> Result:
    """Run a program on an engine so that autograd can differentiate it."""
    layout = layout_of(steps, inputs, states, batch_sizes, packed)
    return Pass(engine, program, layout, checkpoint_every).run(Operands(inputs, states, parameters))


def random_cotangents(result: Result, *, seed: int = 1) -> Result:
    """Draw a gradient for every tensor of a result."""
    generator = torch.Generator().manual_seed(seed)

    def alike(of: list[Tensor]) -> list[Tensor]:
        return [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in of]

    return Result(*map(alike, result))


def run_gradient(
    program: Program,
    arguments: Arguments,
    cotangents: Result,
    steps: int = 4,
    batch_sizes: list[int] | None = None,
    *,
    given: Slots | None = None,
    wanted: Slots | None = None,
) -> Arguments:
    """Return the gradient of a run, computed by its gradient program; zero where no gradient is requested."""
    given, wanted = given or everything_given(program), wanted or everything_wanted(program)
    augmented = with_residuals(program, wanted)
    outputs = run(augmented, arguments, steps, batch_sizes).outputs
    plan = gradient(augmented, given, wanted)
    result = run_on(
        REFERENCE,
        plan.program,
        steps,
        [
            *(arguments.inputs[k] for k in plan.inputs),
            *(outputs[k] for k in plan.residuals),
            *(cotangents.outputs[k] for k in given.vectors),
        ],
        [g if k in given.states else torch.zeros_like(g) for k, g in enumerate(cotangents.states)],
        [*(arguments.parameters[k] for k in plan.parameters), *(cotangents.reductions[k] for k in given.arrays)],
        batch_sizes,
    )
    found = arguments.map(torch.zeros_like)
    for k, g in zip(wanted.vectors, result.outputs, strict=True):
        found.inputs[k] = g
    for k in wanted.states:
        found.states[k] = result.states[k]
    for k, g in zip(wanted.arrays, result.reductions, strict=True):
        found.parameters[k] = g
    return found


def autograd_gradient(
    program: Program,
    arguments: Arguments,
    cotangents: Result,
    steps: int = 4,
    batch_sizes: list[int] | None = None,
) -> Arguments:
    """Return the gradient of a run, computed by torch's autograd through the reference engine."""
    arguments = arguments.map(lambda t: t.detach().clone().requires_grad_())
    result = run(program, arguments, steps, batch_sizes)
    pairs = [(r, c) for r, c in zip(flat(result), flat(cotangents), strict=True) if r.requires_grad]
    if not pairs:
        return arguments.map(torch.zeros_like)
    results, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(results, arguments.flat, weights, allow_unused=True, materialize_grads=True)
    return arguments.like(found)


def assert_close(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = 1e-11) -> None:
    """Assert that all differences are small relative to the largest expected element."""
    scale = max([1.0, *(float(w.detach().abs().max()) for w in wanted if w.numel())])
    for k, (f, w) in enumerate(zip(found, wanted, strict=True)):
        assert f.shape == w.shape, f"tensor {k} has shape {tuple(f.shape)}, expected {tuple(w.shape)}"
        if w.numel():
            error = float((f - w).detach().abs().max()) / scale
            assert error <= tolerance, f"tensor {k} of shape {tuple(w.shape)} is off by {error:.1e}"


def run_python(code: str, *arguments: Any, **environment: str) -> str:
    """Run Python code in a subprocess and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

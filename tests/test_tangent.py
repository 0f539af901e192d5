"""Tangent programs match torch's forward mode, finite differences and gradient programs."""

import pytest
import torch
from helpers import Arguments, assert_close, flat, random_arguments, random_cotangents, run, run_gradient, run_on
from hypothesis import given, settings
from random_programs import programs
from torch.func import jvp

from throughtime import cells
from throughtime.engines.native import BUILT, NativeEngine
from throughtime.engines.reference import ReferenceEngine
from throughtime.program.gradient import everything_wanted, with_residuals
from throughtime.program.tangent import tangent

STEPS = 4
ROUNDING = 1e-12  # float64 sums in a different order


def run_tangent(program, arguments, directions, engine=None):
    """Compute the tangents of all results of a run with its tangent program."""
    given = everything_wanted(program)
    augmented = with_residuals(program, given)
    residuals = run(augmented, arguments, STEPS).outputs
    found = tangent(augmented, given)
    inputs = [arguments.inputs[k] for k in found.inputs] + [residuals[k] for k in found.residuals]
    result = run_on(
        engine or ReferenceEngine(),
        found.program,
        STEPS,
        [*inputs, *(directions.inputs[k] for k in given.vectors)],
        directions.states,
        [*(arguments.parameters[k] for k in found.parameters), *directions.parameters],
    )
    return [*result.outputs[: len(program.outputs)], *result.states, *result.reductions]


def by_torch(program, arguments, directions):
    def all_results(*tensors):
        return tuple(flat(run(program, arguments.like(tensors), STEPS)))

    return list(jvp(all_results, tuple(arguments.flat), tuple(directions.flat))[1])


@pytest.mark.parametrize("name", cells.names())
def test_named_cells_agree_with_torchs_forward_mode(name):
    program = cells.get(name).program(3, 4)
    arguments, directions = random_arguments(program), random_arguments(program, seed=7)
    wanted = by_torch(program, arguments, directions)
    assert_close(run_tangent(program, arguments, directions), wanted, ROUNDING)
    if BUILT:
        assert_close(run_tangent(program, arguments, directions, NativeEngine(1)), wanted, ROUNDING)


@settings(max_examples=60)
@given(programs())
def test_random_programs_agree_with_their_gradient(program):
    # Forward and reverse mode compute the same product with the Jacobian J: <g, J d> = <J^T g, d>.
    arguments, directions = random_arguments(program), random_arguments(program, seed=7)
    cotangents = random_cotangents(run(program, arguments, STEPS))
    forward = run_tangent(program, arguments, directions)
    backward = run_gradient(program, arguments, cotangents, STEPS).flat
    pairs = [(g, d) for g, d in zip(flat(cotangents), forward, strict=True)]
    one = sum((g * d).sum() for g, d in pairs)
    other = sum((g * d).sum() for g, d in zip(backward, directions.flat, strict=True))
    scale = 1 + sum(float((g * d).abs().sum()) for g, d in zip(backward, directions.flat, strict=True))
    assert abs(float(one - other)) <= 1e-11 * scale


@pytest.mark.parametrize("name", ["lstm", "gru", "lstm_layer_norm", "sru"])
def test_named_cells_agree_with_finite_differences(name):
    program = cells.get(name).program(3, 4)
    arguments, directions = random_arguments(program), random_arguments(program, seed=7)

    def moved(distance):
        tensors = [a + distance * d for a, d in zip(arguments.flat, directions.flat, strict=True)]
        return flat(run(program, Arguments.like(arguments, tensors), STEPS))

    h = 1e-4  # error: h^4 times a fifth derivative, plus 1e-16 / h of rounding
    values = {k: moved(k * h) for k in (-2, -1, 1, 2)}
    wanted = [
        (8 * (after - before) - (far_after - far_before)) / (12 * h)
        for far_before, before, after, far_after in zip(*(values[k] for k in (-2, -1, 1, 2)), strict=True)
    ]
    assert_close(run_tangent(program, arguments, directions), wanted, 1e-9)


def test_values_inside_a_program_can_be_perturbed():
    # Perturbing the pre-activations of the gates equals perturbing their bias.
    program = with_residuals(cells.gru.program(3, 4), everything_wanted(cells.gru.program(3, 4)))
    arguments = random_arguments(program)
    bias = next(k for k, p in enumerate(program.parameters) if p.name == "bias")
    leaf = next(id for id, i in enumerate(program.body) if i.op == "parameter" and i["index"] == bias)
    none = everything_wanted(program)
    none = type(none)((), none.states, ())
    found = tangent(program, none, (leaf,))
    residuals = run(program, arguments, STEPS).outputs
    direction = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zeros = arguments.map(torch.zeros_like)
    result = run_on(
        ReferenceEngine(),
        found.program,
        STEPS,
        [
            *(arguments.inputs[k] for k in found.inputs),
            *(residuals[k] for k in found.residuals),
            direction.expand(STEPS, 3, 16),
        ],
        zeros.states,
        [arguments.parameters[k] for k in found.parameters],
    )
    zeros.parameters[bias] = direction
    wanted = run_tangent(cells.gru.program(3, 4), arguments, zeros)
    assert_close(result.outputs[:1], wanted[:1], ROUNDING)

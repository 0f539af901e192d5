"""The gradient of a program is a program that matches torch's autograd and finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import (
    REFERENCE,
    Arguments,
    assert_close,
    autograd_gradient,
    differentiable_run,
    flat,
    random_arguments,
    random_cotangents,
    run,
    run_gradient,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs
from torch import Tensor

from throughtime import cells
from throughtime.engines.reference import ReferenceEngine
from throughtime.errors import ProgramError
from throughtime.language import affine, cell, exp, maximum, relu, select, sigmoid, tanh
from throughtime.program.core import Instruction, Program
from throughtime.program.gradient import RESIDUAL, Slots, everything_given, everything_wanted, gradient, with_residuals
from throughtime.program.legality import require_legal

STEPS, ROWS = 4, 3

# Float64 sums in a different order: some hundred rounding errors of 1e-16.
ROUNDING = 1e-12

named_programs = [
    pytest.param(cells.get(name).program(3, 4, bias=bias), id=f"{name}{'' if bias else ' without bias'}")
    for name in cells.names()
    for bias in (True, False)
] + [pytest.param(cells.lstm.program(3, 4, projection=2), id="lstm with projection")]
# A program without biases has no operation that the one with biases lacks.
with_biases = [program for program in named_programs if not str(program.id).endswith("without bias")]


class Opaque(ReferenceEngine):
    """The reference engine marked as not traceable, so that autograd uses gradient programs."""

    name = "opaque"
    traceable = False


def batch_sizes(steps: int = STEPS, rows: int = ROWS) -> st.SearchStrategy[list[int] | None]:
    sizes = st.lists(st.integers(0, rows), min_size=steps, max_size=steps).map(lambda s: sorted(s, reverse=True))
    return st.none() | sizes


def difference(program: Program, arguments: Arguments, cotangents, direction: Arguments, sizes=None) -> Tensor:
    """Compute the directional derivative of the weighted sum of all results by fourth-order differences."""

    def total(distance: float) -> Tensor:
        moved = arguments.like([a + distance * d for a, d in zip(arguments.flat, direction.flat, strict=True)])
        results = flat(run(program, moved, STEPS, sizes))
        return sum((r * c).sum() for r, c in zip(results, flat(cotangents), strict=True))

    h = 1e-4
    return (8 * (total(h) - total(-h)) - (total(2 * h) - total(-2 * h))) / (12 * h)


# Comparison with autograd.


@pytest.mark.parametrize("program", named_programs)
@pytest.mark.parametrize("sizes", [None, [2, 1, 1, 0]])  # one sequence and one step are empty
def test_named_cells_agree_with_autograd(program, sizes):
    arguments = random_arguments(program)
    cotangents = random_cotangents(run(program, arguments))
    found = run_gradient(program, arguments, cotangents, batch_sizes=sizes)
    wanted = autograd_gradient(program, arguments, cotangents, batch_sizes=sizes)
    assert_close(found.flat, wanted.flat, ROUNDING)


@settings(max_examples=300)
@given(programs(), batch_sizes(), st.integers(0, 5))
def test_random_programs_agree_with_autograd(program, sizes, seed):
    arguments = random_arguments(program, seed=seed)
    cotangents = random_cotangents(run(program, arguments))
    found = run_gradient(program, arguments, cotangents, batch_sizes=sizes)
    wanted = autograd_gradient(program, arguments, cotangents, batch_sizes=sizes)
    assert_close(found.flat, wanted.flat, ROUNDING)


@settings(max_examples=100)
@given(programs(), st.data())
def test_any_subset_of_gradients_can_be_given_and_requested(program, data):
    # Missing output gradients count as zero. A requested gradient doesn't depend on which others are requested.
    def some(of: Slots) -> Slots:
        return Slots(*(tuple(k for k in every if data.draw(st.booleans())) for every in of_slots(of)))

    def of_slots(of: Slots) -> tuple[tuple[int, ...], ...]:
        return of.vectors, of.states, of.arrays

    given_slots, wanted_slots = some(everything_given(program)), some(everything_wanted(program))
    arguments = random_arguments(program)
    cotangents = random_cotangents(run(program, arguments))
    for of, kept in zip(cotangents, of_slots(given_slots), strict=True):
        for k, g in enumerate(of):
            if k not in kept:
                g.zero_()
    found = run_gradient(program, arguments, cotangents, given=given_slots, wanted=wanted_slots)
    wanted = autograd_gradient(program, arguments, cotangents)
    for f, w, kept in zip(found, wanted, of_slots(wanted_slots), strict=True):
        assert_close([f[k] for k in kept], [w[k] for k in kept], ROUNDING)


# Comparison with finite differences.


@pytest.mark.parametrize("program", with_biases)
def test_named_cells_agree_with_finite_differences(program):
    arguments = random_arguments(program)
    cotangents = random_cotangents(run(program, arguments))
    found = run_gradient(program, arguments, cotangents)
    for seed in range(3):
        direction = random_arguments(program, seed=10 + seed)
        inner = sum((g * d).sum() for g, d in zip(found.flat, direction.flat, strict=True))
        # With h = 1e-4, the error is h^4 times a fifth derivative plus 1e-16 / h of rounding.
        torch.testing.assert_close(inner, difference(program, arguments, cotangents, direction), rtol=1e-9, atol=1e-9)


@settings(max_examples=100)
@given(programs(smooth=True, operations=5), batch_sizes())
def test_random_programs_agree_with_finite_differences(program, sizes):
    arguments = random_arguments(program).map(lambda t: t / 2)
    cotangents = random_cotangents(run(program, arguments))
    found = run_gradient(program, arguments, cotangents, batch_sizes=sizes)
    direction = random_arguments(program, seed=10).map(lambda t: t / 10)
    inner = sum((g * d).sum() for g, d in zip(found.flat, direction.flat, strict=True))
    # A state may grow by a factor of about 4 per step, so the fifth derivative may be large.
    by_difference = difference(program, arguments, cotangents, direction, sizes)
    scale = max(1.0, *(float(g.abs().max()) for g in found.flat if g.numel()))
    assert abs(float(inner - by_difference)) <= 1e-6 * scale


@pytest.mark.parametrize("op", ["relu", "max", "select"])
def test_operations_with_a_kink_agree_with_finite_differences_away_from_it(op):
    @cell
    def kinked(x, h):
        a, b = affine("a", x, h), affine("b", x, h)
        h = {"relu": lambda: relu(a), "max": lambda: maximum(a, b), "select": lambda: select(a > b, a * a, b)}[op]()
        return sigmoid(h)

    program = kinked.program(3, 4)
    arguments = random_arguments(program, seed=3)
    cotangents = random_cotangents(run(program, arguments))
    found = run_gradient(program, arguments, cotangents)
    direction = random_arguments(program, seed=10).map(lambda t: t / 100)  # small enough to cross no kink
    inner = sum((g * d).sum() for g, d in zip(found.flat, direction.flat, strict=True))
    torch.testing.assert_close(inner, difference(program, arguments, cotangents, direction), rtol=1e-9, atol=1e-9)


def test_max_splits_the_gradient_equally_between_equal_arguments():
    @cell
    def larger(x, h):
        return maximum(x, h)

    program = larger.program(2, 2)
    same = torch.ones(1, 1, 2, dtype=torch.float64)
    arguments = Arguments([same], [same[0]], [])
    one = torch.ones(1, 2, dtype=torch.float64)
    result = run(program, arguments, steps=1)
    found = run_gradient(program, arguments, result._replace(outputs=[one[None] * 0], states=[one]), steps=1)
    assert_close(found.flat, [0.5 * one[None], 0.5 * one])


# The gradient of the gradient.


@settings(max_examples=60)
@given(programs(operations=6), batch_sizes())
def test_the_gradient_of_a_gradient_program_agrees_with_autograd(program, sizes):
    augmented = with_residuals(program, everything_wanted(program))
    once = gradient(augmented, everything_given(augmented), everything_wanted(augmented)).program
    arguments = random_arguments(once)
    cotangents = random_cotangents(run(once, arguments))
    found = run_gradient(once, arguments, cotangents, batch_sizes=sizes)
    wanted = autograd_gradient(once, arguments, cotangents, batch_sizes=sizes)
    assert_close(found.flat, wanted.flat, ROUNDING)


def second_gradient(engine: ReferenceEngine, program: Program, arguments: Arguments, sizes: list[int] | None):
    """Compute the gradient of a weighted sum of the gradients, through autograd on an engine."""
    leaves = arguments.map(lambda t: t.detach().clone().requires_grad_())
    result = differentiable_run(engine, program, STEPS, *leaves, sizes)
    cotangents = random_cotangents(run(program, arguments))
    # Squares make the first gradient depend on the results.
    loss = sum((c * r + r * r).sum() for r, c in zip(flat(result), flat(cotangents), strict=True))
    weights = random_arguments(program, seed=20).flat
    # Adding 0 times each argument lets autograd differentiate with respect to arguments that the loss doesn't use.
    loss = loss + sum(0 * t.sum() for t in leaves.flat)
    first = torch.autograd.grad(loss, leaves.flat, create_graph=True)
    total = sum((w * g).sum() + 0 * t.sum() for w, g, t in zip(weights, first, leaves.flat, strict=True))
    return [*first, *torch.autograd.grad(total, leaves.flat)]


@settings(max_examples=60)
@given(programs(operations=6, reductions=False), batch_sizes())
def test_double_backward_agrees_with_autograd_of_autograd(program, sizes):
    arguments = random_arguments(program).map(lambda t: t / 2)
    found = second_gradient(Opaque(), program, arguments, sizes)
    wanted = second_gradient(REFERENCE, program, arguments, sizes)
    assert_close(found, wanted, 1e-11)


@pytest.mark.parametrize("program", with_biases)
def test_double_backward_of_named_cells_agrees_with_autograd(program):
    arguments = random_arguments(program)
    assert_close(
        second_gradient(Opaque(), program, arguments, [3, 3, 2, 1]),
        second_gradient(REFERENCE, program, arguments, [3, 3, 2, 1]),
        1e-11,
    )


def test_third_derivatives_agree_with_autograd():
    program = cells.lstm.program(1, 2)
    x, h, c = (torch.full(s, 0.3, dtype=torch.float64) for s in ((STEPS, 1, 1), (1, 2), (1, 2)))
    parameters = random_arguments(program).parameters

    def third(engine: ReferenceEngine) -> Tensor:
        leaf = x.clone().requires_grad_()
        value = differentiable_run(engine, program, STEPS, [leaf], [h, c], parameters).outputs[0].sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = (g * g).sum()
        return g

    assert_close([third(Opaque())], [third(REFERENCE)], 1e-11)


@pytest.mark.parametrize("every", [None, 2])
def test_second_derivatives_are_correct_if_inputs_and_states_depend_on_each_other(every):
    program = cells.gru.program(2, 2)
    x = torch.linspace(-1, 1, STEPS * 2, dtype=torch.float64).view(STEPS, 1, 2)
    parameters = random_arguments(program).parameters

    def second(engine: ReferenceEngine) -> Tensor:
        leaf = x.clone().requires_grad_()
        inside = leaf * leaf
        result = differentiable_run(
            engine, program, STEPS, [inside], [inside.sum(0)], parameters, checkpoint_every=every
        )
        (g,) = torch.autograd.grad(result.outputs[0].square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(g.square().sum(), leaf)[0]

    assert_close([second(Opaque())], [second(REFERENCE)], 1e-11)


# The shape of gradient programs.


def test_the_gradient_of_a_reversed_program_runs_forward():
    program = cells.gru.program(3, 4)
    for forward in (program, program.flipped):
        augmented = with_residuals(forward, everything_wanted(forward))
        backward = gradient(augmented, everything_given(forward), everything_wanted(forward)).program
        assert backward.reverse is not forward.reverse


@given(programs(operations=6))
def test_gradient_programs_are_legal_and_refer_to_the_forward_program_correctly(program):
    wanted = everything_wanted(program)
    augmented = with_residuals(program, wanted)
    assert augmented.outputs[: len(program.outputs)] == program.outputs
    assert all(o.name.startswith(RESIDUAL) for o in augmented.outputs[len(program.outputs) :])
    assert (augmented.body, augmented.states, augmented.parameters) == (
        program.body,
        program.states,
        program.parameters,
    )
    plan = gradient(augmented, everything_given(program), wanted)
    require_legal(plan.program)
    assert [i.width for i in plan.program.inputs] == [
        *(augmented.inputs[k].width for k in plan.inputs),
        *(augmented.body[augmented.outputs[k].value].width for k in plan.residuals),
        *(program.body[o.value].width for o in program.outputs),
    ]
    assert [p.shape for p in plan.program.parameters] == [
        *(program.parameters[k].shape for k in plan.parameters),
        *(r.shape for r in program.reductions),
    ]
    assert [s.width for s in plan.program.states] == [s.width for s in program.states]
    assert [r.shape for r in plan.program.reductions] == [p.shape for p in program.parameters]
    assert [plan.program.body[o.value].width for o in plan.program.outputs] == [i.width for i in program.inputs]


def test_the_tape_of_an_lstm_only_holds_activations_and_states():
    program = cells.lstm.program(3, 4)
    augmented = with_residuals(program, everything_wanted(program))
    assert {o.name for o in augmented.outputs} == {
        "y",  # also the hidden state, which is not stored twice
        *("residual.input", "residual.forget", "residual.candidate", "residual.output"),
        *("residual.hidden.previous", "residual.cell.previous"),
        next(o.name for o in augmented.outputs if augmented.body[o.value].op == "tanh"
             and o.name.startswith("residual.") and o.name != "residual.candidate"),  # tanh of the cell state
    }  # fmt: skip


def test_cheap_values_are_recomputed_regardless_of_the_length_of_the_chain():
    @cell
    def chain(x, h):
        h = tanh(h)
        for _ in range(500):
            h = h * x * 0.5 + 1
        return h

    program = chain.program(2, 2)
    augmented = with_residuals(program, everything_wanted(program))
    assert [o.name for o in augmented.outputs] == [
        "y",
        f"residual.{next(k for k, i in enumerate(program.body) if i.op == 'tanh')}",
    ]
    arguments = random_arguments(program, 1, 1)
    cotangents = random_cotangents(run(program, arguments, 1))
    wanted = autograd_gradient(program, arguments, cotangents, 1)
    assert_close(run_gradient(program, arguments, cotangents, 1).flat, wanted.flat, ROUNDING)


def test_frozen_weights_need_no_residuals_and_no_reductions():
    program = cells.lstm.program(3, 4)
    frozen = Slots(vectors=(0,), states=(0, 1), arrays=())
    augmented = with_residuals(program, frozen)
    assert "residual.hidden.previous" not in {o.name for o in augmented.outputs}
    assert gradient(augmented, everything_given(program), frozen).program.reductions == ()


def test_a_linear_program_needs_no_tape_for_the_gradient_of_its_input():
    @cell
    def sum_of_inputs(x, h):
        return affine("all", x) + h

    program = sum_of_inputs.program(2, 3)
    only_x = Slots(vectors=(0,), states=(), arrays=())
    assert with_residuals(program, only_x) == program


def test_named_values_keep_their_names_in_the_gradient_program():
    program = cells.lstm.program(3, 4)
    augmented = with_residuals(program, everything_wanted(program))
    backward = gradient(augmented, everything_given(program), everything_wanted(program)).program
    for name in ("input", "forget.pre", "cell", "hidden.previous"):
        assert f"{name}.gradient" in backward.values


def test_values_only_used_by_a_mask_have_second_derivatives():
    # The mask is one of the residuals. Its gradient, which is always zero, occurs in the second derivative.
    @cell
    def masked(x, h):
        return select(exp(tanh(x)), x * x, h)

    program = masked.program(2, 2)
    augmented = with_residuals(program, everything_wanted(program))
    require_legal(gradient(augmented, everything_given(augmented), everything_wanted(program)).program)


def test_a_gradient_without_the_residuals_it_needs_raises():
    program = cells.lstm.program(3, 4)
    with pytest.raises(ProgramError, match="with_residuals"):
        gradient(program, everything_given(program), everything_wanted(program))


@pytest.mark.parametrize("slot", list(itertools.product(("vectors", "states", "arrays"), repeat=1)))
def test_each_kind_of_gradient_can_be_requested_alone(slot):
    program = cells.gru.program(3, 4)
    every = everything_wanted(program)
    alone = Slots(**{kind: getattr(every, kind) if kind in slot else () for kind in ("vectors", "states", "arrays")})
    arguments = random_arguments(program)
    cotangents = random_cotangents(run(program, arguments))
    found = run_gradient(program, arguments, cotangents, wanted=alone)
    wanted = autograd_gradient(program, arguments, cotangents)
    for kind, f, w in zip(("vectors", "states", "arrays"), found, wanted, strict=True):
        if kind in slot:
            assert_close(f, w, ROUNDING)


def test_overlapping_slices_add_their_gradients():
    # Values 0..4 and 2..5 of one vector: elements 2 and 3 are read twice, element 5 never.
    base = cells.rnn.program(6, 6)
    body = (
        Instruction("input", (), 6, (("index", 0),)),
        Instruction("slice", (0,), 4, (("start", 0),)),
        Instruction("slice", (0,), 3, (("start", 2),)),
    )
    program = Program(
        name="overlap",
        inputs=base.inputs,
        states=(base.states[0].__class__("s", 4, 0.0, 1),),
        body=body,
        outputs=(base.outputs[0].__class__("y", 2),),
    )
    arguments = random_arguments(program, 1, 1)
    result = run(program, arguments, steps=1)
    found = run_gradient(program, arguments, result.__class__(*([torch.ones_like(t) for t in of] for of in result)), 1)
    assert found.inputs[0][0, 0].tolist() == [1, 1, 2, 2, 1, 0]


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_single_step_computes_the_same_gradients_without_those_of_other_states(name: str) -> None:
    program = cells.get(name).program(3, 4)
    arguments = random_arguments(program, 1, ROWS)
    wanted = Slots((0,), (), tuple(range(len(program.parameters))))
    found = []
    for single_step in (False, True):
        augmented = with_residuals(program, wanted, single_step=single_step)
        plan = gradient(augmented, everything_given(program), wanted, single_step=single_step)
        assert ("weight_h" in [program.parameters[k].name for k in plan.parameters]) == (not single_step)
        result = run(augmented, arguments, 1)
        cotangents = [torch.ones_like(y) for y in result.outputs[: len(program.outputs)]]
        read = [arguments.inputs[k] for k in plan.inputs] + [result.outputs[k] for k in plan.residuals] + cotangents
        weights = [arguments.parameters[k] for k in plan.parameters]
        back = Arguments(read, [torch.ones_like(s) for s in result.states], weights)
        gradients = run(plan.program, back, 1)
        found.append([*gradients.outputs, *gradients.reductions])
    assert_close(found[1], found[0], ROUNDING)

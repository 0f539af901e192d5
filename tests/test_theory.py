"""Theorems about recurrent networks hold for the implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import REFERENCE, Arguments, assert_close, random_arguments, run, run_on
from torch import Tensor

from throughtime import cells
from throughtime.program.core import Program


def gates(program: Program, parameter: str) -> dict[str, slice]:
    """Map gates to their rows of a parameter."""
    (found,) = (p for p in program.parameters if p.name == parameter)
    return {part.gate: slice(part.start, part.stop) for part in found.parts}


def value(program: Program, arguments: Arguments, parameter: str) -> Tensor:
    return arguments.parameters[[p.name for p in program.parameters].index(parameter)]


def test_one_step_of_the_rnn_matches_the_textbook_equations():
    # a(t) = tanh(Wx x(t) + Wa a(t-1) + ba),  y(t) = softmax(Wy a(t) + by)
    random = np.random.default_rng(0)
    x, a, ba = random.normal(size=3), random.normal(size=4), random.normal(size=4)
    wx, wa = random.normal(size=(4, 3)), random.normal(size=(4, 4))
    wy, by = random.normal(size=(5, 4)), random.normal(size=5)
    by_hand = np.tanh(wx @ x + wa @ a + ba)
    logits = wy @ by_hand + by
    distribution = np.exp(logits) / np.exp(logits).sum()

    program = cells.rnn.program(3, 4)
    assert [p.name for p in program.parameters] == ["weight_x", "weight_h", "bias"]
    result = run_on(
        REFERENCE,
        program,
        1,
        [torch.from_numpy(x).view(1, 1, 3)],
        [torch.from_numpy(a).view(1, 4)],
        [torch.from_numpy(p) for p in (wx, wa, ba)],
    )
    output = result.outputs[0][0, 0]
    np.testing.assert_allclose(output, by_hand, rtol=1e-14)
    np.testing.assert_allclose(result.states[0][0], by_hand, rtol=1e-14)
    np.testing.assert_allclose(
        torch.softmax(torch.from_numpy(wy) @ output + torch.from_numpy(by), -1), distribution, rtol=1e-14
    )


@pytest.mark.parametrize("name", cells.names())
def test_the_total_loss_and_its_gradient_are_sums_over_steps(name):
    # The contribution of step t is the gradient of L(t).
    program = cells.get(name).program(3, 4)
    steps = 6
    arguments = random_arguments(program, steps).map(lambda t: t.requires_grad_())
    targets = torch.arange(steps * 3).view(steps, 3) % 4

    def losses() -> Tensor:
        y = run(program, arguments, steps).outputs[0]
        each = torch.nn.functional.cross_entropy(y.flatten(0, 1), targets.flatten(), reduction="none")
        return each.view(steps, 3).sum(1)

    whole = torch.nn.functional.cross_entropy(
        run(program, arguments, steps).outputs[0].flatten(0, 1), targets.flatten(), reduction="sum"
    )
    assert_close([losses().sum()], [whole], 1e-14)
    gradient = torch.autograd.grad(whole, arguments.parameters)
    of_steps = [torch.autograd.grad(losses()[t], arguments.parameters) for t in range(steps)]
    assert_close([sum(of) for of in zip(*of_steps, strict=True)], gradient, 1e-14)


@pytest.mark.parametrize("name", cells.names())
def test_the_gradient_of_the_last_loss_is_the_sum_of_contributions_of_each_step(name):
    # dL(T)/dW = sum over t of dL(T)/dW(t), where W(t) is a copy of W that is only used at step t.
    program = cells.get(name).program(3, 4)
    steps = 6
    arguments = random_arguments(program, steps)
    shared = [p.clone().requires_grad_() for p in arguments.parameters]
    last = run_on(REFERENCE, program, steps, arguments.inputs, arguments.states, shared).outputs[0][-1]
    whole = torch.autograd.grad((last**2).sum(), shared)

    copies = [[p.clone().requires_grad_() for p in arguments.parameters] for _ in range(steps)]
    states = arguments.states
    for t, own in enumerate(copies):
        result = run_on(REFERENCE, program, 1, [x[t : t + 1] for x in arguments.inputs], states, own)
        states = result.states
    loss = (result.outputs[0][-1] ** 2).sum()
    # Parameters that only affect the output contribute nothing through earlier steps.
    through = [
        torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True, materialize_grads=True) for own in copies
    ]
    assert_close([sum(of) for of in zip(*through, strict=True)], whole, 1e-13)
    assert all(any(g.abs().max() > 0 for g in step) for step in through)


def test_a_gru_with_update_gate_0_and_reset_gate_1_equals_the_simple_rnn():
    gru, rnn = cells.gru.program(3, 4), cells.rnn.program(3, 4)
    arguments = random_arguments(gru, 20)
    bias = gates(gru, "bias")
    # The biases set the gates: sigmoid(-1000) is exactly 0, and sigmoid(1000) is exactly 1.
    value(gru, arguments, "bias")[bias["update"]] = -1000.0
    value(gru, arguments, "bias")[bias["reset"]] = 1000.0
    found = run(gru, arguments, 20)

    weight_x = value(gru, arguments, "weight_x")[gates(gru, "weight_x")["candidate"]]
    weight_h = value(gru, arguments, "weight_h")[gates(gru, "weight_h")["candidate.recurrent"]]
    both = value(gru, arguments, "bias")[bias["candidate"]] + value(gru, arguments, "bias")[bias["candidate.recurrent"]]
    wanted = run_on(REFERENCE, rnn, 20, arguments.inputs, arguments.states, [weight_x, weight_h, both])
    assert_close(found.outputs, wanted.outputs, 1e-14)


def lstm_with_gates(steps: int, **biases: float) -> tuple[Program, Arguments]:
    """Make an LSTM whose gates are saturated by large biases."""
    program = cells.lstm.program(3, 4)
    arguments = random_arguments(program, steps)
    for gate, bias in biases.items():
        value(program, arguments, "bias")[gates(program, "bias")[gate]] = bias
    return program, arguments


def test_with_forget_gate_1_and_input_gate_0_the_cell_state_and_its_gradient_survive_1000_steps():
    program, arguments = lstm_with_gates(1000, forget=1000.0, input=-1000.0)
    cell = arguments.states[1].clone().requires_grad_()
    result = run_on(REFERENCE, program, 1000, arguments.inputs, [arguments.states[0], cell], arguments.parameters)
    assert torch.equal(result.states[1], cell)
    weights = torch.randn(3, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((result.states[1] * weights).sum(), cell)
    assert torch.equal(gradient, weights)


def test_a_forget_gate_of_0_forgets_the_past():
    program, arguments = lstm_with_gates(2, forget=-1000.0)
    # A zero recurrent matrix leaves the cell state as the only connection to the past.
    value(program, arguments, "weight_h").zero_()
    cell = arguments.states[1].clone().requires_grad_()
    x = arguments.inputs[0].clone().requires_grad_()
    result = run_on(REFERENCE, program, 2, [x], [arguments.states[0], cell], arguments.parameters)
    of_cell, of_x = torch.autograd.grad(result.states[1].sum(), (cell, x))
    assert (of_cell == 0).all()
    assert (of_x[0] == 0).all()
    assert (of_x[1] != 0).any()
    other = run_on(REFERENCE, program, 2, [x], [arguments.states[0], cell + 5], arguments.parameters)
    assert torch.equal(result.states[1], other.states[1])


def gradient_at_lags(scale: float, steps: int) -> list[float]:
    """Return the gradient norms of the last state of a plain RNN with respect to the state at each lag.

    The recurrent matrix is `scale` times a rotation, so all its singular values are `scale`. The input is zero, and the
    state is so small that tanh is the identity.
    """
    program = cells.rnn.program(1, 8)
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    zero = torch.zeros
    parameters = [zero(8, 1).double(), scale * rotation, zero(8).double()]
    direction = torch.randn(1, 8, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    norms = []
    for lag in range(steps):
        h = torch.full((1, 8), 1e-20, dtype=torch.float64, requires_grad=True)
        result = run_on(REFERENCE, program, lag, [zero(lag, 1, 1).double()], [h], parameters)
        (gradient,) = torch.autograd.grad((result.states[0] * direction).sum(), h)
        norms.append(float(gradient.norm()))
    return norms


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.1, 2.0])
def test_the_gradient_of_the_plain_rnn_changes_geometrically_with_the_lag(scale):
    norms = gradient_at_lags(scale, 30)
    np.testing.assert_allclose(norms, [scale**lag for lag in range(30)], rtol=1e-9)


def test_with_singular_values_below_1_the_gradient_vanishes_for_any_input():
    # tanh' <= 1, so the bound holds at any state. The random inputs drive the units hard.
    program = cells.rnn.program(3, 8)
    arguments = random_arguments(program, 40)
    weight = value(program, arguments, "weight_h")
    weight *= 0.8 / torch.linalg.matrix_norm(weight, 2)
    h = arguments.states[0].clone().requires_grad_()
    result = run_on(REFERENCE, program, 40, arguments.inputs, [h], arguments.parameters)
    (gradient,) = torch.autograd.grad(result.states[0][0, 0], h)
    assert 0 < gradient.norm() <= 0.8**40


def test_clipping_bounds_an_exploding_gradient_and_keeps_its_direction():
    program = cells.rnn.program(1, 8)
    arguments = random_arguments(program, 60).map(lambda t: t * 1e-40)
    value(program, arguments, "weight_h").copy_(3 * torch.eye(8))
    parameter = torch.nn.Parameter(value(program, arguments, "weight_h"))
    result = run_on(
        REFERENCE,
        program,
        60,
        arguments.inputs,
        arguments.states,
        [arguments.parameters[0], parameter, arguments.parameters[2]],
    )
    (1e40 * result.states[0]).sum().backward()
    before = parameter.grad.clone()
    assert before.norm() > 1e20
    torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    assert float(parameter.grad.norm()) == pytest.approx(1.0, rel=1e-5)
    assert_close([parameter.grad], [before / before.norm()], 1e-5)

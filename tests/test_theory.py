"""What the theory of recurrent networks says, asked of the code itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import REFERENCE, Arguments, assert_close, random_arguments, run, run_on
from torch import Tensor

from throughtime import cells
from throughtime.program.core import Program


def gates(program: Program, parameter: str) -> dict[str, slice]:
    """The rows of a parameter by the gates they belong to."""
    (found,) = (p for p in program.parameters if p.name == parameter)
    return {part.gate: slice(part.start, part.stop) for part in found.parts}


def value(program: Program, arguments: Arguments, parameter: str) -> Tensor:
    return arguments.parameters[[p.name for p in program.parameters].index(parameter)]


def test_one_step_of_the_rnn_by_hand():
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
def test_the_total_loss_is_the_sum_of_the_steps_losses_and_so_is_its_gradient(name):
    # The contribution of step t: the gradient of L(t) alone.
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
def test_the_gradient_of_the_last_loss_is_the_sum_of_the_contributions_through_each_step(name):
    # dL(T)/dW = sum over t of dL(T)/dW(t), where W(t) is a copy of W that is used at step t alone.
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
    # What feeds the output alone has no part in what earlier steps contribute.
    through = [
        torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True, materialize_grads=True) for own in copies
    ]
    assert_close([sum(of) for of in zip(*through, strict=True)], whole, 1e-13)
    assert all(any(g.abs().max() > 0 for g in step) for step in through)


def test_a_gru_with_update_gate_0_and_reset_gate_1_is_the_simple_rnn():
    gru, rnn = cells.gru.program(3, 4), cells.rnn.program(3, 4)
    arguments = random_arguments(gru, 20)
    bias = gates(gru, "bias")
    # Through the biases: sigmoid(-1000) is 0 and sigmoid(1000) is 1, exactly.
    value(gru, arguments, "bias")[bias["update"]] = -1000.0
    value(gru, arguments, "bias")[bias["reset"]] = 1000.0
    found = run(gru, arguments, 20)

    weight_x = value(gru, arguments, "weight_x")[gates(gru, "weight_x")["candidate"]]
    weight_h = value(gru, arguments, "weight_h")[gates(gru, "weight_h")["candidate.recurrent"]]
    both = value(gru, arguments, "bias")[bias["candidate"]] + value(gru, arguments, "bias")[bias["candidate.recurrent"]]
    wanted = run_on(REFERENCE, rnn, 20, arguments.inputs, arguments.states, [weight_x, weight_h, both])
    assert_close(found.outputs, wanted.outputs, 1e-14)


def lstm_with_gates(steps: int, **biases: float) -> tuple[Program, Arguments]:
    """An LSTM whose gates are held by their biases."""
    program = cells.lstm.program(3, 4)
    arguments = random_arguments(program, steps)
    for gate, bias in biases.items():
        value(program, arguments, "bias")[gates(program, "bias")[gate]] = bias
    return program, arguments


def test_with_forget_gate_1_and_input_gate_0_the_cell_state_passes_through_1000_steps_and_so_does_its_gradient():
    program, arguments = lstm_with_gates(1000, forget=1000.0, input=-1000.0)
    cell = arguments.states[1].clone().requires_grad_()
    result = run_on(REFERENCE, program, 1000, arguments.inputs, [arguments.states[0], cell], arguments.parameters)
    assert torch.equal(result.states[1], cell)
    weights = torch.randn(3, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((result.states[1] * weights).sum(), cell)
    assert torch.equal(gradient, weights)


def test_with_forget_gate_0_nothing_of_the_past_remains():
    program, arguments = lstm_with_gates(2, forget=-1000.0)
    # The recurrent matrix is the other way from the past; closed, only the cell state could carry it.
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
    """The norm of the gradient of the last state with respect to the state at each lag, for a plain RNN.

    The recurrent matrix is `scale` times a rotation, so all its singular values are `scale`; no input, and a state so
    small that tanh is the identity.
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
def test_the_gradient_of_the_plain_rnn_shrinks_or_grows_geometrically_with_the_lag(scale):
    norms = gradient_at_lags(scale, 30)
    np.testing.assert_allclose(norms, [scale**lag for lag in range(30)], rtol=1e-9)


def test_with_singular_values_below_1_no_input_can_keep_the_gradient_from_vanishing():
    # tanh' <= 1, so the bound holds at any state; here the units are driven hard.
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

"""Saturation and timescales of gates, and what is read off a cell's equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sight_helpers import one_step

from throughtime import Recurrent, cells
from throughtime.errors import UserError
from throughtime.language import affine, cell, sigmoid, tanh
from throughtime.sight import gates, retention_gates, saturation, timescale


def test_saturation_counts_the_steps_of_all_rows_under_and_over_the_bounds():
    values = np.array([[[0.0, 0.05, 0.5], [1.0, 0.1, 0.95]], [[0.2, 0.09, 0.91], [0.9, 0.95, 0.99]]])
    found = saturation(values)
    np.testing.assert_array_equal(found.low, [0.25, 0.5, 0.0])  # 0.1 itself is not under 0.1
    np.testing.assert_array_equal(found.high, [0.25, 0.25, 0.75])
    one_stream = saturation(torch.tensor(values[:, 0]))
    np.testing.assert_array_equal(one_stream.low, [0.5, 1.0, 0.0])
    np.testing.assert_array_equal(saturation(values, 0.3, 0.6).high, [0.5, 0.25, 0.75])


@given(st.floats(0.01, 0.999))
def test_a_constant_gate_keeps_for_as_long_as_its_decay_takes(gate):
    found = timescale(np.full((5, 2, 1), gate))
    assert gate ** found.steps[0] == pytest.approx(np.exp(-1))
    assert found.leak[0] == pytest.approx(1 / (1 - gate))
    assert timescale(np.full((5, 2, 1), 1 - gate), keeps="complement").steps == pytest.approx(found.steps, rel=1e-9)


def test_the_timescale_of_a_gate_that_changes_is_that_of_the_product_of_its_values():
    """What a linear state h' = f h has left after n steps says it directly."""
    values = np.random.default_rng(0).uniform(0.5, 1, (400, 1, 3))
    left = np.prod(values, 0)[0]
    np.testing.assert_allclose(np.exp(-400 / timescale(values).steps), left, rtol=1e-9)


def test_a_gate_that_is_shut_once_keeps_nothing_and_one_that_is_always_open_keeps_for_ever():
    found = timescale(np.array([[[1.0, 0.0]], [[1.0, 1.0]]]))
    assert found.steps[0] == np.inf
    assert found.steps[1] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 1, 1), 1.5), r"from 0 to 1; given 1.5 to 1.5"),
        (np.full((2, 1, 1), np.nan), "finite; 2 of 2 are not"),
        (np.zeros(3), r"\[T, B, H\], with at least one of each; given \[3\]"),
        (np.zeros((0, 1, 1)), "at least one of each"),
        (np.array([["a"]]), "must be numbers"),
    ],
)
def test_what_is_no_gate_is_refused(values, message):
    for function in (saturation, timescale):
        with pytest.raises(UserError, match=message):
            function(values)


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="in order"):
        saturation(np.zeros((1, 1)), 0.9, 0.1)
    with pytest.raises(UserError, match="given 'update'"):
        timescale(np.zeros((1, 1)), keeps="update")


def program(name):
    return cells.get(name).program(3, 4)


def test_gates_are_the_values_between_0_and_1():
    assert gates(program("lstm")) == ["input", "forget", "output"]
    assert gates(program("gru")) == ["reset", "update"]
    assert gates(program("rnn")) == []


def test_the_gate_that_keeps_a_state_is_read_off_the_equations():
    assert retention_gates(program("lstm")) == (("cell", "forget", "gate"),)
    assert retention_gates(program("gru")) == (("hidden", "update", "gate"),)
    assert retention_gates(program("rnn")) == ()


@cell
def swapped(x, h, m):
    """Gates as some papers have them."""
    z = sigmoid(affine("update", x, h))
    k = sigmoid(affine("key", x))
    n = tanh(affine("candidate", x, h))
    h = h + z * (n - h)
    m = (1 - k) * n + k * m * 0.5
    return h, m


def test_a_complement_is_told_and_what_is_more_than_one_gate_is_left_out():
    assert gates(swapped.program(3, 4)) == ["update", "key"]
    assert retention_gates(swapped.program(3, 4)) == (("hidden", "update", "complement"),)


@pytest.mark.parametrize("name", cells.names())
def test_what_is_read_off_any_cell_is_so_when_it_runs(name):
    """Gates stay between 0 and 1, and a state moves by its gate's share of its old value alone."""
    torch.manual_seed(0)
    module = Recurrent(name, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    step, parameters = module.layers()[0][0]
    states = [torch.randn(2, s.width, dtype=torch.float64) for s in step.states]
    x = torch.randn(2, 3, dtype=torch.float64)
    olds = [s.clone().requires_grad_() for s in states]
    body = one_step(step, x, olds, parameters)
    named = {label: body[id].detach() for label, id in step.names}
    for gate in gates(step):
        assert 0 <= float(named[gate].min()) < float(named[gate].max()) <= 1
    # The old state's own share: its derivative while what is no sum or product (gates, matrices) is held.
    direct = ("previous", "add", "sub", "mul", "neg")
    held = {id: v.detach() for id, (v, i) in enumerate(zip(body, step.body, strict=True)) if i.op not in direct}
    again = one_step(step, x, olds, parameters, held)
    for state, gate, keeps in retention_gates(step):
        number = [s.name for s in step.states].index(state)
        share = torch.autograd.grad(again[step.states[number].next].sum(), olds[number], retain_graph=True)[0]
        torch.testing.assert_close(share, named[gate] if keeps == "gate" else 1 - named[gate])

"""Saturation and timescales of gates, and the gates derived from a cell's equations."""

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


def test_saturation_counts_steps_below_and_above_the_bounds():
    values = np.array([[[0.0, 0.05, 0.5], [1.0, 0.1, 0.95]], [[0.2, 0.09, 0.91], [0.9, 0.95, 0.99]]])
    found = saturation(values)
    np.testing.assert_array_equal(found.low, [0.25, 0.5, 0.0])  # 0.1 itself is not below 0.1
    np.testing.assert_array_equal(found.high, [0.25, 0.25, 0.75])
    one_stream = saturation(torch.tensor(values[:, 0]))
    np.testing.assert_array_equal(one_stream.low, [0.5, 1.0, 0.0])
    np.testing.assert_array_equal(saturation(values, 0.3, 0.6).high, [0.5, 0.25, 0.75])


@given(st.floats(0.01, 0.999))
def test_timescale_of_a_constant_gate_is_its_decay_time(gate):
    found = timescale(np.full((5, 2, 1), gate))
    assert gate ** found.steps[0] == pytest.approx(np.exp(-1))
    assert found.leak[0] == pytest.approx(1 / (1 - gate))
    assert timescale(np.full((5, 2, 1), 1 - gate), keeps="complement").steps == pytest.approx(found.steps, rel=1e-9)


def test_timescale_of_a_changing_gate_follows_the_product_of_its_values():
    """The reference is the fraction that remains after n steps of a linear state h' = f h."""
    values = np.random.default_rng(0).uniform(0.5, 1, (400, 1, 3))
    left = np.prod(values, 0)[0]
    np.testing.assert_allclose(np.exp(-400 / timescale(values).steps), left, rtol=1e-9)


def test_a_gate_shut_once_retains_nothing_and_one_always_open_retains_forever():
    found = timescale(np.array([[[1.0, 0.0]], [[1.0, 1.0]]]))
    assert found.steps[0] == np.inf
    assert found.steps[1] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 1, 1), 1.5), r"from 0 to 1, got 1.5 to 1.5"),
        (np.full((2, 1, 1), np.nan), "finite; 2 of 2 are not"),
        (np.zeros(3), r"\[T, B, H\], each axis non-empty; got \[3\]"),
        (np.zeros((0, 1, 1)), "each axis non-empty"),
        (np.array([["a"]]), "must be numbers"),
    ],
)
def test_values_that_are_not_a_gates_raise(values, message):
    for function in (saturation, timescale):
        with pytest.raises(UserError, match=message):
            function(values)


def test_invalid_options_raise():
    with pytest.raises(UserError, match="below < above"):
        saturation(np.zeros((1, 1)), 0.9, 0.1)
    with pytest.raises(UserError, match="got 'update'"):
        timescale(np.zeros((1, 1)), keeps="update")


def program(name):
    return cells.get(name).program(3, 4)


def test_gates_are_the_values_between_0_and_1():
    assert gates(program("lstm")) == ["input", "forget", "output"]
    assert gates(program("gru")) == ["reset", "update"]
    assert gates(program("rnn")) == []


def test_retention_gates_are_derived_from_the_equations():
    assert retention_gates(program("lstm")) == (("cell", "forget", "gate"),)
    assert retention_gates(program("gru")) == (("hidden", "update", "gate"),)
    assert retention_gates(program("rnn")) == ()


@cell
def swapped(x, h, m):
    """A cell with update gates in the convention of some papers."""
    z = sigmoid(affine("update", x, h))
    k = sigmoid(affine("key", x))
    n = tanh(affine("candidate", x, h))
    h = h + z * (n - h)
    m = (1 - k) * n + k * m * 0.5
    return h, m


def test_complements_are_recognized_and_products_of_gates_are_omitted():
    assert gates(swapped.program(3, 4)) == ["update", "key"]
    assert retention_gates(swapped.program(3, 4)) == (("hidden", "update", "complement"),)


@pytest.mark.parametrize("name", cells.names())
def test_derived_gates_hold_when_the_cell_runs(name):
    """Gates stay between 0 and 1, and the old state's direct derivative is its retention gate or 1 minus it."""
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
    # The old state's direct share: its derivative with gates and matrix products held constant.
    direct = ("previous", "add", "sub", "mul", "neg")
    held = {id: v.detach() for id, (v, i) in enumerate(zip(body, step.body, strict=True)) if i.op not in direct}
    again = one_step(step, x, olds, parameters, held)
    for state, gate, keeps in retention_gates(step):
        number = [s.name for s in step.states].index(state)
        share = torch.autograd.grad(again[step.states[number].next].sum(), olds[number], retain_graph=True)[0]
        torch.testing.assert_close(share, named[gate] if keeps == "gate" else 1 - named[gate])

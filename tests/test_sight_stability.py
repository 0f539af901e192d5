"""Lyapunov exponents and fixed points, compared with autograd Jacobians and with systems whose results are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import run_on
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime import LSTM, Recurrent, cells
from throughtime.errors import UserError
from throughtime.language import cell, linear
from throughtime.nn.language_model import LanguageModel
from throughtime.sight import fixed_points, lyapunov


@cell
def linear_system(x, h):
    """A linear cell: h' = A h + B x."""
    h = linear("state", h) + linear("drive", x)
    return h


def linear_module(matrix: torch.Tensor) -> Recurrent:
    n = len(matrix)
    module = Recurrent(linear_system, n, n, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(matrix if name == "weight_h_l0" else torch.eye(n))
    return module


@given(
    moduli=st.lists(st.floats(0.05, 1.5), min_size=2, max_size=4, unique_by=lambda m: round(m, 2)),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_exponents_of_a_linear_system_are_its_log_eigenvalues(moduli, seed):
    """The matrix is symmetric, so the vectors align at once; the remaining error decreases as 1 / T."""
    n = len(moduli)
    basis = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    module = linear_module(basis @ torch.diag(torch.tensor(moduli, dtype=torch.float64)) @ basis.T)
    found = lyapunov(module, torch.zeros(1200, 1, n, dtype=torch.float64), skip=500)
    np.testing.assert_allclose(found.all, np.sort(np.log(moduli))[::-1], atol=1e-2)
    assert found.steps == 200


def test_exponents_of_a_shrinking_rotation_are_its_log_modulus_twice():
    angle, modulus = 0.7, 0.9
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    module = linear_module(modulus * torch.tensor(turn, dtype=torch.float64))
    found = lyapunov(module, torch.zeros(50, 2, 2, dtype=torch.float64))
    np.testing.assert_allclose(found.all, [np.log(modulus)] * 2, rtol=1e-12)
    assert found.dimension == 0
    assert found.entropy_rate == 0
    np.testing.assert_allclose(found.spread["layer0"], 0, atol=1e-14)


def jacobians(module: Recurrent, x: torch.Tensor, depth: int) -> list[torch.Tensor]:
    """Compute the Jacobian of a layer at each step of the first sequence by autograd through the reference engine."""
    below = x[:, :1]
    if depth:
        lower = Recurrent.from_programs(module.programs[:depth], module.hidden_size, dtype=x.dtype)
        lower.load_state_dict({name: dict(module.named_parameters())[name] for name in dict(lower.named_parameters())})
        below = lower(below)[0].detach()
    program, parameters = module.layers()[depth][0]
    from helpers import REFERENCE

    widths = [s.width for s in program.states]
    state = torch.cat([torch.full((1, s.width), s.initial, dtype=x.dtype) for s in program.states], -1)[0]
    found = []
    for t in range(len(x)):

        def step(flat, t=t):
            states = [part[None] for part in flat.split(widths)]
            return torch.cat(run_on(REFERENCE, program, 1, [below[t : t + 1]], states, parameters).states, -1)[0]

        found.append(torch.autograd.functional.jacobian(step, state).detach())
        state = step(state).detach()
    return found


def by_qr(matrices: list[torch.Tensor]) -> np.ndarray:
    """Benettin's method, forward in time."""
    q = torch.linalg.qr(torch.randn(len(matrices[0]), len(matrices[0]), dtype=torch.float64))[0]
    total = 0
    for matrix in matrices:
        q, r = torch.linalg.qr(matrix @ q)
        total = total + r.diagonal().abs().log()
    return np.sort((total / len(matrices)).numpy())[::-1]


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("depth", [0, 1])
def test_exponents_match_autograd_jacobians(name, depth):
    """QR from the other end differs only in the transient, which decreases as 1 / T; 0.05 at 200 steps is ample."""
    torch.manual_seed(1)
    module = Recurrent(name, 3, 3, num_layers=2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    x = torch.randn(200, 2, 3, dtype=torch.float64)
    found = lyapunov(module, x[:, :1])
    matrices = jacobians(module, x, depth)
    np.testing.assert_allclose(found.layers[f"layer{depth}"], by_qr(matrices), atol=0.05)
    # The sum has no transient: it is the mean log determinant.
    volume = np.mean([float(torch.linalg.slogdet(m).logabsdet) for m in matrices])
    assert found.layers[f"layer{depth}"].sum() == pytest.approx(volume, rel=1e-9)


def test_interval_and_count_preserve_the_leading_exponents():
    torch.manual_seed(0)
    module = Recurrent("gru", 3, 6, dtype=torch.float64)
    x = torch.randn(303, 1, 3, dtype=torch.float64)
    whole = lyapunov(module, x).all
    np.testing.assert_allclose(lyapunov(module, x, interval=4).all, whole, atol=1e-9)
    # The first columns of Q do not depend on the others; a different start changes results by 1 / T.
    np.testing.assert_allclose(lyapunov(module, x, count=2).all, whole[:2], atol=0.02)


def test_dimension_interpolates_where_the_sum_crosses_0():
    module = linear_module(torch.diag(torch.tensor([2.0, 1.0, 0.25, 0.1], dtype=torch.float64)))
    with torch.no_grad():
        module.weight_x_l0.zero_()
    found = lyapunov(module, torch.zeros(60, 1, 4, dtype=torch.float64), skip=20)
    assert found.dimension == pytest.approx(2 + np.log(2) / np.log(4), rel=0.05)
    assert found.entropy_rate == pytest.approx(np.log(2), rel=0.05)
    assert found.largest == pytest.approx(np.log(2), rel=0.05)
    assert lyapunov(module, torch.zeros(60, 1, 4, dtype=torch.float64), skip=20, count=2).dimension == 2


@pytest.mark.parametrize("name", cells.names())
def test_exponents_of_any_cell_are_finite_on_either_engine(name):
    found = []
    for engine in ("native", "reference"):
        torch.manual_seed(0)
        module = Recurrent(name, 3, 4, engine=engine)
        found.append(lyapunov(module, torch.randn(12, 2, 3)).all)
        assert np.isfinite(found[-1]).all()
    # The run is in float32, so tiny values differ between engines and are not compared.
    large = found[0] > -6
    np.testing.assert_allclose(found[0][large], found[1][large], atol=1e-2)


def test_lyapunov_rejects_invalid_arguments():
    module = Recurrent("gru", 3, 4)
    x = torch.randn(5, 1, 3)
    for options, message in (
        ({"skip": 3}, "skipping 3 steps at the beginning and at the end of 5 leaves none"),
        ({"skip": -1}, "skip must be an integer >= 0"),
        ({"interval": 0}, "interval must be an integer >= 1"),
        ({"count": 0}, "count must be a positive integer"),
    ):
        with pytest.raises(UserError, match=message):
            lyapunov(module, x, **options)
    with pytest.raises(UserError, match="unidirectional"):
        lyapunov(Recurrent("gru", 3, 4, bidirectional=True), x)


# Fixed points.

ROOT = 0.9575040240772687  # of h = tanh(2 h)


def two_switches(layers: type = Recurrent):
    """Two units that each store a sign: h' = tanh(2 h), with fixed points at 0 and at +-ROOT."""
    module = Recurrent("rnn", 1, 2, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(2 * torch.eye(2) if name == "weight_h_l0" else torch.zeros_like(parameter))
    return module


def test_all_fixed_points_of_a_known_network_are_found():
    starts = torch.cartesian_prod(*[torch.linspace(-1.2, 1.2, 13, dtype=torch.float64)] * 2)[None]
    found = fixed_points(two_switches(), starts)
    assert len(found) == 9
    expected = {(a, b) for a in (-ROOT, 0, ROOT) for b in (-ROOT, 0, ROOT)}
    for state, eigenvalues, unstable in zip(found.states, found.eigenvalues, found.unstable, strict=True):
        nearest = min(expected, key=lambda p: np.hypot(*(state - p)))
        np.testing.assert_allclose(state, nearest, atol=1e-7)
        slopes = sorted((2 * (1 - h * h) for h in nearest), reverse=True)  # tanh' = 1 - tanh^2
        np.testing.assert_allclose(eigenvalues, slopes, atol=1e-6)
        assert unstable == nearest.count(0)
        expected.remove(nearest)
    assert found.counts.sum() == 169
    assert (found.speeds <= 1e-16).all()
    assert found.stable.sum() == 4


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_fixed_point_of_a_stack_is_stationary_and_its_eigenvalues_match_autograd(name):
    torch.manual_seed(2)
    module = Recurrent(name, 3, 4, num_layers=2, dtype=torch.float64)
    x = torch.randn(3, dtype=torch.float64)
    _, start = module(torch.randn(6, 3, 3, dtype=torch.float64))
    found = fixed_points(module, start, x)
    assert len(found) == 1
    assert found.counts.tolist() == [3]
    assert next(iter(found.parts)) == "layer0.hidden"
    # running the stack for a long time with this input converges to the point
    _, rest = module(x.expand(3000, 1, 3))
    rest = [rest] if name == "gru" else list(rest)
    flat = torch.cat([s[depth, 0] for depth in range(2) for s in rest]).detach()
    np.testing.assert_allclose(found.states[0], flat, atol=1e-7)

    reference = Recurrent(name, 3, 4, num_layers=2, dtype=torch.float64, engine="reference")
    reference.load_state_dict(module.state_dict())

    def step(flat):
        parts = flat.split(4)
        each = len(rest)
        states = tuple(torch.stack(parts[k::each])[:, None] for k in range(each))
        _, final = reference(x[None, None], states[0] if each == 1 else states)
        final = [final] if each == 1 else final
        return torch.cat([s[depth, 0] for depth in range(2) for s in final])

    wanted = torch.linalg.eigvals(torch.autograd.functional.jacobian(step, torch.tensor(found.states[0])))
    np.testing.assert_allclose(np.abs(found.eigenvalues[0]), np.sort(wanted.abs().numpy())[::-1], atol=1e-9)


def test_states_may_be_recorded_values():
    module = two_switches()
    values = {"layer0.hidden": np.array([[[0.5, -0.5]], [[0.8, 0.9]]])}
    found = fixed_points(module, values)
    np.testing.assert_allclose(np.abs(found.states), ROOT, atol=1e-7)
    assert len(found) == 2


def test_slow_points_are_kept_only_if_speed_allows():
    module = two_switches()
    with torch.no_grad():
        module.weight_h_l0.copy_(torch.eye(2))  # h' = tanh(h + 0.1): slows down near a ghost of a fixed point at 0
        module.bias_l0.fill_(1e-4)
    starts = torch.zeros(1, 1, 2, dtype=torch.float64) - 0.02
    strict = fixed_points(module, starts)
    assert (np.abs(strict.states) > 0.05).all()
    slow = fixed_points(module, starts, iterations=1, speed=1e-6)
    assert len(slow) == 1


def test_input_of_a_language_model_is_a_token_id():
    torch.manual_seed(0)
    model = LanguageModel(5, Recurrent("gru", 3, 4))
    start = torch.zeros(1, 2, 4)
    rest = fixed_points(model, start, 3)
    again = fixed_points(model.recurrent, start, model.encoder.weight[3])
    np.testing.assert_allclose(rest.states, again.states, atol=1e-9)
    with pytest.raises(UserError, match="token id from 0 to 4, got 5"):
        fixed_points(model, start, 5)


def test_fixed_points_rejects_invalid_arguments():
    module = two_switches()
    for states, options, message in (
        (torch.zeros(2, 1, 2), {}, r"1 of shape \[1, N, width\]; got \[\[2, 1, 2\]\]"),
        (torch.zeros(1, 0, 2), {}, "nonzero count"),
        ({"layer0.hidden": np.zeros((3, 5))}, {}, "must have widths"),
        ({"layer0.cell": np.zeros((3, 5))}, {}, "layer0.hidden is missing"),
        (torch.zeros(1, 1, 2), {"x": [1.0, 2.0]}, r"a vector of shape \[1\].*got \[2\]"),
        (torch.zeros(1, 1, 2), {"speed": -1}, ">= 0"),
        (torch.zeros(1, 1, 2), {"iterations": 0}, "positive integer"),
    ):
        with pytest.raises(UserError, match=message):
            fixed_points(module, states, **options)
    with pytest.raises(UserError, match="unidirectional"):
        fixed_points(LSTM(3, 4, bidirectional=True), torch.zeros(2, 1, 4))

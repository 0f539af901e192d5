"""Outputs: predictions, probabilities and samples, compared with SciPy's distributions."""

import json

import numpy as np
import pytest
from helpers import run_python
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from throughtime.errors import ModelError, UserError
from throughtime.outputs import Bernoulli, Categorical, LogisticMixture, Normal, Point, Quantiles, StudentT, from_data

OUTPUTS = [
    Categorical(5),
    Bernoulli(4),
    Point(3, "mse"),
    Point(3, "mae"),
    Quantiles(3, (0.1, 0.5, 0.9)),
    Normal(3),
    StudentT(3),
]
SAMPLED = [output for output in OUTPUTS if not isinstance(output, Point)]
DRAWS = 100_000
# Five standard errors of a frequency in DRAWS; the generators have fixed seeds.
SHARE = 5 * 0.5 / DRAWS**0.5
# By chance alone the Kolmogorov-Smirnov distance exceeds this once in 130,000 tests.
DISTANCE = 2.5 / DRAWS**0.5


def by_kind(outputs):
    return pytest.mark.parametrize("output", outputs, ids=str)


def raw_of(output, *leading, seed=0):
    return np.random.default_rng(seed).normal(size=(*leading, output.width)) * 2


def drawn(output, raw, temperature):
    """Draw samples `[DRAWS, ...]` from one `raw`."""
    return output.sample(np.broadcast_to(raw, (DRAWS, *raw.shape)), np.random.default_rng(1), temperature)


def test_outputs_need_neither_torch_nor_scipy():
    code = "import sys, throughtime.outputs; print([n for n in ('torch', 'scipy') if n in sys.modules])"
    assert run_python(code).strip() == "[]"


@by_kind(OUTPUTS)
@pytest.mark.parametrize("leading", [(), (2,), (4, 2), (0, 2)])
def test_predictions_and_samples_have_the_shape_of_targets(output, leading):
    raw, targets = raw_of(output, *leading), np.zeros((*leading, *output.target_shape))
    levels = (len(output.levels),) if isinstance(output, Quantiles) else ()
    assert output.predict(raw).shape == targets.shape + levels
    assert output.terms(targets) == np.prod(leading, dtype=int)
    if not isinstance(output, Point):
        assert output.sample(raw, np.random.default_rng(0)).shape == targets.shape


def test_probabilities_are_softmax_and_sigmoid_without_overflow():
    # A few roundings of float64.
    for raw in (raw_of(Categorical(5), 7), np.array([-1e4, 0, 1e4, 1e4, -np.inf])):
        np.testing.assert_allclose(Categorical(5).probabilities(raw), special.softmax(raw, -1), rtol=1e-13)
    for raw in (raw_of(Bernoulli(4), 7), np.array([-1e4, -30, 30, 1e4])):
        np.testing.assert_allclose(Bernoulli(4).probabilities(raw), special.expit(raw), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_keep_the_dtype(dtype):
    for output in (Categorical(5), Bernoulli(4)):
        assert output.probabilities(raw_of(output, 2).astype(dtype)).dtype == dtype


def test_the_prediction_is_the_most_likely_value():
    raw = raw_of(Categorical(5), 50)
    assert np.array_equal(Categorical(5).predict(raw), Categorical(5).probabilities(raw).argmax(-1))
    raw = raw_of(Bernoulli(4), 50)
    assert np.array_equal(Bernoulli(4).predict(raw), Bernoulli(4).probabilities(raw) > 0.5)


@given(st.lists(st.floats(-1e300, 1e300), min_size=10, max_size=10))
def test_quantiles_never_cross(raw):
    quantiles = Quantiles(2, (0.05, 0.25, 0.5, 0.75, 0.95)).predict(np.array(raw))
    assert (np.diff(quantiles) >= 0).all()
    assert np.array_equal(np.sort(np.reshape(raw, (2, 5)), -1), quantiles)


@by_kind(SAMPLED)
def test_temperature_0_draws_the_most_likely_value(output):
    raw = raw_of(output, 50)
    expected = output.predict(raw)
    if isinstance(output, Quantiles):
        expected = expected[..., 1]  # the median
    assert np.array_equal(output.sample(raw, np.random.default_rng(0), 0), expected)


@pytest.mark.parametrize("temperature", [0.5, 1, 2])
def test_sample_frequencies_match_probabilities_at_any_temperature(temperature):
    raw = raw_of(Categorical(5))
    shares = np.bincount(drawn(Categorical(5), raw, temperature), minlength=5) / DRAWS
    np.testing.assert_allclose(shares, special.softmax(raw / temperature), atol=SHARE)
    raw = raw_of(Bernoulli(4))
    shares = drawn(Bernoulli(4), raw, temperature).mean(0)
    np.testing.assert_allclose(shares, special.expit(raw / temperature), atol=SHARE)


def test_classes_with_a_score_of_minus_infinity_are_never_drawn():
    raw = np.array([-np.inf, 0, -50, -np.inf, 0])
    assert set(drawn(Categorical(5), raw, 1.0)) == {1, 4}


@pytest.mark.parametrize("temperature", [0.25, 1, 4])
def test_real_valued_samples_follow_the_distribution(temperature):
    raw = raw_of(Normal(3))
    scale = (np.log1p(np.exp(raw[3:])) + 1e-6) * temperature**0.5
    for k, draws in enumerate(drawn(Normal(3), raw, temperature).T):
        assert stats.kstest(draws, stats.norm(raw[k], scale[k]).cdf).statistic < DISTANCE
    raw = raw_of(StudentT(3))
    scale = (np.log1p(np.exp(raw[3:6])) + 1e-6) * temperature**0.5
    degrees = 2 + np.log1p(np.exp(raw[6:]))
    for k, draws in enumerate(drawn(StudentT(3), raw, temperature).T):
        assert stats.kstest(draws, stats.t(degrees[k], raw[k], scale[k]).cdf).statistic < DISTANCE


def test_the_fraction_of_samples_below_each_quantile_is_its_level():
    output = Quantiles(2, (0.1, 0.4, 0.5, 0.9))
    raw = raw_of(output)
    draws = drawn(output, raw, 1.0)
    shares = (draws[..., None] <= output.predict(raw)).mean(0)
    # All are below the last one, because the distribution ends there.
    np.testing.assert_allclose(shares, [[0.1, 0.4, 0.5, 1.0]] * 2, atol=SHARE)
    single = Quantiles(2, [0.5])
    assert np.array_equal(single.sample(raw[:2], np.random.default_rng(0)), raw[:2])


def test_invalid_sampling_is_rejected():
    with pytest.raises(UserError, match="no distribution"):
        Point(3, "mse").sample(np.zeros(3), np.random.default_rng(0))
    for temperature in (-1, np.inf, np.nan):
        with pytest.raises(UserError, match="temperature must be finite and at least 0"):
            Categorical(3).sample(np.zeros(3), np.random.default_rng(0), temperature)


@by_kind(OUTPUTS)
def test_outputs_round_trip_through_data(output):
    assert from_data(json.loads(json.dumps(output.to_data()))) == output


def test_numpy_sizes_are_stored_as_integers():
    output = Categorical(np.int64(5))
    assert type(output.classes) is int
    assert from_data(json.loads(json.dumps(output.to_data()))) == output


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical(-3), "classes must be a positive integer, got -3"),
        (lambda: Bernoulli(True), "units must be a positive integer, got True"),
        (lambda: Normal(2.0), "targets must be a positive integer, got 2.0"),
        (lambda: Point(1, "mape"), "loss must be one of mse, mae, got 'mape'"),
        (lambda: Quantiles(1, ()), "levels must be numbers between 0 and 1 in ascending order"),
        (lambda: Quantiles(1, (0.5, 0.5)), "levels must be numbers between 0 and 1 in ascending order"),
        (lambda: Quantiles(1, (0.5, 1)), "levels must be numbers between 0 and 1 in ascending order"),
        (lambda: Quantiles(1, (0.5, float("nan"))), "levels must be numbers between 0 and 1 in ascending order"),
        (lambda: Quantiles(1, (10**400,)), "levels must be numbers between 0 and 1 in ascending order"),
        (lambda: Quantiles(1, "0.5"), "levels must be numbers between 0 and 1 in ascending order, got '0.5'"),
    ],
)
def test_invalid_settings_are_rejected(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "must be a dict with a kind, got None"),
        ({"classes": 3}, "must be a dict with a kind"),
        ({"kind": ["categorical"], "classes": 3}, "must be a dict with a kind"),
        ({"kind": "categorial", "classes": 3}, "unknown output 'categorial' .did you mean categorical"),
        (
            {"kind": "x"},
            "unknown output 'x'; expected one of categorical, logistic_mixture, bernoulli, point, ",
        ),
        ({"kind": "categorical"}, "'categorical' must have classes, got nothing"),
        ({"kind": "normal", "targets": 1, 3: 4}, "'normal' must have targets, got targets, 3"),
        ({"kind": "categorical", "classes": "3"}, "'categorical' is damaged: classes must be a positive integer"),
        ({"kind": "point", "targets": 1, "loss": []}, r"'point' is damaged: loss must be one of mse, mae, got \[\]"),
        ({"kind": "quantiles", "targets": 1, "levels": ["0.5"]}, "'quantiles' is damaged: levels must be numbers"),
        ({"kind": "quantiles", "targets": 1, "levels": None}, "'quantiles' is damaged: levels must be numbers"),
    ],
)
def test_damaged_data_is_rejected(data, message):
    with pytest.raises(ModelError, match=message):
        from_data(data)


def test_a_mixture_is_integrated_over_its_levels():
    output = LogisticMixture(16, 3)
    raw = raw_of(output) / 2
    scores, locations, scales = output.parameters(raw)
    edges = np.concatenate([[-np.inf], np.arange(15) + 0.5, [np.inf]])
    cumulative = stats.logistic.cdf(edges[:, None], locations, scales) @ special.softmax(scores)
    shares = np.exp(output.log_probabilities(raw))
    assert shares == pytest.approx(np.diff(cumulative), abs=1e-12)
    assert np.bincount(drawn(output, raw, 1.0), minlength=16) / DRAWS == pytest.approx(shares, abs=SHARE)
    assert set(drawn(output, raw, 0.0)) == {shares.argmax()} == {output.predict(raw).item()}
    assert from_data(output.to_data()) == output

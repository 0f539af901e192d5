"""The tables of results: each figure appears once, in one unit."""

import pytest

from throughtime import tasks
from throughtime.spelling import figure

FIGURES = {
    "audio": {"loss": 1.0, "bits_per_sample": 1.4427, "samples": 10},
    "forecast": {"mse": 0.2, "mae": 0.1, "mase": 0.3, "smape": 20.0, "coverage": 0.8, "loss": 0.1, "values": 10},
    "text": {"loss": 1.0, "bits_per_token": 1.4427, "bits_per_byte": 1.4427, "tokens": 10, "unknown": 0},
}


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("audio", ["bits per sample", "samples"]),
        ("forecast", ["scaled MSE", "scaled MAE", "MASE", "sMAPE", "coverage of 80% intervals", "values"]),
        ("text", ["loss", "bits per byte", "characters"]),
    ],
)
def test_no_figure_is_printed_twice(task, labels):
    kind = tasks.get(task)
    assert [label for label, _ in kind(kind.Options()).figure_rows(FIGURES[task])] == labels


@pytest.mark.parametrize(
    ("task", "options", "metric", "label"),
    [
        ("forecast", {"head": "mae"}, "loss", "scaled MAE"),
        ("forecast", {"head": "quantiles"}, "loss", "loss"),
        ("effect", {}, "esr", "ESR"),
        ("notes", {}, "frame_accuracy", "frame accuracy"),
    ],
)
def test_a_metric_has_one_label_everywhere(task, options, metric, label):
    kind = tasks.get(task)
    assert kind(kind.Options(**options)).label(metric) == label


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.23456, "1.2346"), (0.01, "0.0100"), (0.00123456, "0.00123"), (1.5e-7, "1.5e-07"), (0.0, "0.0000")],
)
def test_small_metrics_keep_significant_digits(value, text):
    assert figure(value) == text


def test_a_loss_that_equals_no_other_figure_is_printed():
    kind = tasks.get("forecast")
    rows = dict(kind(kind.Options(head="quantiles")).figure_rows(FIGURES["forecast"]))
    assert rows["loss"] == "0.1000 per value"

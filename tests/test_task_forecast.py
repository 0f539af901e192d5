"""The forecast task: a network beats correct baselines; intervals, files and errors."""

import datetime

import numpy as np
import polars
import pytest
import torch
from sklearn.linear_model import Ridge

from throughtime import evaluate, tasks
from throughtime.cli.figures import evaluation_rows
from throughtime.data.windows import Windows
from throughtime.errors import DataError, TrainingError
from throughtime.outputs import Normal, Point, Quantiles, StudentT
from throughtime.runs import Run
from throughtime.tasks.forecast import ForecastOptions, ForecastTask
from throughtime.tasks.forecast_figures import (
    Forecast,
    Measures,
    conformal_margins,
    fit_ridge,
    forecast_of,
    ridge_forecast,
)
from throughtime.training import TrainConfig, fit, train
from throughtime.training.inference import predict
from throughtime.training.measuring import worse_than

TINY = {"hidden_size": 16, "batch": 64, "steps": 3, "dropout": 0.0, "threads": 1}
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Two series with a daily cycle plus a known future covariate; the last day has no target."""
    draw = np.random.default_rng(0)
    hours = np.arange(24 * 40)
    start = datetime.datetime(2024, 1, 1)
    promotion = draw.integers(0, 2, (2, len(hours)))
    frames = []
    for name, level, sales in (("north", 100.0, promotion[0]), ("south", 10.0, promotion[1])):
        y = level * (1 + 0.3 * np.sin(hours * 2 * np.pi / 24) + 0.4 * sales) + 0.03 * level * draw.normal(
            size=len(hours)
        )
        frames.append(
            polars.DataFrame(
                {
                    "unique_id": [name] * len(hours),
                    "ds": [start + datetime.timedelta(hours=int(h)) for h in hours],
                    "y": [*y[:-24], *[None] * 24],
                    "promotion": sales,
                    "region": [name] * len(hours),
                }
            )
        )
    path = tmp_path_factory.mktemp("forecast") / "sales.csv"
    polars.concat(frames).write_csv(path)
    return path


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    """A briefly trained network."""
    return train(
        data=file, horizon=24, future="promotion", static="region", context=48, segment=6, lr=0.02,
        out=tmp_path_factory.mktemp("forecast") / "run", **{**TINY, "steps": 150, "hidden_size": 32}, **QUIET,
    )  # fmt: skip


def test_a_network_with_covariates_beats_the_baselines(run):
    found = run.result["test"]
    assert run.config.task.task == "forecast"
    assert set(found["baselines"]) == {"last value", "seasonal naive (24 rows)", "ridge"}
    for baseline in found["baselines"].values():
        assert found["mse"] < baseline["mse"] / 2
        assert found["mase"] < baseline["mase"]
        assert found["smape"] < baseline["smape"]
    assert found["loss"] == pytest.approx(found["mae"], rel=1e-5)  # the head's loss; float32
    assert 0.65 < found["coverage"] < 0.95
    labels = [label for label, _ in evaluation_rows(run.task, found)]
    assert labels[:3] == ["scaled MSE", "scaled MAE", "MASE"]  # the series have different units


def test_evaluation_uses_rows_not_seen_in_training(run, file):
    assert evaluate(run, file) == pytest.approx(
        {k: v for k, v in run.result["test"].items() if k != "baselines"}, rel=1e-6
    )


def test_predictions_start_after_the_last_row(run, file, tmp_path):
    table = predict(run, file)
    assert table.columns == ("unique_id", "ds", "forecast", "forecast-lo-80", "forecast-hi-80")
    rows = list(table.rows)
    assert [row[0] for row in rows] == ["north"] * 24 + ["south"] * 24
    assert [row[1] for row in rows[:24]] == [f"2024-02-09 {hour:02}:00:00" for hour in range(24)]
    frame = polars.read_csv(file).sort("unique_id", "ds").group_by("unique_id", maintain_order=True).tail(24)
    for level, own, sales in ((100, rows[:24], frame["promotion"][:24]), (10, rows[24:], frame["promotion"][24:])):
        expected = level * (1 + 0.3 * np.sin(np.arange(24) * 2 * np.pi / 24) + 0.4 * sales.to_numpy())
        forecast = np.array([row[2] for row in own])
        assert np.abs(forecast - expected).mean() < 0.15 * level
        assert all(low < value < high for _, _, value, low, high in own)
    # New rows move the origin without training.
    longer = polars.read_csv(file).with_columns(polars.col("y").fill_null(strategy="mean"))
    longer.write_csv(tmp_path / "longer.csv")
    with pytest.raises(DataError, match="end too early; add rows up to 2024-02-10 23:00:00"):
        predict(run, tmp_path / "longer.csv")
    seen = polars.read_csv(file).filter(polars.col("unique_id") == "south")
    seen.write_csv(tmp_path / "south.csv")
    alone = list(predict(run, tmp_path / "south.csv").rows)
    assert [row[:2] for row in alone] == [row[:2] for row in rows[24:]]
    # Float32 products of one row and of two.
    np.testing.assert_allclose([row[2:] for row in alone], [row[2:] for row in rows[24:]], rtol=1e-5)


def test_unseen_series_are_rejected(run, file, tmp_path):
    polars.read_csv(file).with_columns(unique_id=polars.lit("nord")).write_csv(tmp_path / "other.csv")
    with pytest.raises(DataError, match="duplicate times"):
        predict(run, tmp_path / "other.csv")
    one = polars.read_csv(file).filter(polars.col("unique_id") == "north")
    one.with_columns(unique_id=polars.lit("nort")).write_csv(tmp_path / "other.csv")
    with pytest.raises(DataError, match=r"were not in training, such as 'nort' .did you mean north"):
        predict(run, tmp_path / "other.csv")
    one[::2].write_csv(tmp_path / "other.csv")
    with pytest.raises(DataError, match="has one row every 2h, but the network was trained on one row every 1h"):
        predict(run, tmp_path / "other.csv")
    one.head(600).write_csv(tmp_path / "other.csv")
    with pytest.raises(DataError, match="earlier rows were used for training and validation"):
        evaluate(run, tmp_path / "other.csv")


def test_a_model_file_includes_its_intervals(run, file, tmp_path):
    import throughtime

    throughtime.save(run.model(), tmp_path / "model.safetensors")
    again = throughtime.load(tmp_path / "model.safetensors")
    assert again.task.calibration == run.description.calibration
    assert Run.open(run.path).description.calibration == again.task.calibration
    assert len(again.task.calibration["margins"]) == 24


def series(rows=400):
    draw = np.random.default_rng(3)
    return np.cumsum(draw.normal(size=rows)) * 0.3 + 2 * np.sin(np.arange(rows) * 2 * np.pi / 12)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A series of numbers without times."""
    path = tmp_path_factory.mktemp("plain") / "y.csv"
    path.write_text("y\n" + "".join(f"{value}\n" for value in series()))
    return path


def prepared(plain, **options):
    task = ForecastTask(ForecastOptions(data=(str(plain),), **{"horizon": 5, "context": 12, **options}))
    return task, task.prepare()


def test_baselines_match_a_simple_loop(plain):
    task, data = prepared(plain, split="300,50,50", scaling="mean")
    y = data.codecs.inputs.scales["y"].encode(series())
    windows = [np.arange(k - 12, k + 5) for k in range(350, 396)]
    season = np.abs(y[12:300] - y[:288]).mean()
    inputs, outputs = (np.stack([y[k - a : k + b] - y[k - 1] for k in range(12, 296)]) for a, b in ((12, 0), (0, 5)))
    ridge = Ridge(alpha=1e-3 * np.square(inputs[:, :-1]).sum() / 11, tol=1e-9).fit(inputs[:, :-1], outputs)
    forecasts = {
        "last value": [np.repeat(y[w[11]], 5) for w in windows],
        "seasonal naive (12 rows)": [y[w[:5]] for w in windows],
        "ridge": [ridge.predict((y[w[:11]] - y[w[11]])[None])[0] + y[w[11]] for w in windows],
    }
    assert data.codecs.inputs.season == 12
    found = task.baseline_figures(task.baselines(data), data.test, data.codecs)
    for name, values in forecasts.items():
        errors = np.array(values) - np.array([y[w[12:]] for w in windows])
        # Float32; the ridge penalty of the constant is not exactly 0.
        assert found[name]["mse"] == pytest.approx(np.square(errors).mean(), rel=1e-3)
        assert found[name]["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-3)
        assert found[name]["mase"] == pytest.approx(np.abs(errors).mean() / season, rel=1e-3)


def test_metrics_are_computed_at_the_original_scale(plain):
    _, data = prepared(plain)
    windows: Windows = data.test
    scale = data.codecs.inputs.scales["y"]
    chosen = np.arange(len(windows))
    true = scale.decode(windows.targets(chosen)[0])
    forecast = true * 1.1 + 0.3
    low, high = forecast - 0.5, forecast + 0.5
    quantiles = np.stack([low, forecast, high], -1)
    measures = Measures(windows, intervals=True)
    encoded = [(each - scale.shift) / scale.factor for each in (forecast, low, high, quantiles)]
    measures.add(chosen, Forecast(*encoded))
    found = measures.figures
    assert found["unscaled_mae"] == pytest.approx(np.abs(forecast - true).mean(), rel=1e-5)
    assert found["smape"] == pytest.approx(
        (200 * np.abs(forecast - true) / (np.abs(forecast) + np.abs(true))).mean(), rel=1e-5
    )
    pinball = [
        np.maximum(q * (true - each), (q - 1) * (true - each)).sum()
        for q, each in zip((0.1, 0.5, 0.9), (low, forecast, high), strict=True)
    ]
    assert found["weighted_quantile_loss"] == pytest.approx(2 * np.mean(pinball) / np.abs(true).sum(), rel=1e-5)
    assert found["coverage"] == pytest.approx(((low <= true) & (true <= high)).mean(), abs=1e-3)


def test_conformal_margins_are_order_statistics():
    scores = np.random.default_rng(0).permutation(19.0 * 1.0 * np.arange(1, 20))[:, None]
    observed = np.ones((19, 1), bool)
    assert conformal_margins(scores, observed, 0.8) == [19 * 16]  # ceil(20 * 0.8)
    observed[scores[:, 0] == 19 * 16] = False
    assert conformal_margins(scores, observed, 0.8) == [19 * 17]  # ceil(19 * 0.8) = 16 of the 18 others


@pytest.mark.parametrize(
    "output", [Point(3, "mae"), Quantiles(3, (0.05, 0.25, 0.5, 0.75, 0.95)), Normal(3), StudentT(3)]
)
def test_forecasts_match_the_output_distribution(output):
    raw = np.random.default_rng(0).normal(size=(4, 2, output.width))
    found = forecast_of(output, raw, 0.8)
    assert found.point.shape == found.low.shape == (4, 6)
    if isinstance(output, Quantiles):
        sorted_ = output.predict(raw).reshape(4, 6, 5)
        np.testing.assert_array_equal(found.point, sorted_[..., 2])
        np.testing.assert_allclose(found.quantiles[..., 0], 0.75 * sorted_[..., 0] + 0.25 * sorted_[..., 1])
        return
    np.testing.assert_array_equal(found.point, output.predict(raw).reshape(4, 6))
    if isinstance(output, Point):
        assert found.quantiles is None
        return
    from throughtime.nn.heads import Head

    distribution = Head.of(output, 2).distribution(torch.from_numpy(raw))
    draws = distribution.sample((20_000,)).reshape(20_000, 4, 6).numpy()
    # Five standard errors of a frequency.
    for bound, share in ((found.low, 0.1), (found.high, 0.9), (found.quantiles[..., 1], 0.5)):
        assert np.abs((draws <= bound).mean(0) - share).max() < 5 * 0.5 / 20_000**0.5


def test_a_single_series_also_has_an_error_in_its_own_units(plain):
    task, data = prepared(plain)
    found = task.baseline_figures({}, data.test, data.codecs)["last value"]
    errors = [np.abs(series()[k : k + 5] - series()[k - 1]).mean() for k in range(320, 396)]
    assert len(errors) == len(data.test)
    assert found["unscaled_mae"] == pytest.approx(np.mean(errors), rel=1e-5)  # float32
    assert ("MAE", f"{np.mean(errors):.4f}") in task.figure_rows(found)


@pytest.mark.parametrize("head", ["mse", "quantiles", "normal", "student_t"])
def test_every_head_can_be_trained(plain, head):
    task, data = prepared(plain, head=head)
    model = fit(task, data, TrainConfig.of("forecast", horizon=5, head=head, **{**TINY, "steps": 40, "lr": 0.01}))
    figures = task.extra_figures(model, data.test)
    assert figures["mse"] < 3
    assert ("weighted_quantile_loss" in figures) == (head != "mse")
    rows = list(task.predict(model, task.read_inputs([plain], data.codecs), data.codecs).rows)
    assert [row[0] for row in rows] == ["400", "401", "402", "403", "404"]


def test_a_stream_matches_the_network(plain):
    from throughtime import Stream

    task, data = prepared(plain)
    model = fit(task, data, TrainConfig.of("forecast", horizon=5, **TINY))
    inputs = data.test.inputs(np.arange(1)).steps
    with torch.no_grad():
        raw, _ = model(torch.from_numpy(inputs))
    stream = Stream(model)
    found = [stream.step(step[0]) for step in inputs]
    np.testing.assert_allclose(np.ravel(found[-1]), raw[-1, 0].numpy(), rtol=1e-4, atol=1e-6)  # float32


def test_long_horizons_encode_positions_as_sines(plain):
    _, data = prepared(plain, horizon=100, context=20, split="200,100,100", segment=1)
    assert data.train.features == 1 + 32  # positions as sines and cosines
    ridge = fit_ridge(data.train)
    assert ridge_forecast(ridge, data.test, np.arange(1)).shape == (1, 100)


@pytest.mark.parametrize(("head", "metric"), [("quantiles", "mae"), ("normal", "mse")])
def test_forecasts_are_compared_with_the_best_baseline(head, metric):
    task = ForecastTask(ForecastOptions(horizon=3, head=head))
    baselines = {"last value": {"mse": 4.0, "mae": 2.0}, "ridge": {"mse": 0.5, "mae": 0.25}}
    own = {"loss": 0.1, "mse": 1.0, "mae": 1.0}
    assert f"worse than the baseline 'ridge' (scaled {metric.upper()} 0." in worse_than(task, own, baselines)
    assert worse_than(task, own | {metric: 0.1}, baselines) == ""


def test_the_forecast_task_is_guessed_from_options():
    assert tasks.chosen(None, {"data": ["a.csv"], "target": "y", "horizon": 3})[0].name == "forecast"
    assert tasks.chosen(None, {"data": ["a.csv"]})[0].name == "text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "0.5,0.5"}, "expected three numbers for training, validation and test"),
        ({"split": "0.9,0.1,0.5"}, "expected three numbers"),
        ({"quantiles": "0.9,0.1"}, "expected at least two ascending levels between 0 and 1"),
        ({"head": "cauchy"}, "head must be one of mse, mae, quantiles, normal, student_t"),
        ({"interval": 1}, "interval must be less than 1"),
        ({"bidirectional": True}, "must not read them"),
    ],
)
def test_invalid_options_are_rejected(plain, options, message):
    with pytest.raises(TrainingError, match=message):
        train(data=plain, **{"horizon": 3, **options}, **TINY, **QUIET)


def test_a_run_can_be_resumed(plain, tmp_path):
    from throughtime.training import resume

    run = train(data=plain, horizon=3, out=tmp_path / "run", **TINY, **QUIET)
    again = resume(run.path, steps=6, **QUIET)
    assert Run.open(run.path).result["steps"] == again.result["steps"] == 6

"""The forecast report: windows, errors by step and by series, and how far back a forecast looks."""

from dataclasses import replace

import numpy as np
import polars
import pytest
import torch
from report_pages import open_page
from test_report_browser import complaints, see_all, wait_for

from throughtime.runs import Run
from throughtime.sight.report.collect import collect
from throughtime.sight.report.render import render, write
from throughtime.tasks.forecast_page import lookback, outcome
from throughtime.training import train
from throughtime.training.reloading import data_of
from throughtime.training.report import short_report

H = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    draw = np.random.default_rng(0)
    days = polars.datetime_range(polars.datetime(2024, 1, 1), polars.datetime(2025, 1, 1), "1d", eager=True)[:200]
    waves = {name: size * np.sin(np.arange(200) * 2 * np.pi / 7) for name, size in (("a", 1.0), ("b", 50.0))}
    waves["b"][190:193] += 400  # unpredictable
    frame = polars.DataFrame({"ds": days, **{n: w + 0.1 * draw.normal(size=200) for n, w in waves.items()}})
    frame.write_csv(directory / "table.csv")
    return train(
        data=directory / "table.csv", target="a,b", horizon=H, context=14, segment=2, strategy="direct", hidden_size=8,
        dropout=0, batch=64, steps=5, engine="reference", threads=1, out=directory / "run", progress=False,
    )  # fmt: skip


def test_report_metrics_match_the_task(run):
    data, model = data_of(run), run.model()
    found = outcome(model, data.test, 0.8, run.description.baselines)
    forecasts = found["forecasts"]
    assert [window.title for window in forecasts.last] == ["a, from 2024-07-13", "b, from 2024-07-13"]
    for window in forecasts.last:
        assert len(window.times) == len(window.values) == 14 + H
        assert window.times[-1] == "2024-07-18"
        assert (window.low <= window.point).all()
    table = polars.read_csv(run.config.task.data[0])
    # Float32 values at the common scale.
    np.testing.assert_allclose(forecasts.last[1].values, table["b"].to_numpy()[-20:], rtol=1e-4, atol=1e-4)
    assert forecasts.worst[0].title.startswith("b, from 2024-07-")
    figures = run.result["test"]
    curves = {curve.label: curve for curve in forecasts.by_step}
    assert curves["network"].steps.tolist() == list(range(1, H + 1))
    assert curves["network"].values.mean() == pytest.approx(figures["mae"], rel=1e-5)
    for name, baseline in figures["baselines"].items():
        assert curves[name].values.mean() == pytest.approx(baseline["mae"], rel=1e-5)
    assert forecasts.measured == f"{len(data.test)} windows"
    some = outcome(model, data.test, 0.8, run.description.baselines, 5)["forecasts"]
    assert some.measured == f"5 windows, evenly spaced among {len(data.test)}"
    (by_series,) = found["tables"]
    shares = {row[0]: row[4] for row in by_series.rows}
    assert np.mean(list(shares.values())) == pytest.approx(figures["coverage"], rel=1e-5)


def test_lookback_is_the_gradient_of_the_forecast(run):
    data, model = data_of(run), run.model()
    windows = data.test.evenly_spaced(1)
    found = lookback(model, windows)
    assert found.steps.tolist() == [2, 4, 6, 8, 10, 12, 14]
    x = torch.from_numpy(windows.inputs(np.arange(1)).steps).requires_grad_()
    sizes = np.zeros(7)
    for step in range(7, 10):  # the steps of the horizon
        (gradient,) = torch.autograd.grad(model(x)[0][step].sum(), x)
        sizes += gradient[:7, 0].norm(dim=-1).numpy()[::-1]
    # Float32, and the tape's gradient is summed in a different order.
    np.testing.assert_allclose(found.values, sizes / sizes.max(), rtol=1e-3)


@pytest.mark.parametrize(
    ("segment", "season", "each", "peaks"),
    [(1, 7, "row", True), (1, 1, "row", False), (2, 7, "segment of 2 rows", True), (7, 7, "segment of 7 rows", False)],
)
def test_the_page_explains_the_points_of_the_lookback(run, segment, season, each, peaks):
    page = short_report(run, data_of(run))
    shown = replace(page, forecasts=replace(page.forecasts, segment=segment, season=season))
    assert (page.forecasts.segment, page.forecasts.season) == (2, 7)
    text = render(shown)
    assert f"gradient of the forecast with respect to each {each} before the forecast's origin" in text
    assert ("peaks one season apart" in text) == peaks


@pytest.mark.slow
def test_the_pages_open_without_errors(run, driver, tmp_path):
    data = data_of(run)
    passage = run.task.passage(data.valid, data.codecs, 60, "held out")
    assert [len(item.inputs) for item in passage.items] == [10] * 6
    inside = collect(run, passage, patterns=["layer0.hidden"])
    assert inside.reading.inputs.shape == (60, 1)
    short = short_report(run, data)
    assert "Scaled MAE during training." in render(short)
    for k, page in enumerate((inside, short)):
        open_page(driver, write(page, tmp_path / f"{k}.html"))
        see_all(driver)
        wait_for(driver, "[...document.querySelectorAll('.chart')].every(chart => chart.dataset.drawn)")
        for name in ("last-0", "worst-0", "horizon", "lookback"):
            assert driver.find_elements("css selector", f"#chart-{name} .trace, #chart-{name} .lines")
        assert complaints(driver) == []


def test_pictures_are_of_all_test_data_if_the_figures_are_of_a_part(run, monkeypatch):
    monkeypatch.setattr(Run, "result", {**run.result, "measured": {"valid": 1.0, "test": 0.04}})
    report = short_report(run, data_of(run))
    assert report.results_on == "the test data"
    assert any(fact.endswith("on 4% of the test data") for fact in report.facts)

"""Parallel and recursive forecasts, rolling origins, and updates without training."""

import datetime
import json
from types import SimpleNamespace

import numpy as np
import polars
import pytest
import torch
from typer.testing import CliRunner

import throughtime
from throughtime import evaluate
from throughtime.cli.main import app
from throughtime.errors import DataError, UserError
from throughtime.nn.encoders import Numeric
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Point
from throughtime.tasks.forecast import ForecastTask
from throughtime.tasks.forecast_decoding import decode
from throughtime.tasks.forecast_page import lookback
from throughtime.tasks.options.forecast import ForecastOptions
from throughtime.training import TrainConfig, fit, train
from throughtime.training.inference import predict
from throughtime.training.reloading import data_of

QUIET = {"progress": False, "engine": "reference", "threads": 1}
ROWS = 260


def frame(rows=ROWS, ahead=8):
    """A series equal to its future covariate without noise; the past doesn't predict the covariate."""
    draw = np.random.default_rng(2)
    cause = draw.normal(size=rows + ahead).round(3)
    start = datetime.datetime(2024, 1, 1)
    return polars.DataFrame(
        {
            "ds": [start + datetime.timedelta(hours=k) for k in range(rows + ahead)],
            "y": [*(3 * cause[:rows] + 10), *[None] * ahead],
            "cause": cause,
        }
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recursive") / "table.csv"
    frame().write_csv(path)
    return path


def prepared(file, **options):
    given = {"horizon": 8, "context": 12, "future": "cause", "calendar": False, "strategy": "recursive", **options}
    task = ForecastTask(ForecastOptions(data=(str(file),), **given))
    return task, task.prepare()


@pytest.mark.parametrize("segment", [1, 3])
def test_a_recursive_step_reads_known_covariates_of_its_output_row(file, segment):
    _, data = prepared(file, segment=segment, split="200,30,30")
    table = frame()
    y = data.codecs.inputs.scales["y"].encode(table["y"].to_numpy()[:ROWS])
    cause = data.codecs.inputs.future[0].encode(table["cause"].to_numpy())
    chosen = np.array([0, 5])
    batch = data.train.batch(chosen)
    n, m = data.train.steps
    assert len(batch.inputs) == n + m - 1
    for b, origin in enumerate((12, 17)):
        rows = np.arange(-n * segment, (m - 1) * segment).reshape(-1, segment) + origin
        np.testing.assert_array_equal(batch.inputs[:, b, :segment], y[rows] - y[origin - 1])
        np.testing.assert_array_equal(batch.inputs[:, b, segment:], cause[rows + segment])
        counted = batch.weights[:, b].reshape(-1)
        np.testing.assert_array_equal(counted[: (n - 1) * segment], 0)
        assert counted.sum() == 8
        written = batch.targets[n - 1 :, b].reshape(-1)[:8]
        np.testing.assert_array_equal(written, y[origin : origin + 8] - y[origin - 1])
    # In use, the values of the horizon are absent, and everything else is the same.
    steps = data.train.inputs(chosen).steps
    np.testing.assert_array_equal(steps[:n], batch.inputs[:n])
    np.testing.assert_array_equal(steps[n:, :, segment:], batch.inputs[n:, :, segment:])
    assert not steps[n:, :, :segment].any()


@pytest.mark.parametrize("segment", [1, 2])
def test_each_step_reads_the_previous_forecast(file, segment):
    _, data = prepared(file, segment=segment)
    windows, chosen = data.valid, np.arange(3)
    steps = torch.from_numpy(windows.inputs(chosen).steps)

    class Network(SimpleNamespace):
        def __call__(self, steps, state=None):
            return self.write(steps), state

    head = SimpleNamespace(output=Point(segment, "mae"))
    # A network that adds 1 to the last value it reads counts up from the last value before the origin.
    counting = Network(
        head=head, write=lambda steps: steps[..., segment - 1 : segment] + torch.arange(1.0, segment + 1)
    )
    found = decode(counting, windows, steps.clone(), 0.8).reshape(3, -1)
    np.testing.assert_allclose(found, np.tile(np.arange(1, 9), (3, 1)))
    # A network that repeats the covariate it reads returns the covariate of the rows it forecasts.
    repeating = Network(head=head, write=lambda steps: steps[..., segment : 2 * segment])
    found = decode(repeating, windows, steps.clone(), 0.8).reshape(3, -1)
    _, origins = windows.where(chosen)
    cause = data.codecs.inputs.future[0].encode(frame()["cause"].to_numpy())
    np.testing.assert_array_equal(found, cause[origins[:, None] + np.arange(8)])


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    return train(
        data=file, horizon=8, context=12, future="cause", strategy="recursive", calendar=False, cell="rnn",
        hidden_size=16, dropout=0, batch=64, lr=0.02, steps=120, out=tmp_path_factory.mktemp("recursive") / "run",
        **QUIET,
    )  # fmt: skip


def test_a_recursive_network_learns_from_the_covariate_of_the_same_row(run, file):
    found = run.result["test"]
    # One row off, it could not beat the mean of the series, whose MSE is 1.
    assert found["mse"] < 0.1
    rows = list(predict(run, file).rows)
    truth = 3 * frame()["cause"].to_numpy()[ROWS:] + 10
    assert np.square([row[1] for row in rows] - truth).mean() < 0.1 * 9
    assert [row[0] for row in rows] == [f"2024-01-11 {hour:02}:00:00" for hour in range(20, 24)] + [
        f"2024-01-12 {hour:02}:00:00" for hour in range(4)
    ]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_parallel_steps_each_continue_from_the_state_after_the_context(file, cell):
    given = {"horizon": 8, "context": 12, "segment": 3, "future": "cause", "strategy": "parallel"}
    config = TrainConfig.of("forecast", data=[file], cell=cell, hidden_size=6, num_layers=2, steps=1, **given)
    task = ForecastTask(config.task)
    data = task.prepare()
    model = fit(task, data, config, keep="last")
    chosen = np.arange(5)
    batch, steps = data.valid.batch(chosen), torch.from_numpy(data.valid.inputs(chosen).steps)
    n, m = data.valid.steps
    assert (n, m, batch.branches) == (4, 3, 3)
    alone = []
    for k in range(m):  # the context and one step of the horizon
        with torch.no_grad():
            raw, _ = model(torch.cat([steps[:n], steps[n + k :][:1]]))
        alone.append(raw[-1].numpy())
    found = decode(model, data.valid, steps, 0.8)
    np.testing.assert_allclose(found, np.stack(alone, 1), rtol=0, atol=1e-6)  # float32
    loss, _ = model.loss(*map(torch.from_numpy, (batch.inputs, batch.targets)), branches=m,
                         weights=torch.from_numpy(batch.weights))  # fmt: skip
    errors = np.abs(found - batch.targets[n:].transpose(1, 0, 2)) * batch.weights[n:].transpose(1, 0, 2)
    assert loss.item() == pytest.approx(errors.sum(), rel=1e-5)


def test_segments_are_embedded_by_an_affine_map_and_a_relu(file, tmp_path):
    run = train(
        data=file, horizon=8, context=12, segment=4, future="cause", embed=5, hidden_size=6, steps=2, batch=64,
        out=tmp_path / "run", **QUIET,
    )  # fmt: skip
    model, windows = run.model(), data_of(run).valid
    steps = torch.from_numpy(windows.inputs(np.arange(3)).steps)
    weight, bias = model.encoder.weight, model.encoder.bias
    assert weight.shape == (5, windows.features)
    with torch.no_grad():
        wanted, _ = model.recurrent((steps @ weight.T + bias).clamp(min=0))
        torch.testing.assert_close(model(steps)[0], model.head(wanted))
    stream = throughtime.Stream(run)
    found = np.stack([stream.step(step) for step in steps[:, 0].numpy()])
    np.testing.assert_allclose(found, model(steps[:, :1])[0][:, 0].detach(), rtol=0, atol=1e-6)  # float32


@pytest.mark.parametrize(
    ("options", "branches"),
    [
        ({}, 0),  # the fixture's future covariate
        ({"future": None}, 4),
        ({"future": None, "strategy": "direct"}, 0),
        ({"future": None, "segment": 8}, 0),  # one step of the horizon
        ({"strategy": "parallel"}, 4),
    ],
)
def test_decoding_is_parallel_unless_there_are_future_covariates(file, options, branches):
    _, data = prepared(file, **{"strategy": None, "segment": 2, **options})
    assert data.train.branches == branches


def test_branches_need_steps_before_them():
    model = SequenceModel(Numeric(3), Recurrent("gru", 3, 4), Point(1, "mae"))
    for branches in (5, 6, -1):
        with pytest.raises(UserError, match=rf"branches must be at least 0 and less than .* 5, got {branches}"):
            model(torch.zeros(5, 2, 3), branches=branches)
    with pytest.raises(UserError, match="branches need a network with an output for each step"):
        model(torch.zeros(5, 2, 3), branches=2, lengths=torch.tensor([5, 4]))


def test_a_parallel_network_learns_and_reports(file, tmp_path):
    run = train(
        data=file, horizon=8, context=12, segment=2, future="cause", strategy="parallel", calendar=False,
        hidden_size=16, dropout=0, batch=64, lr=0.02, steps=120, out=tmp_path / "run", **QUIET,
    )  # fmt: skip
    assert run.result["test"]["mse"] < 0.1  # see the recursive network below
    data = data_of(run)
    norms = lookback(run.model(), data.test)
    assert norms.values.shape == (6,)
    # One step of the horizon follows the context, so its gradient equals that of a sequence of both.
    x = torch.from_numpy(data.test.evenly_spaced(16).inputs(np.arange(16)).steps)
    n = data.test.steps[0]
    totals = np.zeros(n)
    for k in range(4):
        one = torch.cat([x[:n], x[n + k :][:1]]).requires_grad_()
        run.model()(one)[0][-1].sum().backward()
        totals += one.grad[:n].norm(dim=2).mean(1).numpy()
    np.testing.assert_allclose(norms.values, totals[::-1] / totals.max(), rtol=1e-4)


def test_rolling_origins_are_the_last_windows_of_each_series(run, file):
    task, data = prepared(file, split="200,30,30")
    windows = data.test

    def origins(*arguments):
        part = task.rolling(windows, *arguments)
        return part.where(np.arange(len(part)))[1].tolist()

    assert origins(None, None) == list(range(230, 253))
    assert origins(3, None) == [236, 244, 252]
    assert origins(4, 2) == [246, 248, 250, 252]
    assert origins(None, 5) == [232, 237, 242, 247, 252]
    assert origins(3, 11) == [230, 241, 252]
    with pytest.raises(UserError, match="windows must be at most 3 for these data, whose origins are 11 rows apart"):
        task.rolling(windows, 4, 11)
    with pytest.raises(UserError, match="step must be at least 1, got 0"):
        task.rolling(windows, 3, 0)

    every = evaluate(run, file)
    some = evaluate(run, file, windows=2, step=3)
    assert some["values"] == 16
    assert every["values"] > 16
    # The last two, computed by hand.
    errors = []
    table = frame()
    truth = 3 * table["cause"].to_numpy() + 10
    for missing in (11, 8):
        shorter = table.with_columns(
            polars.when(polars.int_range(polars.len()) < ROWS - missing).then("y").otherwise(None).alias("y")
        )
        shorter.write_csv(file.parent / "shorter.csv")
        rows = list(predict(run, file.parent / "shorter.csv").rows)
        errors += [row[1] - truth[ROWS - missing + k] for k, row in enumerate(rows)]
    scale = run.description.codecs.inputs.scales["y"].factor
    # Float32 forecasts, in a different order of summation.
    assert some["mse"] == pytest.approx(np.square(errors).mean() / scale**2, rel=1e-4)


def test_rolling_origins_and_baselines_on_the_command_line(run, file):
    found = CliRunner().invoke(app, ["evaluate", str(run.path), str(file), "--windows", "3", "--step", "4", "--json"])
    assert found.exit_code == 0, found.output
    figures = json.loads(found.stdout)
    assert figures["values"] == 24
    assert set(figures["baselines"]) >= {"last value", "ridge"}


def test_updates_continue_a_table_without_training(run, file, tmp_path):
    longer = frame(ROWS + 5, 8)
    longer.write_csv(tmp_path / "longer.csv")
    longer[ROWS:].write_csv(tmp_path / "new.csv")
    longer[ROWS - 3 :].with_columns(polars.col("ds").cast(polars.Datetime("ms"))).write_parquet(
        tmp_path / "new.parquet"
    )
    old = tmp_path / "old.csv"
    frame(ROWS + 5, 8).with_columns(
        polars.when(polars.int_range(polars.len()) < ROWS).then("y").otherwise(None).alias("y")
    ).write_csv(old)
    wanted = list(predict(run, tmp_path / "longer.csv").rows)
    # `old` has the covariates of rows whose targets arrive with the update.
    assert list(predict(run, old, update=tmp_path / "new.csv").rows) == wanted
    assert list(predict(run, old, update=tmp_path / "new.parquet").rows) == wanted
    assert next(iter(predict(run, old).rows))[0] != wanted[0][0]
    out = tmp_path / "forecast.csv"
    found = CliRunner().invoke(
        app, ["predict", str(run.path), str(old), "--update", str(tmp_path / "new.csv"), "--out", str(out)]
    )
    assert found.exit_code == 0, found.output
    assert polars.read_csv(out)["ds"].to_list() == [row[0] for row in wanted]
    polars.concat([longer[ROWS - 3 :], longer[-1:]]).write_csv(tmp_path / "twice.csv")
    with pytest.raises(DataError, match="1 duplicate time within a series"):
        predict(run, old, update=tmp_path / "twice.csv")
    longer[ROWS:].drop("cause").write_csv(tmp_path / "new.csv")
    with pytest.raises(DataError, match="has no column 'cause'"):
        predict(run, old, update=tmp_path / "new.csv")
    numbers = longer[ROWS:].with_columns(ds=polars.int_range(ROWS, polars.len() + ROWS))
    numbers.write_csv(tmp_path / "new.csv")
    with pytest.raises(DataError, match="the times must be of one kind"):
        predict(run, old, update=tmp_path / "new.csv")


def test_other_tasks_reject_rolling_origins(tmp_path):
    from throughtime.tasks.text import Text

    task = Text(Text.Options())
    with pytest.raises(UserError, match="windows and step are for forecasts; this network was trained for task text"):
        task.rolling(None, 3, None)
    with pytest.raises(UserError, match="update is for forecasts"):
        task.read_update(["a"], "b", None)


def test_with_minutes_baselines_use_the_same_windows_as_the_network(file):
    task, data = prepared(file, split="200,30,30")
    part = task.subset(data.test, 40)
    assert len(part) == 5
    chosen = part.where(np.arange(5))[1]
    np.testing.assert_array_equal(chosen, np.linspace(230, 252, 5).round())
    figures = task.baseline_figures(task.baselines(data), part, data.codecs)
    y = data.codecs.inputs.scales["y"].encode(frame()["y"].to_numpy()[:ROWS])
    errors = [y[origin : origin + 8] - y[origin - 1] for origin in chosen]
    assert figures["last value"]["mse"] == pytest.approx(np.square(errors).mean(), rel=1e-5)  # float32
    assert task.reading(data.test, terms=40).terms == 40

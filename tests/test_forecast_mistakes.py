"""Tables that can't be forecast and mismatched options: each causes a one-sentence error on the command line."""

import datetime

import numpy as np
import polars
import pytest

from throughtime.cli.main import main
from throughtime.data.timeseries import read_time_series
from throughtime.runs import Run
from throughtime.training import train

ROWS = 100


def frame(**columns):
    draw = np.random.default_rng(0)
    hours = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=k) for k in range(ROWS)]
    return polars.DataFrame({"ds": hours, "y": draw.normal(size=ROWS), "x": draw.normal(size=ROWS)}).with_columns(
        **columns
    )


def row(k, value, column="y"):
    return polars.when(polars.int_range(ROWS) == k).then(value).otherwise(column).alias(column)


def shown(capsys, *arguments):
    """Return the standard error of a failing command."""
    assert main([*map(str, arguments)]) == 2
    found = capsys.readouterr().err
    assert "Traceback" not in found
    return " ".join(found.split())


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (frame(), ["--target", "z"], "has no column 'z' for --target"),
        (frame(y=polars.lit("high")), [], "column 'y' (--target) must contain numbers, got 'high' in row 1"),
        (frame(ds=polars.lit("some day")), [], "must contain numbers or ISO 8601 dates and times"),
        (frame(ds=row(3, None, "ds")), [], "column 'ds' (--time) has 1 missing value (row 4)"),
        (frame(y=None), [], "target 'y' has no values"),
        (frame(y=polars.lit(3.5)), [], "the target is constant in the training part"),
        (frame(x=None), ["--past", "x"], "column 'x' (--past) has no values; remove it"),
        (frame(), ["--horizon", "200"], "the largest possible horizon is 30; reduce --context"),
        (frame(), ["--context", "90"], "even a horizon of 1 is too large; reduce --context"),
        (frame(), ["--horizon", "40", "--context", "5"], "the largest possible horizon is 31; reduce --context"),
        (frame(y=row(7, float("inf"))), [], "column 'y' (--target) has 1 infinite value (row 8)"),
        (frame(x=row(7, float("-inf"), "x")), ["--future", "x"], "column 'x' (--future) has 1 infinite value (row 8)"),
        (frame(), ["--freq", "2h"], "the times are irregular"),
        (frame(), ["--freq", "fortnight"], "is not an interval; expected a number and one of"),
    ],
)
def test_training_reports_mistakes(tmp_path, capsys, table, options, message):
    table.write_parquet(tmp_path / "t.parquet")
    out = tmp_path / "run"
    usual = {"--horizon": 4, "--context": 8, "--out": out, "--steps": 1}
    others = [part for pair in usual.items() if pair[0] not in options for part in pair]
    found = shown(capsys, "train", tmp_path / "t.parquet", *others, *options)
    assert message in found
    assert not out.exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mistakes")
    frame(unique_id=polars.lit("a")).write_parquet(directory / "t.parquet")
    return train(
        data=directory / "t.parquet", horizon=4, context=8, future="x", hidden_size=4, steps=1, batch=16,
        engine="reference", threads=1, out=directory / "run", progress=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (frame(unique_id=polars.lit("a")), "series 'a' end too early; add rows up to 2024-01-05 07:00:00"),
        (frame(unique_id=polars.lit("b")), "has 1 series that were not in training, such as 'b'"),
        (frame(unique_id=polars.lit("a"))[::3], "one row every 3h, but the network was trained on one row every 1h"),
        (frame(unique_id=polars.lit("a")).drop("x"), "has no column 'x' for --future"),
    ],
)  # fmt: skip
def test_prediction_reports_mistakes(tmp_path, capsys, run, table, message):
    table.write_parquet(tmp_path / "t.parquet")
    assert message in shown(capsys, "predict", Run.open(run.path).path, tmp_path / "t.parquet")


def test_rows_in_any_order_are_sorted_by_time(tmp_path):
    frame().write_parquet(tmp_path / "a.parquet")
    frame().sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "b.parquet")
    a, b = (read_time_series(tmp_path / f"{name}.parquet", target="y") for name in "ab")
    np.testing.assert_array_equal(a.series[0].values, b.series[0].values)

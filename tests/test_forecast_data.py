"""Time series tables: parsing, errors, and no use of rows after a forecast's origin."""

from dataclasses import replace

import numpy as np
import polars
import pytest
from sklearn.preprocessing import RobustScaler, StandardScaler

from throughtime.codecs import Codecs
from throughtime.data.seasons import found_season
from throughtime.data.series_codec import Scale
from throughtime.data.timeseries import read_time_series
from throughtime.data.windows import WindowBatches
from throughtime.errors import DataError
from throughtime.tasks.forecast import ForecastOptions, ForecastTask

HOURS = polars.datetime_range(
    polars.datetime(2024, 1, 1), polars.datetime(2024, 12, 1), "1h", time_unit="us", eager=True
)


def table(path, rows=300, **columns):
    """An hourly table with a daily cycle."""
    draw = np.random.default_rng(0)
    y = np.sin(np.arange(rows) * 2 * np.pi / 24) * 3 + 20 + 0.1 * draw.normal(size=rows)
    frame = polars.DataFrame({"date": HOURS[:rows], "y": y, **columns})
    frame.write_parquet(path)
    return frame


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def task(path, **options):
    return ForecastTask(ForecastOptions(data=(str(path),), **{"horizon": 6, "context": 12, **options}))


def test_wide_and_long_tables_contain_the_same_series(tmp_path):
    wide = "ds,a,b\n2024-01-01,1,10\n2024-01-02,2,20\n2024-01-04,4,40\n"
    long = "unique_id,ds,y\n" + "".join(
        f"{name},2024-01-0{day},{factor * day}\n" for day in (4, 2, 1) for name, factor in (("b", 10), ("a", 1))
    )
    found = [read_time_series(written(tmp_path, text), target=target) for text, target in ((wide, "a,b"), (long, None))]
    for each in found:
        assert [series.name for series in each.series] == ["a", "b"]
        np.testing.assert_array_equal(each.series[1].values, [10, 20, np.nan, 40])
        assert each.timeline.text == "1d"
        assert each.timeline.label(each.series[0].start + 3) == "2024-01-04"
        assert any("1 missing timestamp " in note or "2 missing timestamps " in note for note in each.notes)


def test_unused_columns_are_named_with_the_option_that_uses_them(tmp_path):
    text = "ds,y,load,wind\n" + "".join(f"2024-01-0{day},1,2,3\n" for day in range(1, 5))
    note = "unused columns: load, wind; to let the network read columns, name them with past"
    assert note in read_time_series(written(tmp_path, text), target="y").notes
    assert not read_time_series(written(tmp_path, text), target="y", past="load,wind").notes


def daily(tmp_path, rows):
    """A table with a row `(y, x, f)` for each day from Monday, 2024-01-01, on; None leaves a day out."""
    lines = [f"2024-01-{1 + k:02},{','.join(row)}\n" for k, row in enumerate(rows) if row]
    return written(tmp_path, "ds,y,x,f\n" + "".join(lines))


def test_missing_values_are_counted_in_one_note(tmp_path):
    rows = [["1", "2", "3"] for _ in range(20)]
    rows[2][0] = rows[3][0] = ""
    rows[4][1] = "NA"
    found = read_time_series(daily(tmp_path, rows), target="y", past="x", future="f")
    both = "the network reads a mask that marks those of the target, and missing covariates are replaced by their mean"
    assert found.notes == [f"the target has 2 missing values and x has 1 missing value; {both}"]
    rows[7] = None
    found = read_time_series(daily(tmp_path, rows), target="y", past="f")
    assert found.notes[0] == (
        "the target has 2 missing values, besides 1 missing timestamp (interval 1d); the network reads a mask that "
        "marks them"
    )
    found = read_time_series(daily(tmp_path, rows), target="f", past="x,y")
    assert found.notes[0] == (
        "x has 1 missing value and y has 2 missing values, besides 1 missing timestamp (interval 1d); missing "
        "covariates are replaced by their mean"
    )


def test_rows_after_the_last_target_are_not_missing_values(tmp_path):
    rows = [["1", "2", "3"] for _ in range(9)] + [["", "", "3"], None, ["", "", "3"]]
    found = read_time_series(daily(tmp_path, rows), target="y", past="x", future="f")
    assert found.notes == ["1 missing timestamp (interval 1d), treated as missing values"]


def test_a_table_of_business_days_says_how_to_forecast_them(tmp_path):
    days = [k for k in range(200) if k % 7 < 5]  # from a Monday on
    y = np.array([10.0, 12, 15, 13, 30])[np.array(days) % 7] + np.random.default_rng(0).normal(size=len(days))
    frame = polars.DataFrame({"date": (HOURS[::24][days]).dt.date(), "y": y})
    frame.write_csv(tmp_path / "dated.csv")
    frame.drop("date").write_csv(tmp_path / "numbered.csv")
    advice = "no row is on a Saturday or Sunday; to forecast only the other days, remove column 'date', so that rows "
    assert any(note.startswith(advice) for note in read_time_series(tmp_path / "dated.csv", target="y").notes)
    numbered = task(tmp_path / "numbered.csv").prepare()
    assert not numbered.codecs.inputs.masked
    assert numbered.codecs.inputs.season == 5


@pytest.mark.parametrize(("horizon", "context", "noted"), [(90, None, True), (90, 100, False), (20, None, False)])
def test_a_context_shortened_for_lack_of_rows_is_noted(tmp_path, horizon, context, noted):
    table(tmp_path / "t.parquet")
    data = task(tmp_path / "t.parquet", horizon=horizon, context=context, split="200,100,0").prepare()
    note = "context shortened from 360 to 110 rows because there are only 200 rows for training; "
    assert any(each.startswith(note) for each in data.notes) == noted
    assert data.counts["context"] == (context or min(4 * horizon, 110))


def test_a_forecast_from_fewer_rows_than_its_context_warns(tmp_path, caplog):
    frame = table(tmp_path / "t.parquet")
    trained = task(tmp_path / "t.parquet")
    codecs = trained.prepare().codecs
    frame[:12].write_parquet(tmp_path / "enough.parquet")
    frame[:9].write_parquet(tmp_path / "few.parquet")
    trained.read_inputs([tmp_path / "enough.parquet"], codecs)
    assert not caplog.records
    trained.read_inputs([tmp_path / "few.parquet"], codecs)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path / 'few.parquet'} has 9 rows, fewer than the context of 12 rows that a forecast reads; the rows "
        "before the first are treated as missing"
    )


@pytest.mark.parametrize(("separator", "shown"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_reported(separator, shown, tmp_path):
    path = written(tmp_path, f"ds{separator}y\n2024-01-01{separator}1\n")
    with pytest.raises(DataError, match=f"Its only column is .*separated by {shown}; expected commas"):
        read_time_series(path, target="y")


@pytest.mark.parametrize(
    ("separator", "text"), [("semicolons", "ds;y\n2024-01-01;1,5\n"), ("tabs", "ds\ty\n2024-01-01\t1,5\n")]
)
def test_another_separator_is_reported_despite_decimal_commas(tmp_path, separator, text):
    message = f"the cells seem to be separated by {separator}; expected commas, and decimal points in numbers"
    with pytest.raises(DataError, match=message):
        read_time_series(written(tmp_path, text), target="y")
    with pytest.raises(DataError, match="quote cells that contain the separator"):
        read_time_series(written(tmp_path, "ds,y\n2024-01-01,1,5\n"), target="y")


@pytest.mark.parametrize(("header", "reported"), [("2021-01-01,50", True), ("day,50.25", True), ("day,50", False)])
def test_a_missing_header_is_reported(tmp_path, header, reported):
    with pytest.raises(DataError, match=r"has no column 'y' for target\. Its columns are ") as error:
        read_time_series(written(tmp_path, f"{header}\n2021-01-02,3\n"), target="y")
    assert str(error.value).endswith("; the file seems to have no header: add one as its first line") == reported


@pytest.mark.parametrize(
    ("times", "step", "after"),
    [
        (("2024-01-31", "2024-02-29", "2024-03-31"), "1mo", "2024-04-30"),
        (("2024-01-01", "2024-04-01", "2024-07-01"), "3mo", "2024-10-01"),
        (("2023-12-04", "2023-12-11", "2023-12-18"), "1w", "2023-12-25"),
        (("2024-01-01T00:30", "2024-01-01T00:45", "2024-01-01T01:00"), "15min", "2024-01-01 01:15:00"),
        # A night on which clocks are set back; the offset distinguishes the repeated hour.
        (
            ("2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00", "2024-10-27T03:00+01:00"),
            "1h",
            "2024-10-27 03:00:00+00:00",
        ),
        (("7", "9", "11"), "2", "13"),
    ],
)
def test_the_interval_is_detected_and_continued(tmp_path, times, step, after):
    found = read_time_series(written(tmp_path, "ds,y\n" + "".join(f"{t},1\n" for t in times)), target="y")
    assert found.timeline.text == step
    assert found.timeline.label(found.series[0].start + 3) == after
    assert len(found.series[0]) == 3


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("ds,y\n2024-01-01,1\n2024-01-01,2\n2024-01-02,2\n", {}, "1 duplicate time .*2024-01-01.*set id, the column"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2\n2024-01-03T05:00,2\n", {}, "irregular: 1 of 3 .*Resample"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2\n2024-01-03,2\n", {"freq": "w"}, "irregular"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2\n", {"freq": "fortnight"}, "freq=fortnight is not an interval; expected"),
        ("ds,y\n2024-01-01,1\n2024-01-02,high\n", {}, "column 'y' .* must contain numbers, got 'high' in row 2"),
        ("ds,y\n2024-01-01,1\n2024-01-02,inf\n", {}, r"1 infinite value \(row 2\)"),
        ("ds,y\n2024-01-01,\n2024-01-02,\n", {}, "target 'y' has no values"),
        ("ds,y\nlater,1\nnow,2\n", {}, "must contain numbers or ISO 8601"),
        ("ds,x\n2024-01-01,1\n", {}, "has no column 'y'"),
        (
            "ds,y,c\n2024-01-01,1,a\n2024-01-02,2,b\n",
            {"static": "c"},
            "static column 'c' changes over time; encode the text as columns of 0 and 1, .* name them with past or fut",
        ),
        (
            "unique_id,ds,y,c\nA,2024-01-01,1,3\nA,2024-01-02,2,4\n",
            {"static": "c"},
            "static column 'c' changes within series 'A'; use past or future instead",
        ),
        (
            "ds,y,c\n2024-01-01,1,a\n2024-01-02,2,b\n",
            {"future": "c"},
            "must contain numbers, got 'a' in row 1; only static columns can contain text: encode the text as columns",
        ),
        ("ds,y,c\n2024-01-01,1,a\n2024-01-02,2,b\n", {"past": "c", "future": "c"}, "used by both past and future"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2\n2030-01-01,2\n", {}, "rows would be missing"),
    ],
)
def test_invalid_tables_are_rejected(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message):
        read_time_series(written(tmp_path, text), target="y", **options)


def test_scales_match_scikit_learn():
    values = np.random.default_rng(0).gamma(2.0, size=101)
    for how, scaler in (("standard", StandardScaler()), ("robust", RobustScaler(unit_variance=True))):
        expected = scaler.fit_transform(values[:, None])[:, 0]
        # RobustScaler divides by the exact 1.34898 rather than 1.349; float32.
        np.testing.assert_allclose(Scale.fit(values, how).encode(values), expected, rtol=1e-4, atol=1e-6)
    assert np.abs(Scale.fit(-values, "mean").encode(values)).mean() == pytest.approx(1, rel=1e-6)
    assert Scale.fit(np.full(9, 0.1)).factor == 1
    scale = Scale.fit(values)
    np.testing.assert_allclose(scale.decode(scale.encode(values)), values, rtol=1e-6)  # float32


def test_the_season_is_detected():
    wave = np.sin(np.arange(500) * 2 * np.pi / 12) + 0.1 * np.random.default_rng(0).normal(size=500)
    assert found_season([wave], ()) == 12
    assert found_season([wave], (24, 7)) == 24
    assert found_season([np.cumsum(np.random.default_rng(0).normal(size=500))], ()) == 1
    assert found_season([wave[:10]], (24,)) == 1


@pytest.mark.parametrize("period", [4, 7, 24, 60])
def test_the_season_is_the_shortest_period(period):
    """Values repeat after any number of seasons, and noise decides after how many they repeat best."""
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=900)
        assert found_season([np.sin(np.arange(900) * 2 * np.pi / period) + 0.1 * noise], ()) == period


def test_windows_contain_the_rows_around_an_origin(tmp_path):
    frame = table(tmp_path / "t.parquet")
    data = task(tmp_path / "t.parquet", segment=4, split="200,50,50", calendar=False).prepare()
    scale = data.codecs.inputs.scales["y"]
    y = scale.encode(frame["y"].to_numpy())
    assert (len(data.train), len(data.valid), len(data.valid.later), len(data.test)) == (200 - 17, 20, 20, 45)
    assert scale == Scale.fit(frame["y"].to_numpy()[:200])
    for windows, first in ((data.train, 12), (data.valid, 200), (data.valid.later, 225), (data.test, 250)):
        batch = windows.batch(np.array([0, 3]))
        for b, origin in enumerate((first, first + 3)):
            context = y[origin - 12 : origin].reshape(3, 4) - y[origin - 1]
            np.testing.assert_array_equal(batch.inputs[:3, b, :4], context)
            assert not batch.inputs[:3, b, 4:].any()
            np.testing.assert_array_equal(batch.inputs[3:, b], [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]])
            written = batch.targets[3:, b].reshape(-1)[:6]
            np.testing.assert_array_equal(written, y[origin : origin + 6] - y[origin - 1])
            np.testing.assert_array_equal(batch.weights[:, b].reshape(-1), [0] * 12 + [1] * 6 + [0] * 2)
        assert batch.terms == 12


def test_the_network_can_read_which_series_it_forecasts(tmp_path, monkeypatch):
    table(tmp_path / "t.parquet", other=np.arange(300.0))
    options = {"target": "y,other", "segment": 4, "calendar": False}
    plain, found = (task(tmp_path / "t.parquet", **options, identify=on).prepare() for on in (False, True))
    assert found.train.features == plain.train.features + 2
    chosen = np.array([0, len(found.train) - 1])
    steps, without = (each.train.inputs(chosen).steps for each in (found, plain))
    np.testing.assert_array_equal(steps[..., 4:6], np.broadcast_to(np.eye(2), (*steps.shape[:2], 2)))
    np.testing.assert_array_equal(np.delete(steps, [4, 5], 2), without)
    assert Codecs.of_data(found.codecs.to_data()).inputs == found.codecs.inputs
    monkeypatch.setattr("throughtime.data.series_codec._MAX_IDENTIFIED", 1)
    with pytest.raises(DataError, match="has 2 series; identify is for at most 1\\."):
        task(tmp_path / "t.parquet", **options, identify=True).prepare()


def test_epochs_contain_each_window_once_and_batches_depend_only_on_the_step(tmp_path):
    table(tmp_path / "t.parquet")
    windows = task(tmp_path / "t.parquet").prepare().train
    batches = WindowBatches(windows, 50, seed=3)
    members = [np.concatenate([batches._members(len(batches) * e + k) for k in range(len(batches))]) for e in (0, 1)]
    for each in members:
        np.testing.assert_array_equal(np.sort(each), np.arange(len(windows)))
    assert not np.array_equal(*members)
    np.testing.assert_array_equal(WindowBatches(windows, 50, seed=3).batch(5).inputs, batches.batch(5).inputs)
    whole = batches.batch(1)
    parts = [WindowBatches(windows, 50, 3, rank, 2).batch(1) for rank in (0, 1)]
    np.testing.assert_array_equal(whole.inputs[:, ::2], parts[0].inputs)
    assert parts[0].terms == parts[1].terms == whole.terms / 2


@pytest.mark.parametrize("kind", ["y", "past"])
def test_nothing_after_an_origin_reaches_the_network_or_the_codec(tmp_path, kind):
    draw = np.random.default_rng(1)
    frame = table(tmp_path / "a.parquet", past=draw.normal(size=300), future=draw.normal(size=300))
    changed = frame.with_columns(polars.when(polars.int_range(300) < 220).then(kind).otherwise(1e6).alias(kind))
    changed.write_parquet(tmp_path / "b.parquet")
    options = {"split": "200,50,50", "past": "past", "future": "future", "segment": 3}
    before, after = (task(tmp_path / f"{name}.parquet", **options).prepare() for name in "ab")
    assert before.codecs.to_data() == after.codecs.to_data()
    np.testing.assert_array_equal(before.train.batch(np.arange(9)).inputs, after.train.batch(np.arange(9)).inputs)
    for offset, same in ((20, True), (21, False)):  # origins 220 and 221
        windows = [replace(d.valid, first=np.array([200 + offset]), counts=np.array([1])) for d in (before, after)]
        found = [each.inputs(np.array([0])) for each in windows]
        assert all(np.array_equal(x, y) for x, y in zip(*found, strict=True)) == same


def test_missing_values_have_a_mask(tmp_path):
    text = "ds,y,f\n" + "".join(
        f"2024-01-{1 + k // 24:02} {k % 24:02}:00,{'' if k % 7 == 3 else k},{k}\n" for k in range(96) if k % 11
    )
    data = task(written(tmp_path, text), horizon=3, segment=3, context=6, future="f").prepare()
    codec = data.codecs.inputs
    assert codec.masked
    batch = data.train.batch(np.arange(len(data.train)))
    _, origins = data.train.where(np.arange(len(data.train)))
    rows = origins[:, None] + np.arange(-6, 3) + 1  # row 0 of the file is hour 1
    present = (rows % 7 != 3) & (rows % 11 != 0)
    np.testing.assert_array_equal(batch.inputs[:2, :, 3:6].transpose(1, 0, 2).reshape(-1, 6), present[:, :6])
    np.testing.assert_array_equal(batch.weights[2], present[:, 6:])
    assert not batch.inputs[:2, :, :3].transpose(1, 0, 2).reshape(-1, 6)[~present[:, :6]].any()
    assert np.isfinite(batch.inputs).all()
    last = codec.scales["y"].encode(np.where(present, rows, -1)[:, :6].max(1).astype(float))
    np.testing.assert_allclose(data.train.inputs(np.arange(len(data.train))).last, last)


def test_the_codec_is_saved_without_loss(tmp_path):
    draw = np.random.default_rng(1)
    table(tmp_path / "t.parquet", past=draw.normal(size=300), kind=["x"] * 300)
    data = task(tmp_path / "t.parquet", past="past", static="kind").prepare()
    again = Codecs.of_data(data.codecs.to_data())
    assert again.inputs == data.codecs.inputs
    for damaged in ({"season": 0}, {"scales": {"y": [0, 0]}}, {"timeline": {"unit": "era"}}, {"columns": 3}):
        with pytest.raises(DataError, match="damaged codec"):
            Codecs.of_data({"inputs": data.codecs.to_data()["inputs"] | damaged, "targets": None})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"horizon": 250},
            r"horizon=250 .* is too large .*: the largest possible horizon is",
        ),
        ({"context": 280}, r"horizon=6 with context=280 is too large .*: even a horiz"),
        ({"horizon": None}, "forecast needs horizon"),
        ({"target": "nothing"}, "has no column 'nothing'"),
        ({"split": "250,40,10", "horizon": 45}, r"horizon=45 .* is too large .*: the largest possible horizon is"),
        ({"valid": "other.csv"}, "splits one table by time; use split"),
        ({"data": ("a.csv", "b.csv")}, "reads one table .* got a.csv, b.csv"),
        ({"target": "constant"}, "constant in the training part"),
    ],
)
def test_unusable_data_are_rejected(tmp_path, options, message):
    table(tmp_path / "t.parquet", constant=[4.0] * 300)
    with pytest.raises(DataError, match=message):
        task(tmp_path / "t.parquet").__class__(
            ForecastOptions(**{"data": (str(tmp_path / "t.parquet"),), "horizon": 6, "context": 12, **options})
        ).prepare()


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_fast_path_for_regular_series_matches_the_general_one(tmp_path, kind, monkeypatch):
    """Long sorted series are read in pieces, without the copies needed for sorting."""
    monkeypatch.setattr("throughtime.data.table._PIECE", 7)
    frame = table(tmp_path / "t.parquet", 100).with_columns(
        polars.col("y").cast(polars.Float32), f=polars.int_range(100).cast(polars.Float64)
    )
    frame = frame.with_columns(y=polars.when(polars.int_range(100).is_in([3, 98, 99])).then(None).otherwise("y"))
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    for name, each in (("a", frame), ("b", shuffled)):
        getattr(each, f"write_{kind}")(tmp_path / f"{name}.{kind}")
    options = {"target": "y", "past": "f"}
    found, wanted = (read_time_series(tmp_path / f"{name}.{kind}", **options) for name in "ab")
    assert found.timeline == wanted.timeline
    assert found.digest == wanted.digest
    assert found.notes == wanted.notes
    assert len(found.series[0]) == 98
    for freq in ("1h", "60min"):
        assert read_time_series(tmp_path / f"a.{kind}", freq=freq, **options).digest == wanted.digest
    with pytest.raises(DataError, match="irregular"):
        read_time_series(tmp_path / f"a.{kind}", freq="2h", **options)


def test_a_damaged_parquet_file_raises(tmp_path):
    table(tmp_path / "t.parquet")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4:900] = bytes(896)
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a readable \.parquet table"):
        read_time_series(tmp_path / "t.parquet", target="y")

"""The forecasting estimator: data frames and arrays, scikit-learn conventions, and files."""

import logging
import pickle

import numpy as np
import polars
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import throughtime
from throughtime import Forecaster
from throughtime.errors import DataError, ModelError, UserError

QUICK = {"hidden_size": 8, "steps": 10, "batch": 64, "engine": "reference", "threads": 1, "random_state": 0}
ROWS, H = 120, 4


def frame(rows=ROWS, ahead=0):
    """Two series with a weekly cycle, in Nixtla's long format."""
    draw = np.random.default_rng(0)
    days = polars.datetime_range(polars.datetime(2024, 1, 1), polars.datetime(2025, 1, 1), "1d", eager=True)
    frames = []
    for name, level in (("a", 100.0), ("b", 1.0)):
        promotion = draw.integers(0, 2, rows + ahead)
        y = level * (2 + np.sin(np.arange(rows + ahead) * 2 * np.pi / 7) + promotion)
        frames.append(
            polars.DataFrame(
                {
                    "unique_id": [name] * (rows + ahead),
                    "ds": days[: rows + ahead],
                    "y": [*y[:rows], *[None] * ahead],
                    "promotion": promotion,
                    "size": [len(name) * level] * (rows + ahead),
                }
            )
        )
    return polars.concat(frames)


@pytest.fixture(scope="module")
def fitted():
    return Forecaster(H, input_size=14, futr_exog_list=["promotion"], stat_exog_list=["size"], **QUICK).fit(
        frame(ahead=H)
    )


def test_a_forecast_continues_each_series_in_nixtlas_columns(fitted, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    again = clone(fitted).fit(frame(ahead=H))
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr()
    assert (out.out, out.err, caplog.records) == ("", "", [])
    found = again.predict()
    assert found.equals(fitted.predict())  # because of random_state
    assert found.columns == ["unique_id", "ds", "forecast", "forecast-lo-80", "forecast-hi-80"]
    assert found["unique_id"].to_list() == ["a"] * H + ["b"] * H
    assert found["ds"].to_list() == frame(ahead=H)["ds"].to_list()[ROWS : ROWS + H] * 2
    assert (found["forecast-lo-80"] < found["forecast"]).all()
    assert found["forecast"][:H].mean() > 50 * found["forecast"][H:].mean()


def test_covariates_can_be_passed_in_separate_frames(fitted):
    table = frame(ahead=H)
    seen, ahead = table.filter(polars.col("y").is_not_null()), table.filter(polars.col("y").is_null())
    static = polars.DataFrame({"unique_id": ["b", "a"], "size": [1.0, 100.0]})
    futr = ahead.select("unique_id", "ds", "promotion")
    wanted = fitted.predict()
    assert fitted.predict(seen, futr_df=futr).equals(wanted)
    assert fitted.predict(seen.drop("size"), futr_df=futr, static_df=static).equals(wanted)
    assert clone(fitted).fit(seen.drop("size"), static_df=static).predict(futr_df=futr)["ds"].equals(wanted["ds"])
    with pytest.raises(DataError, match="future covariates of series 'a' end too early; add rows up to 2024-05-03"):
        fitted.predict(seen, futr_df=futr.head(3))
    with pytest.raises(DataError, match="static_df must have one row per unique_id"):
        fitted.predict(seen, static_df=polars.concat([static, static]))
    with pytest.raises(DataError, match="futr_df has no column 'promotion'"):
        fitted.predict(seen, futr_df=futr.drop("promotion"))


def test_new_rows_move_the_origin_without_training():
    table = frame().drop("promotion", "size")
    early = table.filter(polars.col("ds") < polars.datetime(2024, 4, 20))
    model = Forecaster(H, input_size=14, **QUICK).fit(early)
    weights = {name: value.clone() for name, value in model.model_.state_dict().items()}
    before = model.predict()
    wanted = model.predict(table)
    late = table.filter(polars.col("ds") >= polars.datetime(2024, 4, 20))
    assert model.update(late[::-1]).predict().equals(wanted)
    assert not before.equals(wanted)
    assert all(value.equal(weights[name]) for name, value in model.model_.state_dict().items())
    with pytest.raises(DataError, match="has no column 'y'"):
        model.update(late.drop("y"))


def test_pandas_and_polars_frames_are_equivalent(fitted):
    pandas = pytest.importorskip("pandas")
    table = frame(ahead=H)
    same = pandas.DataFrame({name: table[name].to_list() for name in table.columns})
    found = fitted.predict(same)
    assert isinstance(found, pandas.DataFrame)
    wanted = fitted.predict(table)
    assert list(found.columns) == wanted.columns
    assert found["ds"].dtype.kind == "M"
    np.testing.assert_array_equal(found["forecast"], wanted["forecast"])
    np.testing.assert_array_equal(found["ds"].to_numpy("datetime64[us]"), wanted["ds"].to_numpy())
    # A series indexed by times in a time zone.
    index = pandas.date_range("2024-03-01", periods=100, freq="h", tz="Europe/Berlin")
    wave = pandas.Series(np.sin(np.arange(100) / 4), index=index)
    found = Forecaster(3, input_size=12, **QUICK).fit(wave).predict()
    assert list(found["ds"]) == [index[-1] + pandas.Timedelta(hours=k) for k in (1, 2, 3)]
    categories = same.assign(unique_id=same["unique_id"].astype("category"), y=same["y"].astype("Float64"))
    np.testing.assert_array_equal(fitted.predict(categories)["forecast"], wanted["forecast"])


def test_arrays_return_arrays():
    y = np.sin(np.arange(100) * 2 * np.pi / 10)
    model = Forecaster(5, input_size=10, **{**QUICK, "steps": 80, "lr": 0.02, "dropout": 0.0}).fit(y)
    assert model.predict().shape == (5,)
    assert np.abs(model.predict() - np.sin(np.arange(100, 105) * 2 * np.pi / 10)).max() < 0.4
    both = Forecaster(5, input_size=10, **QUICK).fit(np.stack([y, 10 * y], 1))
    assert both.predict().shape == (5, 2)
    assert both.predict(np.stack([y, 10 * y], 1)[:50]).shape == (5, 2)
    np.testing.assert_array_equal(both.update(np.ones((3, 2))).predict().shape, (5, 2))
    wide = polars.DataFrame({"ds": np.arange(100), "p": y, "q": -y})
    found = Forecaster(5, target_col=["p", "q"], input_size=10, **QUICK).fit(wide).predict()
    assert found["series"].to_list() == ["p"] * 5 + ["q"] * 5
    assert found["ds"].to_list() == [*range(100, 105)] * 2
    moments = np.arange("2024-01", "2024-05", dtype="datetime64[D]")[:100].astype("datetime64[us]")
    zoned = polars.DataFrame({"ds": moments, "y": y}).with_columns(polars.col("ds").dt.replace_time_zone("Asia/Tokyo"))
    found = Forecaster(2, input_size=10, **QUICK).fit(zoned).predict()
    assert found["ds"].dt.convert_time_zone("Asia/Tokyo").dt.day().to_list() == [10, 11]


def test_the_score_is_the_skill_over_the_naive_forecast(fitted):
    table = frame(ROWS + 20)
    assert fitted.score(table) < 1
    naive, own = [], []
    origins = [ROWS + 16 - 3 * k for k in range(5)]
    for name in "ab":
        one = table.filter(unique_id=name)
        y = one["y"].to_numpy()
        scale = fitted._codecs.inputs.scales[name].factor
        for origin in origins:
            cut = one.with_columns(polars.when(polars.int_range(polars.len()) < origin).then("y").alias("y"))
            forecast = fitted.predict(cut)["forecast"].to_numpy()
            own.append(np.abs(forecast - y[origin : origin + H]) / scale)
            naive.append(np.abs(y[origin - 7 : origin - 7 + H] - y[origin : origin + H]) / scale)
    # Float32 forecasts, in batches of another size.
    assert fitted.score(table, windows=5, step=3) == pytest.approx(1 - np.mean(own) / np.mean(naive), rel=1e-4)


def test_a_saved_estimator_returns_the_same_forecasts(fitted, tmp_path):
    fitted.save(tmp_path / "f.safetensors")
    again = Forecaster.load(tmp_path / "f.safetensors")
    assert again.get_params() == fitted.get_params()
    table = frame(ahead=H)
    assert again.predict(table).equals(fitted.predict())
    assert pickle.loads(pickle.dumps(fitted)).predict().equals(fitted.predict())
    with pytest.raises(UserError, match="predict needs df, because a loaded estimator has no data"):
        again.predict()
    again.update(table)
    assert again.predict().equals(fitted.predict())
    assert throughtime.load(tmp_path / "f.safetensors").task.name == "frame-forecast"
    throughtime.SequenceRegressor(steps=1, epochs=None, hidden_size=4, threads=1).fit(
        np.zeros((9, 3)), np.arange(9.0)
    ).save(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="is for the task 'array-regression'"):
        Forecaster.load(tmp_path / "other.safetensors")


def test_parameters_can_be_set_and_cloned(fitted):
    params = fitted.get_params()
    assert params["h"] == H
    assert params["futr_exog_list"] == ["promotion"]
    assert clone(fitted).get_params() == params
    assert Forecaster(3).set_params(h=5, head="quantiles").h == 5
    with pytest.raises(NotFittedError):
        Forecaster(3).predict()


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"h": 0}, None, "horizon must be at least 1"),
        ({"level": 100}, None, "level must be between 0 and 100, got 100"),
        ({"validation_fraction": 0}, None, "validation_fraction must be between 0 and 1, got 0"),
        ({"steps": None}, None, "steps, epochs and minutes are all None"),
        ({"head": "cauchy"}, None, "head must be one of"),
        ({"futr_exog_list": ["a,b"]}, None, "must be names of columns that don't contain commas"),
        ({"target_col": "z"}, None, "df has no column 'z'"),
        ({}, "a.csv", "expected a pandas or polars data frame or an array, got str"),
        ({}, [["x"]], "df must hold numbers"),
        ({}, np.zeros((3, 2, 2)), r"must have the shape \[T\] or \[T, series\], got \[3, 2, 2\]"),
        ({}, polars.DataFrame({"ds": [], "y": []}), "df has no rows"),
    ],
)
def test_unfittable_data_are_rejected(options, data, message):
    with pytest.raises(ValueError, match=message):
        Forecaster(**{"h": 3, "input_size": 6, **QUICK, **options}).fit(frame() if data is None else data)

"""Options of the forecast task."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from throughtime.data.limits import Scaling
from throughtime.options import Count
from throughtime.tasks.options import TaskOptions


def _shares(value: Any) -> str:
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    rows = all(number >= 1 or number == 0 for number in numbers) and all(n == round(n) for n in numbers)
    shares = all(0 <= number < 1 for number in numbers) and sum(numbers) <= 1 + 1e-9
    if len(numbers) != 3 or not (rows or shares) or min(numbers[:2]) <= 0:
        raise ValueError(
            "expected three numbers for training, validation and test: fractions such as 0.7,0.1,0.2, or row counts "
            "such as 8640,2880,2880"
        )
    return ",".join(f"{number:g}" if shares else str(int(number)) for number in numbers)


def _levels(value: Any) -> str:
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or any(not 0 < number < 1 for number in numbers) or sorted(set(numbers)) != numbers:
        raise ValueError("expected at least two ascending levels between 0 and 1, such as 0.1,0.5,0.9")
    return ",".join(f"{number:g}" for number in numbers)


class ForecastOptions(TaskOptions):
    """Options of the forecast task.

    Attributes:
        data: a table (.csv, .tsv or .parquet) with a row per time, or per time and series.
        target: the columns to forecast, separated by commas; each is a separate series. `y` by default.
        horizon: the number of rows to forecast; required.
        context: the number of past rows that the network reads; by default four horizons, but no more than 672 rows, or
            one horizon if it is longer than that.
        strategy: the decoding strategy: parallel decodes each step of the horizon from the state after the context
            (SegRNN, arXiv:2308.11200); direct decodes them one after another; recursive feeds each forecast back to the
            network. The default is parallel, or direct if there are future covariates, which can have lasting effects.
        segment: the number of rows per step of the network (SegRNN, arXiv:2308.11200); by default the horizon is
            divided into equal parts of at most 24 rows, or single rows if the strategy is recursive.
        time: the timestamp column; by default one named ds, date, time, timestamp or datetime.
        id: the column that identifies the series; `unique_id` by default, if present.
        past: covariates known up to the present, separated by commas.
        future: covariates also known for the times to forecast, separated by commas.
        static: covariates that are constant within a series, separated by commas.
        freq: the interval between rows, such as h, 15min, d, w or mo; the most frequent one by default.
        season: the number of rows per season, for the seasonal naive baseline and MASE; detected by default.
        identify: whether the network also reads which series it forecasts, in one-hot code.
        calendar: whether the network also reads the time of day, week and year.
        scaling: the scaling of each series, fitted to its training rows: standard uses the mean and standard deviation;
            robust the median and interquartile range; mean the mean absolute value.
        split: the parts of each series for training, validation and test, in order of time, as fractions (each part
            at least one horizon long) or row counts.
        head: the output and its loss: mse and mae predict one value; quantiles, normal and student_t predict a
            distribution.
        quantiles: the levels that the quantiles head predicts, separated by commas.
        interval: the fraction of values that calibrated intervals should contain.
    """

    defaults: ClassVar = {"cell": "gru", "hidden_size": 256, "dropout": 0.3, "batch": 256, "lr": 1e-3, "steps": 800}

    task: Literal["forecast"] = "forecast"
    target: str | None = None
    horizon: Count | None = None
    context: Count | None = None
    strategy: Literal["parallel", "direct", "recursive"] | None = None
    segment: Count | None = None
    time: str | None = None
    id: str | None = None
    past: str | None = None
    future: str | None = None
    static: str | None = None
    freq: str | None = None
    season: Count | None = None
    identify: bool = False
    calendar: bool = True
    scaling: Scaling = "standard"
    split: Annotated[str, BeforeValidator(_shares)] = "0.7,0.1,0.2"
    head: Literal["mse", "mae", "quantiles", "normal", "student_t"] = "mae"
    quantiles: Annotated[str, BeforeValidator(_levels)] = "0.1,0.5,0.9"
    interval: Annotated[float, Field(gt=0, lt=1)] = 0.8

"""The options of forecasts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from throughtime.data.series_codec import Scaling
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
            "expected three numbers for training, validation and test: shares such as 0.7,0.1,0.2, or rows such as "
            "8640,2880,2880"
        )
    return ",".join(f"{number:g}" if shares else str(int(number)) for number in numbers)


def _levels(value: Any) -> str:
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or any(not 0 < number < 1 for number in numbers) or sorted(set(numbers)) != numbers:
        raise ValueError("expected two levels or more between 0 and 1 in ascending order, such as 0.1,0.5,0.9")
    return ",".join(f"{number:g}" for number in numbers)


class ForecastOptions(TaskOptions):
    """Tables over time.

    Attributes:
        data: a table (.csv, .tsv or .parquet) with a row for each time, or for each time and series.
        target: the columns to forecast, with commas between them; each is a series of its own. `y` if not given.
        horizon: how many rows to forecast.
        context: how many rows the network looks back; four horizons, but at most 672 or a horizon, if not given.
        strategy: direct decodes the whole horizon from the state after the context; recursive decodes one step, which
            the network then reads to decode the next one.
        segment: how many rows a step of the network reads or writes (SegRNN, arXiv:2308.11200); the horizon in equal
            parts of at most 24 rows if not given, and one row where the strategy is recursive.
        time: the column of time stamps; one named ds, date, time, timestamp or datetime if not given.
        id: the column that tells series apart; `unique_id` if there is one.
        past: covariates known up to the present, with commas between them.
        future: covariates that are also known for the times to forecast.
        static: covariates that are the same in all rows of a series.
        freq: the step between rows, such as h, 15min, d, w or mo; the most frequent one if not given.
        season: the rows of a season, for the seasonal naive baseline and MASE; found if not given.
        calendar: whether the network reads the times of day, week and year.
        scaling: how each series is scaled, fitted on its training rows. standard: mean and standard deviation; robust:
            median and interquartile range; mean: the mean absolute value.
        split: how much of each series is for training, validation and test, in this order of time: shares, each of
            them a horizon or more, or rows.
        head: mse or mae for one value; quantiles, normal or student_t for a distribution.
        quantiles: the levels that the quantiles head predicts.
        interval: the share of values that intervals are calibrated to contain.
    """

    task: Literal["forecast"] = "forecast"
    target: str | None = None
    horizon: Count | None = None
    context: Count | None = None
    strategy: Literal["direct", "recursive"] = "direct"
    segment: Count | None = None
    time: str | None = None
    id: str | None = None
    past: str | None = None
    future: str | None = None
    static: str | None = None
    freq: str | None = None
    season: Count | None = None
    calendar: bool = True
    scaling: Scaling = "standard"
    split: Annotated[str, BeforeValidator(_shares)] = "0.7,0.1,0.2"
    head: Literal["mse", "mae", "quantiles", "normal", "student_t"] = "mae"
    quantiles: Annotated[str, BeforeValidator(_levels)] = "0.1,0.5,0.9"
    interval: Annotated[float, Field(gt=0, lt=1)] = 0.8

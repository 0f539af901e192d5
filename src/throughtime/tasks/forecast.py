"""Forecast: the next values of series in a table over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from throughtime.codecs import Codecs
from throughtime.data.series_codec import Scaling, SeriesCodec, fit_codec
from throughtime.data.timeseries import TimeSeries, one_path, read_time_series
from throughtime.data.windows import WindowBatches, Windows
from throughtime.errors import DataError
from throughtime.options import Count
from throughtime.outputs import Normal, Output, Point, Quantiles, StudentT
from throughtime.paths import display_path
from throughtime.spelling import option, setting
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress, Task
from throughtime.tasks.forecast_figures import (
    Forecast,
    Measures,
    conformal_margins,
    fit_ridge,
    forecast_of,
    last_value,
    measured,
    point_forecast,
    ridge_forecast,
    seasonal_naive,
)
from throughtime.tasks.options import TaskOptions

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel

_SEGMENT = 24  # rows of a step, at most, if not given
_CONTEXT = 672  # rows of a context, at most, if not given and the horizon is no longer


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
        segment: how many rows a step of the network reads or writes (SegRNN, arXiv:2308.11200); the horizon in equal
            parts of at most 24 rows if not given.
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


class ForecastTask(Task[Windows]):
    """Forecast the next rows of series.

    All series share one network, which reads each of them by itself: scaled by the series' training rows, the last
    value before the origin subtracted. The loss is a mean over values at this scale.
    """

    name = "forecast"
    about = "forecast the next values of series"
    Options = ForecastOptions
    options: ForecastOptions
    defaults: ClassVar = {"cell": "gru", "hidden_size": 256, "dropout": 0.3, "batch": 256, "lr": 1e-3, "steps": 800}
    interfacing = ("horizon", "head", "quantiles")
    baseline_rows: ClassVar[int] = 3
    most_evaluated: ClassVar[int] = 100_000_000  # a window has many

    @classmethod
    def speaks_for(cls, options: Mapping[str, Any]) -> str:
        """A horizon and a column to forecast."""
        return "a horizon is given" if options.get("horizon") else ""

    @property
    def unit(self) -> str:
        """A value."""
        return "value"

    @property
    def horizon(self) -> int:
        """How many rows to forecast.

        Raises:
            DataError: it is not given.
        """
        if self.options.horizon is None:
            raise DataError(f"forecast needs {option('horizon')}, the number of rows to forecast.")
        return self.options.horizon

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Windows]:
        """See `Task.prepare`."""
        options, horizon = self.options, self.horizon
        if options.valid or options.test:
            raise DataError(f"forecast splits one table by time: give {option('split')} instead of other files.")
        table = self._read(one_path(options.data))
        lengths = np.array([len(series) for series in table.series])
        parts = self._parts(lengths)
        train, seen, end = parts
        longest = int(train.max())
        context = options.context or min(max(horizon, min(4 * horizon, _CONTEXT)), max(1, longest - horizon))
        if longest < horizon + (options.context or 1):
            raise DataError(
                f"{table.name}: the longest series has {longest:,} training rows of {int(lengths.max()):,}, too few "
                f"for {setting('horizon', horizon)} and {setting('context', context)}: make them smaller, or change "
                f"{option('split')}."
            )
        codec = codecs.inputs if codecs else None
        if codec is None:
            codec = fit_codec(
                table,
                train.tolist(),
                seen.tolist(),
                scaling=options.scaling,
                season=options.season,
                context=context,
                segment=options.segment or -(-horizon // -(-horizon // _SEGMENT)),
                calendar=options.calendar,
            )
        windows = self._windows(table, codec)
        # Short series begin with windows of which a part is missing; half of their rows are read at least.
        first = np.where(train >= codec.context + horizon, codec.context, np.maximum(1, (train - horizon) // 2))
        middle = seen - (seen - train) // 2

        def part(first: Any, end: Any) -> Windows:
            return replace(windows, first=first, counts=np.maximum(0, end - horizon - first + 1))

        training, valid, later = part(first, train), part(train, middle), part(middle, seen)
        notes = list(table.notes)
        if not len(valid) or not len(later):
            valid = later = part(train, seen)
            notes.append("validation is too short to calibrate intervals on rows of their own")
        if not len(training) or not len(valid):
            raise DataError(
                f"{table.name}: no series has rows enough for {setting('horizon', horizon)} in both training and "
                f"validation; make the horizon smaller, or change {option('split')}."
            )
        test = part(seen, end)
        counts = {
            "train": len(training), "valid": len(part(train, seen)), "test": len(test), "series": len(table.series),
            "context": codec.context, "segment": codec.segment, "season": codec.season,
        }  # fmt: skip
        valid = replace(valid, later=later)
        return Data(
            table.name, Codecs(codec), training, valid, test if len(test) else None, table.digest, counts, notes
        )

    def _parts(self, lengths: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        """The row after the last one of training, validation and test, for each series."""
        numbers = [float(part) for part in self.options.split.split(",")]
        if numbers[0] >= 1:
            train, seen, end = (np.minimum(int(rows), lengths) for rows in np.cumsum(numbers))
            return train, seen, end
        end = np.round(lengths * min(1.0, sum(numbers))).astype(np.int64)
        test = np.maximum(np.round(lengths * numbers[2]), self.horizon).astype(np.int64) if numbers[2] else 0 * lengths
        valid = np.maximum(np.round(lengths * numbers[1]), self.horizon).astype(np.int64)
        seen = np.maximum(end - test, 0)
        return np.maximum(seen - valid, 0), seen, end

    def _read(self, path: str | Path, columns: Mapping[str, Any] | None = None) -> TimeSeries:
        options = self.options
        names = ("target", "time", "id", "past", "future", "static", "freq", "encoding_errors")
        return read_time_series(path, **{**{name: getattr(options, name) for name in names}, **(columns or {})})

    def _windows(self, table: TimeSeries, codec: SeriesCodec) -> Windows:
        horizon, s = self.horizon, codec.segment
        margin = max(s * -(-codec.context // s), s * -(-horizon // s), codec.season)
        zeros = np.zeros(len(table.series), np.int64)
        return Windows(codec.encode(table, margin), codec, horizon, zeros, zeros, table.digest)

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Windows:
        """See `Task.read`; every window after the rows that training and validation have seen."""
        path = one_path(paths)
        codec: SeriesCodec = codecs.inputs
        windows = self._windows(self._read(path), codec)
        data = windows.data
        ends = np.array([codec.ends[name] for name in data.names])
        first = np.maximum(ends - data.starts, 1)
        counts = np.maximum(0, data.lengths - self.horizon - first + 1)
        if not counts.sum():
            after = codec.timeline.label(int(ends.max()))
            raise DataError(
                f"{display_path(path)} has no series with {self.horizon} rows from {after} on: training and validation "
                "have seen the earlier ones."
            )
        return replace(windows, first=first, counts=counts)

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Windows:
        """See `Task.read_inputs`; one window for each series, after its last row."""
        path = one_path(paths)
        windows = self._windows(self._read(path), codecs.inputs)
        data = windows.data
        short = np.flatnonzero(data.known < data.lengths + self.horizon)
        if codecs.inputs.future and len(short):
            line, k = codecs.inputs.timeline, int(short[0])
            until = line.label(int(data.starts[k] + data.lengths[k] + self.horizon - 1))
            raise DataError(
                f"{display_path(path)}: the future covariates of series {data.names[k]!r} end too early: add rows "
                f"up to {until}, {self.horizon} after the last value of the target, with the target left empty."
            )
        return replace(windows, first=data.lengths, counts=np.ones_like(data.lengths))

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        codec: SeriesCodec = codecs.inputs
        none = np.zeros(0, np.int64)
        empty: Any = None
        return Interface(
            "numeric", Windows(empty, codec, self.horizon, none, none).features, self._output(codec), causal=True
        )

    def _output(self, codec: SeriesCodec) -> Output:
        targets, head = codec.segment, self.options.head
        if head == "quantiles":
            return Quantiles(targets, tuple(map(float, self.options.quantiles.split(","))))
        if head in ("mse", "mae"):
            return Point(targets, head)
        return Normal(targets) if head == "normal" else StudentT(targets)

    def batches(self, part: Windows, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> WindowBatches:
        """Batches of windows of all series, shuffled anew in each epoch."""
        return WindowBatches(part, batch, seed, rank, ranks)

    def reading(
        self, part: Windows, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1
    ) -> WindowBatches:
        """Batches of windows in order; where `terms` bounds them, windows evenly spread."""
        chosen = part.spread(self._count(part, terms))
        if len(chosen) < ranks:  # each process reads all of them
            rank, ranks = 0, 1
        return WindowBatches(part, len(next(part.chunks(chosen))), 0, rank, ranks, chosen)

    def _count(self, part: Windows, terms: int | None) -> int:
        """How many windows have about so many values to forecast."""
        return len(part) if terms is None else max(1, -(-terms // self.horizon))

    def fitting_batch(self, data: Data[Windows], batch: int, ranks: int) -> int:
        """As many windows as there are, at most."""
        return max(ranks, min(batch, len(data.train)))

    def figures(self, figures: Figures, part: Windows) -> Figures:
        """See `Task.figures`: the mean `loss` of a value, and how many `values` were forecast."""
        return {"loss": figures["loss"], "values": int(figures["terms"])}

    def further_figures(self, model: SequenceModel, part: Windows, terms: int | None = None) -> Figures:
        """Errors of forecasts, and the coverage of their intervals (see `Measures`)."""
        measures = Measures(part, intervals=True)
        for chosen, forecast in self._forecasts(model, part, part.spread(self._count(part, terms))):
            measures.add(chosen, forecast.widened(self._margins(model)))
        return measures.figures

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        labels = {
            "mse": ("MSE, scaled", "{:.4f}"),
            "mae": ("MAE, scaled", "{:.4f}"),
            "mase": ("MASE", "{:.3f}"),
            "smape": ("sMAPE", "{:.2f}%"),
            "weighted_quantile_loss": ("weighted quantile loss", "{:.4f}"),
            "coverage": (f"coverage of {self.options.interval:.0%} intervals", "{:.1%}"),
            "loss": ("loss", "{:.4f} per value"),
            "values": ("values", "{:,} forecast"),
        }
        return [(label, text.format(figures[name])) for name, (label, text) in labels.items() if name in figures]

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        return (
            f"windows: {super().data_in_words(counts)}; {counts['series']:,} series; a context of "
            f"{counts['context']:,} rows, {counts['segment']} a step, and a season of {counts['season']:,}"
        )

    def baselines(self, data: Data[Windows]) -> Mapping[str, Any]:
        """A ridge regression from context to horizon, of the training windows."""
        return {"ridge": fit_ridge(data.train)}

    def baseline_figures(self, fitted: Mapping[str, Any], part: Windows, codecs: Codecs) -> dict[str, Figures]:
        """The last value, the last season, and the ridge regression."""
        found = {"last value": measured(part, lambda chosen: point_forecast(last_value(part, chosen)))}
        season = codecs.inputs.season
        if season > 1:
            name = f"seasonal naive ({season} rows)"
            found[name] = measured(part, lambda chosen: point_forecast(seasonal_naive(part, chosen)))
        ridge = fitted["ridge"]
        found["ridge"] = measured(part, lambda chosen: point_forecast(ridge_forecast(ridge, part, chosen)))
        return found

    def calibrate(self, model: SequenceModel, data: Data[Windows]) -> Mapping[str, Any]:
        """Margins of intervals for each row of the horizon, from the later half of the validation rows.

        It is split conformal prediction of quantile intervals (Romano et al. 2019, arXiv:1905.03222). Coverage is
        guaranteed for exchangeable data alone, which series that drift are not.
        """
        later = data.valid.later or data.valid
        scores, observed = [], []
        for chosen, forecast in self._forecasts(model, later, later.spread(max(1, 2_000_000 // self.horizon))):
            values, present = later.targets(chosen)
            scores.append(np.maximum(forecast.low - values, values - forecast.high))
            observed.append(present)
        margins = conformal_margins(np.concatenate(scores), np.concatenate(observed), self.options.interval)
        return {"margins": margins.tolist()}

    def predict(self, model: SequenceModel, part: Windows, codecs: Codecs) -> Prediction:
        """The forecast of the rows after each series' end, with intervals, at the original scale."""
        codec: SeriesCodec = codecs.inputs
        line, percent = codec.timeline, f"{100 * self.options.interval:g}"
        several = codec.columns.id is not None or len(codec.columns.targets) > 1
        columns = [codec.columns.time or "row", "forecast", f"low-{percent}", f"high-{percent}"]
        if several:
            columns.insert(0, codec.columns.id or "series")

        def rows() -> Iterator[list[Any]]:
            for chosen, forecast in self._forecasts(model, part, np.arange(len(part))):
                forecast = forecast.widened(self._margins(model))
                series, origins = part.where(chosen)
                for b, (k, origin) in enumerate(zip(series.tolist(), origins.tolist(), strict=True)):
                    own = (part.data.scales[k].decode(each[b]) for each in forecast[:3])
                    for row, values in enumerate(zip(*own, strict=True)):
                        label = line.label(int(part.data.starts[k]) + origin + row)
                        yield [*[part.data.names[k]] * several, label, *map(float, values)]

        return Prediction(tuple(columns), rows())

    def example(self, model: SequenceModel, data: Data[Windows]) -> str:
        """The last value of a held-out window's horizon, forecast and observed."""
        part = data.valid
        ((chosen, forecast),) = self._forecasts(model, part, np.array([len(part) // 2]))
        (values, present), (series, origins) = part.targets(chosen), part.where(chosen)
        k, row = int(series[0]), int(np.flatnonzero(present[0])[-1]) if present.any() else part.horizon - 1
        ahead, observed = (float(part.data.scales[k].decode(each[0])[row]) for each in (forecast.point, values))
        label = data.codecs.inputs.timeline.label(int(part.data.starts[k]) + int(origins[0]) + row)
        known = f" (observed: {observed:.4g})" if present.any() else ""
        return f"{part.data.names[k]} at {label}, {row + 1} ahead -> {ahead:.4g}{known}"

    def _margins(self, model: SequenceModel) -> NDArray[np.float64] | None:
        margins = model.task.calibration.get("margins") if model.task else None
        return None if margins is None else np.array(margins)

    def _forecasts(
        self, model: SequenceModel, part: Windows, windows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Forecast]]:
        """Forecasts of windows at the common scale, in parts; intervals are not calibrated."""
        import torch

        parameter = next(model.parameters())
        training = model.training
        model.eval()
        for chosen in part.chunks(windows):
            inputs = part.inputs(chosen)
            with torch.no_grad():
                raw, _ = model(torch.from_numpy(inputs.steps).to(parameter.device, parameter.dtype))
            ahead = raw[part.steps[0] :].double().cpu().numpy().transpose(1, 0, 2)
            found = forecast_of(model.head.output, ahead, self.options.interval)
            last = inputs.last[:, None].astype(np.float64)
            point, low, high = (each[:, : part.horizon] + last for each in found[:3])
            quantiles = None if found.quantiles is None else found.quantiles[:, : part.horizon] + last[..., None]
            yield chosen, Forecast(point, low, high, quantiles)
        model.train(training)

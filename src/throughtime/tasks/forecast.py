"""Forecast: predict the next values of time series in a table."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from throughtime.codecs import Codecs
from throughtime.data.series_codec import SeriesCodec, fit_codec
from throughtime.data.table import Table, read_table
from throughtime.data.timeseries import Columns, TimeSeries, joined, one_path, read_time_series, series_of
from throughtime.data.windows import WindowBatches, Windows
from throughtime.errors import DataError, UserError
from throughtime.outputs import Normal, Output, Point, Quantiles, StudentT
from throughtime.spelling import counted, figure, option, setting
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress, Task
from throughtime.tasks.forecast_figures import Measures, baseline_forecasts, conformal_margins, fit_ridge, measured
from throughtime.tasks.options.forecast import ForecastOptions

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.passage import Passage

_log = logging.getLogger("throughtime")

_SEGMENT = 24  # the default maximum number of rows per step
_CONTEXT = 672  # the default maximum number of context rows, unless the horizon is longer
_LABELS = {"mse": "scaled MSE", "mae": "scaled MAE", "unscaled_mae": "MAE", "mase": "MASE", "smape": "sMAPE"}
_MAX_CALIBRATED = 2_000_000  # values to calibrate intervals on


class ForecastTask(Task[Windows]):
    """Forecast the next rows of time series.

    All series share one network, which reads each series separately: scaled by its training rows and with the last
    value before the origin subtracted. The loss is a mean over values at this scale.
    """

    name = "forecast"
    about = "forecast the next values of series"
    Options: ClassVar[type[ForecastOptions]] = ForecastOptions
    options: ForecastOptions
    interfacing = ("horizon", "strategy", "head", "quantiles")
    baseline_rows: ClassVar[int] = 4
    max_evaluated: ClassVar[int] = 100_000_000  # a window has many terms
    parts: ClassVar[Mapping[str, str]] = {**Task.parts, "valid": "for validation and to calibrate intervals"}
    reads_again: ClassVar[bool] = True
    shows_reach: ClassVar[bool] = False  # the report shows the rows that each forecast depends on instead

    @classmethod
    def detect(cls, options: Mapping[str, Any]) -> str:
        """See `Task.detect`; matches if a horizon or a target column is set."""
        for name, what in (("horizon", "a horizon is set"), ("target", "a target column is set")):
            if options.get(name):
                return what
        return ""

    @classmethod
    def reads_test_part(cls, paths: Sequence[str | Path]) -> bool:
        """See `Task.reads_test_part`; the table's last rows are for the test."""
        return True

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "value"

    @property
    def loss_in_words(self) -> str:
        """See `Task.loss_in_words`."""
        per_value = {"quantiles": "pinball loss", "normal": "nats", "student_t": "nats"}
        return self.label("loss") if self._is_point else f"{per_value[self.options.head]} per value"

    @property
    def horizon(self) -> int:
        """The number of rows to forecast.

        Raises:
            DataError: if it isn't set.
        """
        if self.options.horizon is None:
            raise DataError(f"forecast needs {option('horizon')}, the number of rows to forecast")
        return self.options.horizon

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Windows]:
        """See `Task.prepare`."""
        if self.options.valid or self.options.test:
            raise DataError(f"forecast splits one table by time; use {option('split')} instead of more files")
        return self.data(self._read(one_path(self.options.data)), codecs)

    def data(self, table: TimeSeries, codecs: Codecs | None = None) -> Data[Windows]:
        """Split series by time into windows for training, validation and test.

        Args:
            table: the series.
            codecs: the codecs of an earlier run on the same data; fitted to the data if None.

        Raises:
            DataError: if the series are too short or don't match the codecs.
        """
        options, horizon = self.options, self.horizon
        lengths = np.array([len(series) for series in table.series])
        if not self._fits(lengths, horizon):
            raise DataError(f"{table.name}: {self._too_short(lengths)}")
        parts = self._parts(lengths, horizon)
        train, seen, end = parts
        longest = int(train.max())
        usual = max(horizon, min(4 * horizon, _CONTEXT))
        context = options.context or min(usual, max(1, longest - horizon))
        codec = codecs.inputs if codecs else None
        if codec is None:
            codec = fit_codec(
                table,
                train.tolist(),
                seen.tolist(),
                scaling=options.scaling,
                season=options.season,
                context=context,
                segment=options.segment
                or (1 if self._strategy == "recursive" else -(-horizon // -(-horizon // _SEGMENT))),
                identify=options.identify,
                calendar=options.calendar,
            )
        windows = self._windows(table, codec)
        # Short series start with windows whose context is incomplete, but at least half full.
        first = np.where(train >= codec.context + horizon, codec.context, np.maximum(1, (train - horizon) // 2))
        middle = seen - (seen - train) // 2

        def part(first: Any, end: Any) -> Windows:
            return replace(windows, first=first, counts=np.maximum(0, end - horizon - first + 1))

        training, valid, later = part(first, train), part(train, middle), part(middle, seen)
        notes = list(table.notes)
        if not options.context and context < usual:
            notes.append(
                f"context shortened from {usual:,} to {counted(context, 'row')} because there are only "
                f"{counted(longest, 'row')} for training; a shorter horizon leaves more"
            )
        if not len(valid) or not len(later):
            valid = later = part(train, seen)
            notes.append("validation is too short to calibrate intervals on separate rows")
        if not len(training) or not len(valid):
            raise DataError(
                f"{table.name}: no series has enough rows for {setting('horizon', horizon)} in both training and "
                f"validation; reduce the horizon or change {option('split')}"
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

    def _fits(self, lengths: NDArray[np.int64], horizon: int) -> bool:
        """Return whether series of these lengths have enough rows to train and validate with this horizon."""
        train, seen, _ = self._parts(lengths, horizon)
        return bool(train.max() >= horizon + (self.options.context or 1) and (seen - train).max() >= horizon)

    def _too_short(self, lengths: NDArray[np.int64]) -> str:
        """Return an error message for series that are too short, including the largest possible horizon."""
        context = self.options.context
        given = [setting("horizon", self.horizon), *([setting("context", context)] if context else ())]
        smaller = range(1, self.horizon)
        largest = bisect_left(smaller, True, key=lambda horizon: not self._fits(lengths, horizon))
        most = f"the largest possible horizon is {largest:,}" if largest else "even a horizon of 1 is too large"
        hint = f"; reduce {option('context')}" if context else ""
        return (
            f"{' with '.join(given)} is too large for series of up to {int(lengths.max()):,} rows, split into "
            f"training, validation and test by {setting('split', self.options.split)}: {most}{hint}"
        )

    def _parts(self, lengths: NDArray[np.int64], horizon: int) -> tuple[Any, Any, Any]:
        """Return the end rows (exclusive) of training, validation and test for each series."""
        numbers = [float(part) for part in self.options.split.split(",")]
        if numbers[0] >= 1:
            train, seen, end = (np.minimum(int(rows), lengths) for rows in np.cumsum(numbers))
            return train, seen, end
        end = np.round(lengths * min(1.0, sum(numbers))).astype(np.int64)
        test = np.maximum(np.round(lengths * numbers[2]), horizon).astype(np.int64) if numbers[2] else 0 * lengths
        valid = np.maximum(np.round(lengths * numbers[1]), horizon).astype(np.int64)
        seen = np.maximum(end - test, 0)
        return np.maximum(seen - valid, 0), seen, end

    @property
    def _columns(self) -> dict[str, str | None]:
        names = ("target", "time", "id", "past", "future", "static")
        return {name: getattr(self.options, name) for name in names}

    def _read(self, path: str | Path) -> TimeSeries:
        options = self.options
        return read_time_series(path, **self._columns, freq=options.freq, encoding_errors=options.encoding_errors)

    def series(self, *tables: Table) -> TimeSeries:
        """Return the series of tables in memory; rows of later tables append to or replace rows of earlier ones."""
        columns = [Columns.of(table, **self._columns) for table in tables]
        table = tables[0] if len(tables) == 1 else joined(tables, columns[0])
        return series_of(table, columns[0], self.options.freq)

    def _windows(self, table: TimeSeries, codec: SeriesCodec) -> Windows:
        horizon, s = self.horizon, codec.segment
        margin = max(s * -(-codec.context // s), s * -(-horizon // s), codec.season)
        zeros = np.zeros(len(table.series), np.int64)
        encoded = codec.encode(table, margin)
        return Windows(encoded, codec, horizon, zeros, zeros, table.digest, **self._how)

    @property
    def _strategy(self) -> str:
        return self.options.strategy or ("direct" if self.options.future else "parallel")

    @property
    def _how(self) -> dict[str, Any]:
        """The arguments of `Windows` that depend on the strategy."""
        return {name: self._strategy == name for name in ("recursive", "parallel")}

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Windows:
        """See `Task.read`; returns all windows after the rows used for training and validation."""
        return self.unseen_windows(self._read(one_path(paths)), codecs)

    def unseen_windows(self, table: TimeSeries, codecs: Codecs) -> Windows:
        """Return all windows after the rows used for training and validation.

        Raises:
            DataError: if there are none, or the series don't match the codecs.
        """
        codec: SeriesCodec = codecs.inputs
        windows = self._windows(table, codec)
        data = windows.data
        ends = np.array([codec.ends[name] for name in data.names])
        first = np.maximum(ends - data.starts, 1)
        counts = np.maximum(0, data.lengths - self.horizon - first + 1)
        if not counts.sum():
            after = codec.timeline.label(int(ends.max()))
            raise DataError(
                f"{table.name} has no series with {self.horizon} rows from {after} on; earlier rows were used for "
                "training and validation"
            )
        return replace(windows, first=first, counts=counts)

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Windows:
        """See `Task.read_inputs`; returns one window per series, after its last row."""
        return self.next_windows(self._read(one_path(paths)), codecs)

    def read_update(
        self, paths: Sequence[str | Path], update: str | Path, codecs: Codecs, progress: Progress | None = None
    ) -> Windows:
        """See `Task.read_update`; returns one window per series, after its last row in either table."""
        tables = [read_table(path, self.options.encoding_errors) for path in (one_path(paths), update)]
        return self.next_windows(self.series(*tables), codecs)

    def next_windows(self, table: TimeSeries, codecs: Codecs) -> Windows:
        """Return one window per series, after its last row.

        Raises:
            DataError: if future covariates end too early, or the series don't match the codecs.
        """
        windows = self._windows(table, codecs.inputs)
        data = windows.data
        short = np.flatnonzero(data.known < data.lengths + self.horizon)
        if codecs.inputs.future and len(short):
            line, k = codecs.inputs.timeline, int(short[0])
            until = line.label(int(data.starts[k] + data.lengths[k] + self.horizon - 1))
            raise DataError(
                f"{table.name}: the future covariates of series {data.names[k]!r} end too early; add rows "
                f"up to {until}, {self.horizon} after the last target value, with an empty target"
            )
        context, brief = codecs.inputs.context, int((data.lengths < codecs.inputs.context).sum())
        if brief:
            one = f"{table.name} has {counted(data.lengths[0], 'row')}, fewer"
            several = f"{brief:,} of the {len(data.names):,} series of {table.name} have fewer rows"
            _log.warning(
                "%s than the context of %s that a forecast reads; the rows before the first are treated as missing",
                one if len(data.names) == 1 else several,
                counted(context, "row"),
            )
        return replace(windows, first=data.lengths, counts=np.ones_like(data.lengths))

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        codec: SeriesCodec = codecs.inputs
        none = np.zeros(0, np.int64)
        empty: Any = None
        windows = Windows(empty, codec, self.horizon, none, none, **self._how)
        return Interface("numeric", windows.features, self._output(codec), causal=True)

    def _output(self, codec: SeriesCodec) -> Output:
        targets, head = codec.segment, self.options.head
        if head == "quantiles":
            return Quantiles(targets, tuple(map(float, self.options.quantiles.split(","))))
        if head in ("mse", "mae"):
            return Point(targets, head)
        return Normal(targets) if head == "normal" else StudentT(targets)

    def batches(self, part: Windows, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> WindowBatches:
        """Return batches of windows from all series, reshuffled every epoch."""
        return WindowBatches(part, batch, seed, rank, ranks)

    def reading(
        self, part: Windows, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1
    ) -> WindowBatches:
        """Return batches of windows in order; `terms` selects evenly spaced windows."""
        part = self.subset(part, terms)
        if len(part) < ranks:  # each process reads all of them
            rank, ranks = 0, 1
        return WindowBatches(part, min(part.at_once, len(part)), 0, rank, ranks, shuffled=False)

    def subset(self, part: Windows, terms: int | None) -> Windows:
        """See `Task.subset`; selects evenly spaced windows."""
        return part if terms is None else part.evenly_spaced(max(1, -(-terms // self.horizon)))

    def rolling(self, part: Windows, windows: int | None, step: int | None) -> Windows:
        """See `Task.rolling`; the default step is the horizon, or 1 if `windows` is None too."""
        for name, count in (("windows", windows), ("step", step)):
            if count is not None and count < 1:
                raise UserError(f"{option(name)} must be at least 1, got {count}")
        rows = step or (1 if windows is None else self.horizon)
        most = int((np.maximum(part.counts, 1) - 1).max()) // rows + 1
        if windows is not None and windows > most:
            raise UserError(
                f"{option('windows')} must be at most {most} for these data, whose origins are {rows} rows apart; got "
                f"{windows}"
            )
        return part.rolling(windows, rows)

    def fitting_batch(self, data: Data[Windows], batch: int, ranks: int) -> int:
        """Return the batch size, reduced to the number of windows if there are fewer."""
        return max(ranks, min(batch, len(data.train)))

    def figures(self, figures: Figures, part: Windows) -> Figures:
        """See `Task.figures`: the mean `loss` per value, and the number of `values` forecast."""
        return {"loss": figures["loss"], "values": int(figures["terms"])}

    def extra_figures(self, model: SequenceModel, part: Windows, terms: int | None = None) -> Figures:
        """Measure forecast errors and the coverage of intervals (see `Measures`)."""
        from throughtime.tasks.forecast_decoding import forecasts

        part = self.subset(part, terms)
        measures = Measures(part, intervals=True)
        for chosen, forecast in forecasts(model, part, self.options.interval):
            measures.add(chosen, forecast)
        return measures.figures

    def label(self, metric: str) -> str:
        """See `Task.label`; the loss of a point forecast is its error."""
        if metric == "coverage":
            return f"coverage of {self.options.interval:.0%} intervals"
        if metric == "loss" and self._is_point:
            metric = self.options.head
        return _LABELS.get(metric) or super().label(metric)

    @property
    def _is_point(self) -> bool:
        return self.options.head in ("mse", "mae")

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        texts = {
            "mse": "{:.4f}",
            "mae": "{:.4f}",
            "unscaled_mae": figure(figures.get("unscaled_mae", 0.0)),
            "mase": "{:.3f}",
            "smape": "{:.2f}%",
            "weighted_quantile_loss": "{:.4f}",
            "coverage": "{:.1%}",
            **({} if self._is_point else {"loss": "{:.4f} per value"}),
            "values": "{:,} forecast",
        }
        return [(self.label(name), text.format(figures[name])) for name, text in texts.items() if name in figures]

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        return (
            f"windows: {super().data_in_words(counts)}; {counts['series']:,} series; context of "
            f"{counts['context']:,} rows, {counts['segment']} per step; season of {counts['season']:,} rows"
        )

    def baselines(self, data: Data[Windows]) -> Mapping[str, Any]:
        """Fit a ridge regression from context to horizon on the training windows."""
        return {"ridge": fit_ridge(data.train)}

    def baseline_figures(self, fitted: Mapping[str, Any], part: Windows, codecs: Codecs) -> dict[str, Figures]:
        """Evaluate the last value, the seasonal naive forecast and the ridge regression."""
        return {name: measured(part, forecast) for name, forecast in baseline_forecasts(part, fitted).items()}

    @property
    def compared_metric(self) -> tuple[str, bool]:
        """See `Task.compared_metric`; the baselines have no distribution, so only point forecasts are compared."""
        return "mse" if self.options.head in ("mse", "normal") else "mae", False

    def calibrate(self, model: SequenceModel, data: Data[Windows], terms: int | None = None) -> Mapping[str, Any]:
        """Return interval margins for each row of the horizon, from the later half of the validation rows.

        The margins are relative to each series' seasonal naive error in training. This is split conformal prediction
        with quantile intervals (Romano et al. 2019, arXiv:1905.03222). Coverage is guaranteed only for exchangeable
        data; series that drift are not exchangeable.
        """
        from throughtime.tasks.forecast_decoding import forecasts, units

        values_read = _MAX_CALIBRATED if terms is None else min(terms, _MAX_CALIBRATED)
        later = (data.valid.later or data.valid).evenly_spaced(max(1, values_read // self.horizon))
        scores, observed = [], []
        for chosen, forecast in forecasts(model, later, self.options.interval, calibrated=False):
            values, present = later.targets(chosen)
            scores.append(np.maximum(forecast.low - values, values - forecast.high) / units(later, chosen))
            observed.append(present)
        margins = conformal_margins(np.concatenate(scores), np.concatenate(observed), self.options.interval)
        return {"margins": margins.tolist()}

    def predict(self, model: SequenceModel, part: Windows, codecs: Codecs) -> Prediction:
        """Forecast the rows after each series' end, with intervals, at the original scale."""
        from throughtime.tasks.forecast_decoding import forecasts

        codec: SeriesCodec = codecs.inputs
        line, percent = codec.timeline, f"{100 * self.options.interval:g}"
        several = codec.columns.id is not None or len(codec.columns.targets) > 1
        columns = [codec.columns.time or "row", "forecast", f"forecast-lo-{percent}", f"forecast-hi-{percent}"]
        if several:
            columns.insert(0, codec.columns.id or "series")

        def rows() -> Iterator[list[Any]]:
            for chosen, forecast in forecasts(model, part, self.options.interval):
                series, origins = part.where(chosen)
                for b, (k, origin) in enumerate(zip(series.tolist(), origins.tolist(), strict=True)):
                    own = (part.data.scales[k].decode(each[b]) for each in forecast[:3])
                    for row, values in enumerate(zip(*own, strict=True)):
                        label = line.label(int(part.data.starts[k]) + origin + row)
                        yield [*[part.data.names[k]] * several, label, *map(float, values)]

        return Prediction(tuple(columns), rows())

    def example(self, model: SequenceModel, data: Data[Windows]) -> str:
        """Return the last value of a held-out window's horizon, as forecast and as observed."""
        from throughtime.tasks.forecast_decoding import forecasts

        part = data.valid.take(np.array([len(data.valid) // 2]))
        ((chosen, forecast),) = forecasts(model, part, self.options.interval)
        (values, present), (series, origins) = part.targets(chosen), part.where(chosen)
        k, row = int(series[0]), int(np.flatnonzero(present[0])[-1]) if present.any() else part.horizon - 1
        ahead, observed = (float(part.data.scales[k].decode(each[0])[row]) for each in (forecast.point, values))
        label = data.codecs.inputs.timeline.label(int(part.data.starts[k]) + int(origins[0]) + row)
        known = f" (observed: {observed:.4g})" if present.any() else ""
        return f"{part.data.names[k]} at {label}, {row + 1} ahead -> {ahead:.4g}{known}"

    def outcome(self, model: SequenceModel, part: Windows, codecs: Codecs) -> dict[str, Any]:
        """Return example forecasts, errors by horizon step and by series, and how far back forecasts look."""
        from throughtime.tasks.forecast_page import outcome

        return outcome(model, part, self.options.interval, _baselines_of(model))

    def pictures(self, model: SequenceModel, data: Data[Windows], terms: int) -> dict[str, Any]:
        """See `Task.pictures`: the outcome."""
        from throughtime.tasks.forecast_page import outcome

        return outcome(model, data.reported, self.options.interval, _baselines_of(model), max(1, terms // self.horizon))

    def passage(self, part: Windows, codecs: Codecs, length: int, name: str) -> Passage:
        """See `Task.passage`; shows evenly spaced windows."""
        from throughtime.sight.report.passage import Passage
        from throughtime.tasks.forecast_page import items

        rows = codecs.inputs.segment
        shown = ["the series" if rows == 1 else f"the series, mean of {rows} rows"]
        return Passage(name, items(part, length), "step", features=shown, part=part)


def _baselines_of(model: SequenceModel) -> Mapping[str, Any]:
    return model.task.baselines if model.task else {}

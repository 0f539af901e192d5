"""A scikit-learn estimator that forecasts time series in data frames and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from throughtime.codecs import Codecs
from throughtime.data.frames import array_columns, continued, frame_like, kind_of, table_of, with_static
from throughtime.data.table import Table
from throughtime.data.timeseries import joined
from throughtime.data.windows import Windows
from throughtime.errors import UserError
from throughtime.program.cell import Cell
from throughtime.saved_estimator import SavedEstimator, as_data, plain
from throughtime.spelling import setting
from throughtime.tasks.forecast_figures import last_value, measured, point_forecast, seasonal_naive
from throughtime.tasks.forecast_frames import FrameForecast
from throughtime.training.callbacks import ProgressBar
from throughtime.training.config import ENDS, TrainConfig, TrainingOptions
from throughtime.training.display import Display
from throughtime.training.fitting import fit
from throughtime.training.session import settings_kept

_OF_TASK = {
    "h": "horizon", "input_size": "context", "hist_exog_list": "past", "futr_exog_list": "future",
    "stat_exog_list": "static", "season_length": "season", "strategy": "strategy", "segment": "segment",
    "scaling": "scaling", "head": "head", "freq": "freq", "identify": "identify",
    "calendar": "calendar",
}  # fmt: skip
"""The task option that each parameter sets."""
_OF_TRAINING = (
    "cell", "hidden_size", "num_layers", "embed", "dropout", "steps", "epochs", "minutes", "batch", "lr", "engine",
    "threads",
)  # fmt: skip
_LISTS = ("hist_exog_list", "futr_exog_list", "stat_exog_list")


class Forecaster(SavedEstimator):
    """Forecast the next rows of one or many time series with a recurrent network.

    Data are pandas or polars data frames in long format, with a row per time and series and the column names of
    Nixtla's libraries, or arrays `[T]` or `[T, series]` without times and covariates. One network serves all series;
    see docs/forecasting.md. Training writes no files, and prints nothing unless `verbose` is set.

    Args:
        h: the number of rows to forecast.
        input_size: the number of rows the network looks back. If None, four horizons, up to the larger of 672 rows and
            one horizon.
        hist_exog_list: columns with covariates known up to the present.
        futr_exog_list: columns with covariates also known for the times to forecast.
        stat_exog_list: columns with covariates that are constant within a series.
        id_col, time_col: the columns that identify the series and the time. Without `id_col`, a data frame is one
            series; without `time_col`, its rows are equally spaced. A pandas index may hold the times.
        target_col: the column to forecast, or a list of columns, each a separate series.
        freq: the interval between rows, such as "h", "15min", "d", "w" or "mo". If None, the most frequent interval.
        season_length: the number of rows per season, for the seasonal naive forecast that `score` compares with. If
            None, it is detected.
        strategy: "parallel" decodes each step of the horizon from the state after the context, "direct" decodes them
            one after another, and "recursive" feeds each forecast back to the network. If None, parallel, or direct if
            there are future covariates, which can have lasting effects.
        segment: the number of rows per step of the network.
        identify: whether the network also reads a one-hot vector that identifies the series.
        calendar: whether the network also reads the time of day, week and year.
        scaling: the scaling of each series: "standard", "robust" or "mean".
        head: "mae" or "mse" predict one value; "quantiles", "normal" and "student_t" predict a distribution.
        level: the percentage of values that calibrated intervals should contain.
        cell: the name of a cell, or a custom cell.
        hidden_size, num_layers: the number of units per recurrent layer, and the number of layers.
        embed: the width of a layer with a ReLU that embeds each step's input; None to read the input as it is.
        dropout: the dropout probability between layers and for the last layer's output.
        steps, epochs, minutes: the maximum number of weight updates, passes through the data and minutes of training;
            training ends at the first one reached. None sets no limit, and at least one must be set.
        batch: the batch size in windows.
        lr: the peak learning rate.
        validation_fraction: the fraction at the end of each series held out to select the weights (the first half of
            it) and to calibrate intervals (the second half).
        engine: the engine that runs the recurrent layers; chosen by device if None.
        threads: the number of CPU threads; torch's setting if None.
        verbose: 1 shows a progress bar on a terminal.
        random_state: an integer makes training reproducible. If None, the seed is drawn from NumPy's global generator.

    Attributes:
        model_: the network, a `throughtime.nn.sequence_model.SequenceModel`.
        notes_: remarks on the data from `fit`, such as missing times.
    """

    _task_class = FrameForecast

    notes_: list[str]
    _task: FrameForecast
    _table: Table | None  # the data of `fit` and `update`, to predict from
    _kind: str

    def __init__(
        self,
        h: int = 1,
        *,
        input_size: int | None = None,
        hist_exog_list: Sequence[str] | None = None,
        futr_exog_list: Sequence[str] | None = None,
        stat_exog_list: Sequence[str] | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str | Sequence[str] = "y",
        freq: str | None = None,
        season_length: int | None = None,
        strategy: str | None = None,
        segment: int | None = None,
        identify: bool = False,
        calendar: bool = True,
        scaling: str = "standard",
        head: str = "mae",
        level: float = 80,
        cell: str | Cell = "gru",
        hidden_size: int = 256,
        num_layers: int = 1,
        embed: int | None = None,
        dropout: float = 0.3,
        steps: int | None = 800,
        epochs: float | None = None,
        minutes: float | None = None,
        batch: int = 256,
        lr: float = 1e-3,
        validation_fraction: float = 0.1,
        engine: str | None = None,
        threads: int | None = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.h = h
        self.input_size = input_size
        self.hist_exog_list = hist_exog_list
        self.futr_exog_list = futr_exog_list
        self.stat_exog_list = stat_exog_list
        self.id_col = id_col
        self.time_col = time_col
        self.target_col = target_col
        self.freq = freq
        self.season_length = season_length
        self.strategy = strategy
        self.segment = segment
        self.identify = identify
        self.calendar = calendar
        self.scaling = scaling
        self.head = head
        self.level = level
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.embed = embed
        self.dropout = dropout
        self.steps = steps
        self.epochs = epochs
        self.minutes = minutes
        self.batch = batch
        self.lr = lr
        self.validation_fraction = validation_fraction
        self.engine = engine
        self.threads = threads
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, df: Any, y: None = None, *, static_df: Any = None) -> Self:
        """Train a new network.

        Args:
            df: the series up to the present. Later rows may follow that have only future covariates.
            y: ignored; present for compatibility with scikit-learn.
            static_df: static covariates, one row per series with `id_col`, unless `df` contains them.

        Returns:
            The estimator.

        Raises:
            ValueError: if a parameter is invalid or doesn't match the data.
            TrainingError: if training diverges; it is a ValueError too.
        """
        if all(getattr(self, name) is None for name in ENDS):
            raise UserError("steps, epochs and minutes are all None; set at least one of them to end training")
        self._kind = kind_of(df)
        table = self._with_static(self._read(df, "df"), static_df)
        config = self._config(table)
        task = FrameForecast(config.task)
        series = task.series(table)
        data = task.data(series)
        with Display(bool(self.verbose)) as display:
            callbacks = [ProgressBar(display)] if self.verbose else []
            cell = self.cell if isinstance(self.cell, Cell) else None
            self.model_ = fit(task, data, config, callbacks, cell=cell)
        self._task, self._codecs, self._table, self.notes_ = task, data.codecs, table, list(data.notes)
        return self

    def update(self, df: Any, *, static_df: Any = None) -> Self:
        """Append new rows, so that `predict` continues after them, without training.

        Args:
            df: rows that follow those of `fit`, or replace rows with the same time.
            static_df: see `fit`.

        Returns:
            The estimator.

        Raises:
            ValueError: if the data don't match those of `fit`.
        """
        check_is_fitted(self, "model_")
        new = self._with_static(self._read(df, "df"), static_df)
        table = new if self._table is None else joined((self._table, new), self._codecs.inputs.columns)
        self._task.series(table)  # rejects rows that don't match
        self._table = Table("df", table.frame)
        return self

    def predict(self, df: Any = None, *, futr_df: Any = None, static_df: Any = None) -> Any:
        """Forecast the `h` rows after the end of each series.

        Args:
            df: the series to continue, including the rows that the network looks back at; by default, the data of `fit`
                and `update`.
            futr_df: future covariates for the rows to forecast, unless `df` contains them.
            static_df: see `fit`.

        Returns:
            For data frames, a frame of the same library with the columns `id_col` (if there are several series),
            `time_col`, `forecast` and the interval bounds, such as `forecast-lo-80` and `forecast-hi-80`. For arrays,
            the forecast `[h]` or `[h, series]`.

        Raises:
            ValueError: if the data don't match those of `fit`, or future covariates end too early.
        """
        check_is_fitted(self, "model_")
        if df is None and self._table is None:
            raise UserError("predict needs df, because a loaded estimator has no data")
        table = self._table if df is None else self._with_static(self._read(df, "df"), static_df)
        assert table is not None
        kind = self._kind if df is None else kind_of(df)
        if futr_df is not None:
            table = continued(table, self._read(futr_df, "futr_df"), self._codecs.inputs.columns)
        windows = self._task.next_windows(self._task.series(table), self._codecs)
        with settings_kept(TrainingOptions(threads=self.threads)):
            found = self._task.predict(self.model_, windows, self._codecs)
            columns = dict(zip(found.columns, map(list, zip(*found.rows, strict=True)), strict=True))
        if kind == "array":
            forecast = np.array(columns["forecast"]).reshape(-1, self._task.horizon).T
            return forecast if len(self._codecs.inputs.columns.targets) > 1 else forecast[:, 0]
        time, line = self._codecs.inputs.columns.time, self._codecs.inputs.timeline
        if time is not None:
            columns[time] = line.parsed(columns[time])
        return frame_like(kind, list(columns), list(columns.values()), [time] if time and line.zoned else ())

    def score(self, df: Any, y: None = None, *, windows: int | None = None, step: int | None = None) -> float:
        """Return the forecasts' skill relative to the seasonal naive forecast (the last value if there is no season).

        Args:
            df: the series; all windows after the rows used for training and validation are scored.
            y: ignored; present for compatibility with scikit-learn.
            windows: the number of windows per series to score, counted from the end; all if None.
            step: the number of rows between the origins of consecutive windows; by default 1 without `windows` and `h`
                with it.

        Returns:
            1 - MAE / (MAE of the seasonal naive forecast on the same windows), at the series' common scale: 1 for
            perfect forecasts, 0 for equally good and negative for worse ones.

        Raises:
            ValueError: if the data don't match those of `fit` or have no later rows.
        """
        check_is_fitted(self, "model_")
        task = self._task
        part: Windows = task.unseen_windows(task.series(self._read(df, "df")), self._codecs)
        part = task.rolling(part, windows, step)
        naive = seasonal_naive if self._codecs.inputs.season > 1 else last_value
        with settings_kept(TrainingOptions(threads=self.threads)):
            own = task.extra_figures(self.model_, part)["mae"]
        other = measured(part, lambda chosen: point_forecast(naive(part, chosen)))["mae"]
        return 1 - own / max(other, np.finfo(float).tiny)

    def _restore(self, task: Any, codecs: Codecs) -> None:
        super()._restore(task, codecs)
        self._table, self._kind, self.notes_ = None, "polars", []  # `predict` needs data: a file has none

    def _config(self, table: Table) -> TrainConfig:
        """Return the training configuration."""
        share = plain(self.validation_fraction)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"validation_fraction must be between 0 and 1, got {share!r}")
        level = plain(self.level)
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 100:
            raise UserError(f"level must be between 0 and 100, got {level!r}")
        parameters = self._saved_parameters()
        of_task = {option: parameters[name] for name, option in _OF_TASK.items()}
        for name in _LISTS:
            of_task[_OF_TASK[name]] = _listed(name, parameters[name])
        return TrainConfig.of(
            FrameForecast,
            **of_task,
            **{name: parameters[name] for name in _OF_TRAINING},
            target=self._targets(table),
            time=self.time_col if self.time_col in table.columns else None,
            id=self.id_col if self.id_col in table.columns else None,
            split=f"{1 - share:.12g},{share:.12g},0",
            interval=level / 100,
            seed=self._seed(),
            estimator=parameters,
        )

    def _targets(self, table: Table) -> str | None:
        if self._kind != "array":
            return _listed("target_col", as_data(self.target_col))
        return ",".join(array_columns(len(table.columns), "y"))

    def _read(self, data: Any, name: str) -> Table:
        return table_of(data, name, time=self.time_col, target="y")

    def _with_static(self, table: Table, static_df: Any) -> Table:
        if static_df is None:
            return table
        return with_static(table, self._read(static_df, "static_df"), self.id_col, self.stat_exog_list or ())


def _listed(name: str, value: Any) -> str | None:
    """Join column names with commas, as the task's options expect them."""
    names = [value] if isinstance(value, str) else list(value or ())
    wrong = [each for each in names if not isinstance(each, str) or "," in each]
    if wrong:
        raise UserError(f"{setting(name, wrong[0])} must be names of columns that don't contain commas")
    return ",".join(names) or None

"""A scikit-learn estimator that forecasts series in data frames and arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from pydantic import ValidationError
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from throughtime import model_file
from throughtime.codecs import Codecs
from throughtime.data.frames import array_columns, continued, frame_like, kind_of, table_of, with_static
from throughtime.data.table import Table
from throughtime.data.timeseries import joined
from throughtime.data.windows import Windows
from throughtime.errors import ModelError, UserError
from throughtime.estimators import plain
from throughtime.model_file import ModelFile
from throughtime.nn.sequence_model import SequenceModel
from throughtime.program.cell import Cell
from throughtime.spelling import setting
from throughtime.tasks import Task
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
    "scaling": "scaling", "head": "head", "freq": "freq", "calendar": "calendar",
}  # fmt: skip
"""The task's options by the parameters that set them."""
_OF_TRAINING = (
    "cell", "hidden_size", "num_layers", "dropout", "steps", "epochs", "minutes", "batch", "lr", "engine", "threads",
)  # fmt: skip
_LISTS = ("hist_exog_list", "futr_exog_list", "stat_exog_list")


class Forecaster(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Forecast the next rows of one or many series with a recurrent network.

    Data are pandas or polars data frames in long format, with a row for each time and series and the column names of
    Nixtla's libraries; or arrays `[T]` or `[T, series]`, without times and covariates. One network serves all series;
    docs/forecasting.md explains it. Training writes nothing, and prints nothing unless `verbose` is set.

    Args:
        h: how many rows to forecast.
        input_size: how many rows the network looks back. If None, four horizons, but at most 672 or a horizon.
        hist_exog_list: columns of covariates known up to the present.
        futr_exog_list: columns of covariates that are also known for the times to forecast.
        stat_exog_list: columns of covariates that are the same in all rows of a series.
        id_col, time_col: the columns that tell series and times apart. A data frame may lack either: it then is one
            series, or its rows are equally spaced. The index of a pandas data frame serves as times, too.
        target_col: the column to forecast, or a list of columns, each a series of its own.
        freq: the step between rows, such as "h", "15min", "d", "w" or "mo". If None, the most frequent one.
        season_length: the rows of a season, for the seasonal naive forecast that `score` compares with. If None, found.
        strategy: "direct" decodes the whole horizon from the state after the context, "recursive" a step at a time.
        segment: how many rows a step of the network reads or writes.
        calendar: whether the network reads the times of day, week and year.
        scaling: how each series is scaled: "standard", "robust" or "mean".
        head: "mae" or "mse" for one value; "quantiles", "normal" or "student_t" for a distribution.
        level: the share of values, in percent, that intervals are calibrated to contain.
        cell: the recurrent cell, by name or a cell of your own.
        hidden_size, num_layers: units in each recurrent layer, and the number of layers.
        dropout: the probability of dropping an element between layers and of the last layer's output.
        steps, epochs, minutes: when training ends: after so many updates of the weights, passes through the data, or
            minutes, whichever comes first. None sets no limit, and at least one must be set.
        batch: windows in a batch.
        lr: the learning rate's peak.
        validation_fraction: the share of each series, at its end, held out to choose the weights by (its first half)
            and to calibrate intervals (its second half).
        engine: what runs the recurrent layers; chosen by device if None.
        threads: CPU threads; torch's setting if None.
        verbose: 1 shows a progress bar on a terminal.
        random_state: an integer makes training reproducible. If None, the seed is drawn from NumPy's global generator.

    Attributes:
        model_: the network, a `throughtime.nn.sequence_model.SequenceModel`.
        notes_: what `fit` found in the data that the user should know, such as missing times.
    """

    model_: SequenceModel
    notes_: list[str]
    _task: FrameForecast
    _codecs: Codecs
    _table: Table | None  # what `fit` and `update` were given, to predict from
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
        strategy: str = "direct",
        segment: int | None = None,
        calendar: bool = True,
        scaling: str = "standard",
        head: str = "mae",
        level: float = 80,
        cell: str | Cell = "gru",
        hidden_size: int = 256,
        num_layers: int = 1,
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
        self.calendar = calendar
        self.scaling = scaling
        self.head = head
        self.level = level
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
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
            df: the series, up to the present. Rows of later times may follow that have future covariates alone.
            y: ignored; scikit-learn's interface has it.
            static_df: static covariates, a row for each series with `id_col`, where `df` doesn't hold them.

        Returns:
            The estimator.

        Raises:
            ValueError: a parameter is invalid, or the data don't fit it.
            TrainingError: training diverged; it is a ValueError too.
        """
        if all(getattr(self, name) is None for name in ENDS):
            raise UserError("steps, epochs and minutes are all None: set one to say when training ends.")
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
        """Take new rows, so that `predict` continues after them, without training.

        Args:
            df: rows that follow those of `fit`, or replace those of the same time.
            static_df: see `fit`.

        Returns:
            The estimator.

        Raises:
            ValueError: the data don't fit those of `fit`.
        """
        check_is_fitted(self, "model_")
        new = self._with_static(self._read(df, "df"), static_df)
        table = new if self._table is None else joined((self._table, new), self._codecs.inputs.columns)
        self._task.series(table)  # refuses rows that don't fit
        self._table = Table("df", table.frame)
        return self

    def predict(self, df: Any = None, *, futr_df: Any = None, static_df: Any = None) -> Any:
        """Forecast the `h` rows after the end of each series.

        Args:
            df: the series to continue, with the rows that the network looks back at; those of `fit` and `update` if
                not given.
            futr_df: future covariates for the rows to forecast, where `df` doesn't hold them.
            static_df: see `fit`.

        Returns:
            For data frames a frame of the same library with the columns `id_col` (where there are several series),
            `time_col`, `forecast` and the bounds of its interval, such as `forecast-lo-80` and `forecast-hi-80`. For
            arrays the forecast `[h]` or `[h, series]`.

        Raises:
            ValueError: the data don't fit those of `fit`, or future covariates end too early.
        """
        check_is_fitted(self, "model_")
        if df is None and self._table is None:
            raise UserError("predict needs df: a loaded estimator has no data of its own.")
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
        """Return how much better than the seasonal naive forecast the forecasts are (the last value without a season).

        Args:
            df: the series; every window after the rows that training and validation have seen counts.
            y: ignored; scikit-learn's interface has it.
            windows: how many windows of each series count, the last ones.
            step: how many rows from a window's origin to the next; 1 without `windows`, otherwise `h`.

        Returns:
            1 - MAE / (MAE of the seasonal naive forecast on the same windows), at the series' common scale: 1 for
            perfect forecasts, 0 for those no better, below 0 for worse ones.

        Raises:
            ValueError: the data don't fit those of `fit`, or have no later rows.
        """
        check_is_fitted(self, "model_")
        task = self._task
        part: Windows = task.unseen_windows(task.series(self._read(df, "df")), self._codecs)
        part = task.rolling(part, windows, step)
        naive = seasonal_naive if self._codecs.inputs.season > 1 else last_value
        with settings_kept(TrainingOptions(threads=self.threads)):
            own = task.further_figures(self.model_, part)["mae"]
        other = measured(part, lambda chosen: point_forecast(naive(part, chosen)))["mae"]
        return 1 - own / max(other, np.finfo(float).tiny)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator, without its data, to a file of safetensors, which `load` reads.

        Args:
            path: the file; an existing one is replaced.

        Raises:
            NotFittedError: the estimator isn't fitted.
            UserError: the file can't be written.
        """
        check_is_fitted(self, "model_")
        model_file.save(self.model_, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator that `save` wrote, without running any code in it. `predict` then needs data.

        Args:
            path: the file.

        Raises:
            ModelError: the file is missing, damaged, or of another kind.
        """
        described = ModelFile.open(path).task
        if described is None or described.name != FrameForecast.name:
            kind = "has no description of its data" if described is None else f"is for the task {described.name!r}"
            raise ModelError(f"{path}: the model {kind}; Forecaster.load reads models that Forecaster.save wrote.")
        try:
            task: Any = Task.of_description(described)
            estimator = cls(**task.options.estimator)
            fits = task.interface(described.codecs)
        except (ValueError, TypeError, AttributeError) as error:
            reason = "its options are invalid" if isinstance(error, ValidationError) else error
            raise ModelError(f"{path}: its metadata is damaged: {reason}") from None
        model = model_file.load(path, task.options.estimator.get("engine"))
        if not isinstance(model, SequenceModel) or model.encoder.features != fits.size:
            raise ModelError(f"{path}: its metadata is damaged: the network doesn't fit the estimator.")
        if model.head.output != fits.output:
            raise ModelError(f"{path}: its metadata is damaged: the network's output doesn't fit the estimator.")
        estimator.model_, estimator._task, estimator._codecs = model, task, described.codecs
        estimator._table, estimator._kind, estimator.notes_ = None, "polars", []
        return estimator

    def _config(self, table: Table) -> TrainConfig:
        """What training is asked to do."""
        share = plain(self.validation_fraction)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"validation_fraction must be between 0 and 1, got {share!r}.")
        level = plain(self.level)
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 100:
            raise UserError(f"level must be between 0 and 100, got {level!r}.")
        parameters = {name: _as_data(value) for name, value in self.get_params(deep=False).items()}
        if isinstance(self.cell, Cell):
            parameters["cell"] = self.cell.name
        if not isinstance(parameters["random_state"], int):
            parameters["random_state"] = None
        of_task = {option: parameters[name] for name, option in _OF_TASK.items()}
        for name in _LISTS:
            of_task[_OF_TASK[name]] = _listed(name, parameters[name])
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        return TrainConfig.of(
            FrameForecast,
            **of_task,
            **{name: parameters[name] for name in _OF_TRAINING},
            target=self._targets(table),
            time=self.time_col if self.time_col in table.columns else None,
            id=self.id_col if self.id_col in table.columns else None,
            split=f"{1 - share:.12g},{share:.12g},0",
            interval=level / 100,
            seed=seed,
            estimator=parameters,
        )

    def _targets(self, table: Table) -> str | None:
        if self._kind != "array":
            return _listed("target_col", _as_data(self.target_col))
        return ",".join(array_columns(len(table.columns), "y"))

    def _read(self, data: Any, name: str) -> Table:
        return table_of(data, name, time=self.time_col, target="y")

    def _with_static(self, table: Table, static_df: Any) -> Table:
        if static_df is None:
            return table
        return with_static(table, self._read(static_df, "static_df"), self.id_col, self.stat_exog_list or ())


def _as_data(value: Any) -> Any:
    """A parameter in types that JSON has."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(each) for each in value]
    return plain(value)


def _listed(name: str, value: Any) -> str | None:
    """Names of columns with commas between them, as the task's options have them."""
    names = [value] if isinstance(value, str) else list(value or ())
    wrong = [each for each in names if not isinstance(each, str) or "," in each]
    if wrong:
        raise UserError(f"{setting(name, wrong[0])} must name columns, without commas in their names.")
    return ",".join(names) or None

"""Use trained networks: evaluate, predict, and sample.

Data are read before torch is loaded, so that mistakes in them are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from throughtime import tasks
from throughtime.errors import DataError, UserError
from throughtime.runs import Run
from throughtime.spelling import option
from throughtime.tasks.base import Figures, Prediction, Progress, Task
from throughtime.tasks.generative import Generative
from throughtime.training.reloading import data_of

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel

KnobSettings = Mapping[str, float | Sequence[float]] | Sequence[str]
"""Knob settings of a device: one value for all sounds or one per sound, by name; or texts such as "gain=0.7"."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a network and of the task's baselines.

    Attributes:
        figures: the network's metrics.
        baselines: the metrics of each baseline, by the baseline's name.
    """

    figures: Figures
    baselines: Mapping[str, Figures]

    @property
    def data(self) -> dict[str, Any]:
        """The metrics and the baselines as one dictionary."""
        return {**self.figures, "baselines": dict(self.baselines)} if self.baselines else dict(self.figures)


class Continuation(Iterator[Any]):
    """The continuation of a prompt, generated while you iterate over it.

    Args:
        pieces: the pieces of the continuation.
    """

    def __init__(self, pieces: Iterable[Any]) -> None:
        self._pieces = iter(pieces)

    def __next__(self) -> Any:
        return next(self._pieces)

    def __repr__(self) -> str:
        return "<continuation of a prompt, generated while you iterate over it>"


@dataclass(frozen=True)
class Inference:
    """A run's network, and the data to apply it to.

    Attributes:
        run: the run.
        paths: files and directories; the data that the run held out if None, for evaluation only.
        encoding_errors: "strict" or "replace"; as in training if None.
        knob: for effects, the device's knob settings from 0 to 1.
        engine: the engine that runs the recurrent layers; if None, the engine used in training.
        progress: called with the current activity and its progress.
    """

    run: Run
    paths: Sequence[str | Path] | None = None
    encoding_errors: str | None = None
    knob: KnobSettings | None = None
    engine: str | None = None
    progress: Progress | None = None

    @classmethod
    def of(cls, run: Run | str | Path, data: str | Path | Sequence[str | Path] | None = None, **options: Any) -> Self:
        """Open the run and list the data.

        Args:
            run: the run, or its directory.
            data: one or more files and directories; the data that the run held out if None, for evaluation only.
            **options: the other attributes.

        Raises:
            RunError: if the run can't be read.
            DataError: if the data are an empty list, or not paths.
        """
        return cls(_opened(run), None if data is None else _paths(data), **options)

    @cached_property
    def task(self) -> Task[Any]:
        """The run's task, with the options for these data."""
        return self.run.task_with(encoding_errors=self.encoding_errors, knob=self.knob)

    @cached_property
    def model(self) -> SequenceModel:
        """The run's network, on the run's device."""
        if self.progress:
            self.progress("loading the network", 0, 1)
        model = self.run.model(self.engine).to(self.run.device)
        if self.progress:
            self.progress("loading the network", 1, 1)
        return model

    def evaluate(self, windows: int | None = None, step: int | None = None) -> Evaluation:
        """Evaluate the network along with the task's baselines.

        Args:
            windows: see `throughtime.evaluate`.
            step: see `throughtime.evaluate`.

        Raises:
            UserError: if there are options for other data, but no such data.
        """
        task, codecs = self.task, self.run.description.codecs
        part = self._held_out() if self.paths is None else task.read(self.paths, codecs, self.progress)
        if windows is not None or step is not None:
            part = task.rolling(part, windows, step)
        model = self.model
        from throughtime.training.evaluation import measured

        figures = measured(model, task, part, progress=self.progress)
        return Evaluation(
            {**figures, **task.usage_figures(model, codecs)},
            task.baseline_figures(self.run.description.baselines, part, codecs),
        )

    def predict(self, update: str | Path | None = None) -> Prediction:
        """Predict the data.

        Args:
            update: see `throughtime.predict`.
        """
        task, codecs = self.task, self.run.description.codecs
        if update is None:
            part = task.read_inputs(self._given(), codecs, self.progress)
        else:
            part = task.read_update(self._given(), update, codecs, self.progress)
        return task.predict(self.model, part, codecs)

    def write_prediction(self, out: str | Path) -> str:
        """Write predictions to a file in the task's own format, such as a sound file for an effect.

        Args:
            out: the path of the output file, with one of the extensions in the task's `prediction_files`.

        Returns:
            A short description of the written file.

        Raises:
            UserError: if the task doesn't write such files.
            DataError: if the data can't be read or don't match the run.
        """
        task, out = self.task, Path(out)
        if out.suffix.lower() not in task.prediction_files:
            kinds = ", ".join(task.prediction_files)
            raise UserError(f"predictions of task {task.name} are {f'written to {kinds}' if kinds else 'tables'}")
        return task.write_prediction(self.model, self._given(), self.run.description.codecs, out, self.progress)

    def __post_init__(self) -> None:
        type(self.run.task).require_readable(self.paths or ())

    def _given(self) -> Sequence[str | Path]:
        if self.paths is None:
            raise DataError("predictions need data; pass one or more files or directories")
        return self.paths

    def _held_out(self) -> Any:
        """Read the data that the run held out, with the options that it was trained with."""
        for name in ("encoding_errors", "knob"):
            if getattr(self, name) is not None:
                raise UserError(f"{option(name)} needs data to apply to; the held-out data are read as in training")
        try:
            return data_of(self.run, self.progress).reported
        except DataError as error:
            raise DataError(f"{error}; or pass the data to evaluate on") from None


def evaluate(
    run: Run | str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    windows: int | None = None,
    step: int | None = None,
    encoding_errors: str | None = None,
    knob: KnobSettings | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Evaluate a run's network on data of the kind it was trained on.

    Args:
        run: the run, or its directory.
        data: files and directories; by default, the run's own test data, or its validation data if there are none.
        windows: for forecasts, the number of windows per series, counted from the end; all if neither this nor `step`
            is given.
        step: for forecasts, the number of rows between the origins of consecutive windows; the horizon by default.
        encoding_errors: "strict" or "replace"; as in training by default.
        knob: for effects, the device's knob settings from 0 to 1, such as `{"gain": 0.7}`.
        engine: the engine that runs the recurrent layers; by default, the engine used in training.
        progress: called with the current activity and its progress.

    Returns:
        The metrics (see `Task.figures` of the task): `loss` and others by name.

    Raises:
        RunError: if the run can't be read.
        DataError: if the data can't be read or don't match the run.
    """
    inference = Inference.of(run, data, encoding_errors=encoding_errors, knob=knob, engine=engine, progress=progress)
    return inference.evaluate(windows, step).figures


def predict(
    run: Run | str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    update: str | Path | None = None,
    encoding_errors: str | None = None,
    knob: KnobSettings | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Apply a run's network to data of the kind it was trained on.

    Args:
        run: the run, or its directory.
        data: files and directories.
        update: for forecasts, a table of later rows, which append to `data` or replace rows with the same time.
        encoding_errors: "strict" or "replace"; as in training by default.
        knob: for effects, the device's knob settings from 0 to 1, such as `{"gain": 0.7}`.
        engine: the engine that runs the recurrent layers; by default, the engine used in training.
        progress: called with the current activity and its progress.

    Returns:
        A table with column names and rows; the rows are computed lazily.

    Raises:
        RunError: if the run can't be read.
        DataError: if the data can't be read or don't match the run.
    """
    inference = Inference.of(run, data, encoding_errors=encoding_errors, knob=knob, engine=engine, progress=progress)
    return inference.predict(update)


def sample(
    run: Run | str | Path,
    prompt: str = "",
    *,
    length: int | None = None,
    seed: int = 0,
    engine: str | None = None,
    **draw: Any,
) -> Continuation:
    """Generate new data with a run's network, such as the continuation of a text.

    Args:
        run: the run, or its directory.
        prompt: the beginning to continue: a text for text, the path of a file for notes or sound. Empty for none.
        length: the number of tokens, steps or samples to generate; the task's default if None.
        seed: the random seed; the same seed produces the same sample.
        engine: the engine that runs the recurrent layers; by default, the engine used in training.
        **draw: sampling options of the task; for text `temperature`, `top_k` and `top_p`.

    Returns:
        The continuation of the prompt, generated while you iterate over it, in pieces of text, steps, or blocks of
        samples. `run.sample` returns it as a whole.

    Raises:
        UserError: if an argument is invalid, or the run's task can't generate data.
        RunError: if the run can't be read.
    """
    run = _opened(run)
    task = run.task
    if not isinstance(task, Generative):
        raise UserError(
            f"{run.path} is a run of task {task.name}, which can't generate samples; use predict on data instead"
        )
    codecs = run.description.codecs
    sampling = task.sampling(codecs, length, seed=seed, **draw)
    return Continuation(task.sample(run.model(engine), codecs, sampling, prompt))


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _paths(data: str | Path | Sequence[str | Path]) -> list[str | Path]:
    paths = tasks.paths_of(data)
    if not paths:
        raise DataError("data is an empty list; expected one or more files or directories")
    return paths

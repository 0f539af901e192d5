"""Use trained networks: evaluate, predict, and sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughtime.errors import DataError, UserError
from throughtime.runs import Run
from throughtime.tasks.base import Figures, Generative, Prediction, Progress
from throughtime.training.evaluation import measured
from throughtime.training.reloading import data_of

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
        engine: the engine that runs the recurrent layers; the one used in training by default.
        progress: called with the current activity and its progress.

    Returns:
        The metrics (see `Task.figures` of the task): `loss` and others by name.

    Raises:
        RunError: if the run can't be read.
        DataError: if the data can't be read or don't match the run.
    """
    return evaluated(
        run, data, windows=windows, step=step, knob=knob, encoding_errors=encoding_errors, engine=engine,
        progress=progress,
    ).figures  # fmt: skip


def evaluated(
    run: Run | str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    windows: int | None = None,
    step: int | None = None,
    encoding_errors: str | None = None,
    knob: KnobSettings | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a run's network along with the task's baselines; see `evaluate`."""
    run = _opened(run)
    task, codecs = run.task_with(encoding_errors=encoding_errors, knob=knob), run.description.codecs
    model = run.model(engine).to(run.device)
    if data is None:
        held_out = data_of(run, progress)
        part = held_out.valid if held_out.test is None else held_out.test
    else:
        part = task.read(_paths(data), codecs, progress)
    if windows is not None or step is not None:
        part = task.rolling(part, windows, step)
    figures = measured(model, task, part, progress=progress)
    return Evaluation(
        {**figures, **task.usage_figures(model, codecs)},
        task.baseline_figures(run.description.baselines, part, codecs),
    )


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
        engine: the engine that runs the recurrent layers; the one used in training by default.
        progress: called with the current activity and its progress.

    Returns:
        A table with column names and rows; the rows are computed lazily.

    Raises:
        RunError: if the run can't be read.
        DataError: if the data can't be read or don't match the run.
    """
    run, paths = _opened(run), _paths(data)
    task, codecs = run.task_with(encoding_errors=encoding_errors, knob=knob), run.description.codecs
    model = run.model(engine).to(run.device)
    if update is None:
        part = task.read_inputs(paths, codecs, progress)
    else:
        part = task.read_update(paths, update, codecs, progress)
    return task.predict(model, part, codecs)


def write_prediction(
    run: Run | str | Path,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    knob: KnobSettings | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> str:
    """Write predictions to a file in the task's own format, such as a sound file for an effect.

    Args:
        run: the run, or its directory.
        data: files and directories.
        out: the path of the output file, with one of the extensions in the task's `prediction_files`.
        knob: for effects, the device's knob settings from 0 to 1, such as `{"gain": 0.7}`.
        engine: the engine that runs the recurrent layers; the one used in training by default.
        progress: called with the current activity and its progress.

    Returns:
        A short description of what was written.

    Raises:
        UserError: if the task doesn't write such files.
        RunError: if the run can't be read.
        DataError: if the data can't be read or don't match the run.
    """
    run, paths, out = _opened(run), _paths(data), Path(out)
    if out.suffix.lower() not in run.task.prediction_files:
        kinds = ", ".join(run.task.prediction_files)
        raise UserError(f"predictions of task {run.task.name} are {f'written to {kinds}' if kinds else 'tables'}")
    task = run.task_with(knob=knob)
    return task.write_prediction(run.model(engine), paths, run.description.codecs, out, progress)


def sample(
    run: Run | str | Path,
    prompt: str = "",
    *,
    length: int | None = None,
    seed: int = 0,
    engine: str | None = None,
    **draw: Any,
) -> Iterable[Any]:
    """Generate new data with a run's network, such as the continuation of a text.

    Args:
        run: the run, or its directory.
        prompt: the beginning to continue: a text for text, the path of a file for notes or sound. Empty for none.
        length: the number of tokens, steps or samples to generate; the task's default if None.
        seed: the random seed; the same seed produces the same sample.
        engine: the engine that runs the recurrent layers; the one used in training by default.
        **draw: sampling options of the task; for text `temperature`, `top_k` and `top_p`.

    Returns:
        The continuation of the prompt, generated lazily in pieces of text, steps, or blocks of samples.

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
    length = task.default_length(codecs) if length is None else length
    return task.sample(run.model(engine), codecs, prompt, length=length, seed=seed, **draw)


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _paths(data: str | Path | Sequence[str | Path]) -> list[str | Path]:
    paths = [data] if isinstance(data, str | Path) else list(data)
    if not paths:
        raise DataError("data is an empty list; expected one or more files or directories")
    return paths

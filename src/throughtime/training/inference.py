"""Trained networks in use: figures on other data, predictions, and new data drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughtime.errors import DataError, UserError
from throughtime.runs import Run
from throughtime.tasks.base import Figures, Generative, Prediction, Progress
from throughtime.training.evaluation import measured

KnobSettings = Mapping[str, float | Sequence[float]] | Sequence[str]
"""Settings of a device's knobs: by name, one for all sounds or one for each of them; or texts such as "gain=0.7"."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of a network and, under the same names, those of the task's baselines.

    Attributes:
        figures: the network's.
        baselines: each baseline's, by its name.
    """

    figures: Figures
    baselines: Mapping[str, Figures]

    @property
    def data(self) -> dict[str, Any]:
        """Both as one dictionary."""
        return {**self.figures, "baselines": dict(self.baselines)} if self.baselines else dict(self.figures)


def evaluate(
    run: Run | str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    windows: int | None = None,
    step: int | None = None,
    encoding_errors: str | None = None,
    knob: KnobSettings | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Figures:
    """How well a run's network does on data of the kind that it was trained on.

    Args:
        run: the run, or its directory.
        data: files and directories.
        windows: for forecasts the number of windows of each series, the last ones; all if neither this nor `step` is
            given.
        step: for forecasts the number of rows from the origin of a window to the next; the horizon if not given.
        encoding_errors: "strict" or "replace"; as in training if not given.
        knob: for an effect, the settings of the device's knobs from 0 to 1, such as `{"gain": 0.7}`.
        engine: what runs the recurrent layers; the one that the run was trained with if not given.
        progress: told what is being done, and how far.

    Returns:
        The figures (see `Task.figures` of the task): `loss`, and others by name.

    Raises:
        RunError: the run can't be read.
        DataError: the data can't be read, or don't fit.
    """
    return evaluated(
        run, data, windows=windows, step=step, knob=knob, encoding_errors=encoding_errors, engine=engine,
        progress=progress,
    ).figures  # fmt: skip


def evaluated(
    run: Run | str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    windows: int | None = None,
    step: int | None = None,
    encoding_errors: str | None = None,
    knob: KnobSettings | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The same with the figures of the task's baselines; see `evaluate`."""
    run, paths = _opened(run), _paths(data)
    task, codecs = run.task_with(encoding_errors=encoding_errors, knob=knob), run.description.codecs
    model = run.model(engine).to(run.device)
    part = task.read(paths, codecs, progress)
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
    """What a run's network predicts for data of the kind that it was trained on.

    Args:
        run: the run, or its directory.
        data: files and directories.
        update: for forecasts a table of later rows: they follow those of `data`, or replace those of the same time.
        encoding_errors: "strict" or "replace"; as in training if not given.
        knob: for an effect, the settings of the device's knobs from 0 to 1, such as `{"gain": 0.7}`.
        engine: what runs the recurrent layers; the one that the run was trained with if not given.
        progress: told what is being done, and how far.

    Returns:
        A table: the names of its columns, and its rows, which are computed as they are read.

    Raises:
        RunError: the run can't be read.
        DataError: the data can't be read, or don't fit.
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
    """Write what a run's network predicts for data to a file of the task's own kind: for an effect, a sound.

    Args:
        run: the run, or its directory.
        data: files and directories.
        out: the file; its extension must be one of the task's `prediction_files`.
        knob: for an effect, the settings of the device's knobs from 0 to 1, such as `{"gain": 0.7}`.
        engine: what runs the recurrent layers; the one that the run was trained with if not given.
        progress: told what is being done, and how far.

    Returns:
        What was written, in a few words.

    Raises:
        UserError: the task doesn't write such files.
        RunError: the run can't be read.
        DataError: the data can't be read, or don't fit.
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
    """Lets a run's network draw new data: continue a text, say. The same seed gives the same sample.

    Args:
        run: the run, or its directory.
        prompt: what to continue: for text the text, for notes or sound a file; nothing if empty.
        length: how many symbols, steps or samples to draw; the task's usual number if not given.
        seed: of the draws.
        engine: what runs the recurrent layers; the one that the run was trained with if not given.
        **draw: how to draw, as the task explains: for text `temperature`, `top_k` and `top_p`.

    Returns:
        What follows the prompt, in pieces as they are made: pieces of text, steps, or blocks of samples.

    Raises:
        UserError: an argument means nothing, or the run's task isn't one whose network draws anything.
        RunError: the run can't be read.
    """
    run = _opened(run)
    task = run.task
    if not isinstance(task, Generative):
        raise UserError(
            f"{run.path} is a run of task {task.name}, whose network draws nothing; predict applies it to data"
        )
    codecs = run.description.codecs
    length = task.usual_length(codecs) if length is None else length
    return task.sample(run.model(engine), codecs, prompt, length=length, seed=seed, **draw)


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _paths(data: str | Path | Sequence[str | Path]) -> list[str | Path]:
    paths = [data] if isinstance(data, str | Path) else list(data)
    if not paths:
        raise DataError("data is an empty list; expected a file or directory, or several")
    return paths

"""Train a run from its beginning or its last checkpoint to its end."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Unpack

import torch

from throughtime import tasks
from throughtime.errors import Interrupted, RunError, TrainingError
from throughtime.files import DISK_FULL
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.runs import Run
from throughtime.spelling import command, counted, duration, option, setting
from throughtime.stored import INITIAL, remover
from throughtime.tasks.base import Data, Task
from throughtime.training.building import build_model
from throughtime.training.callbacks import (
    BestWeights,
    Checkpoints,
    Deadline,
    Examples,
    MetricsRows,
    ProgressBar,
    Rates,
    Signals,
    Validation,
    progress_in_words,
    where,
)
from throughtime.training.checkpoints import load_checkpoint
from throughtime.training.config import TrainConfig, TrainingOptions
from throughtime.training.display import Display
from throughtime.training.fabric import joinable, loggers_of, path_from_first, require_possible
from throughtime.training.first_lines import first_lines
from throughtime.training.fitting import Diverged, Fit
from throughtime.training.measuring import measure
from throughtime.training.options import Paths, TrainOptions
from throughtime.training.planning import later_end, make_plan, replay_of
from throughtime.training.processes import rank
from throughtime.training.reloading import begun_model, data_of
from throughtime.training.report import write_report
from throughtime.training.session import log_file, session
from throughtime.training.sizing import fitted
from throughtime.training.start import Start

_log = logging.getLogger("throughtime")

_MUCH_SLOWER = 0.6  # the fraction of the planned steps below which to report that the machine became slower


def train(
    data: Paths | None = None,
    *,
    task: str | type[Task[Any]] | None = None,
    cell: str | Cell | None = None,
    progress: bool = True,
    **options: Unpack[TrainOptions],
) -> Run:
    """Train a recurrent network and evaluate it on held-out data.

    Args:
        data: files and directories; by default, Python's own documentation, which is on every machine.
        task: the name of a task, or a custom task class; guessed from the data by default.
        cell: the name of a cell, or a custom cell; the LSTM by default.
        progress: whether to show progress bars and about ten lines with losses on standard error.
        **options: `hidden_size`, `num_layers`, `steps`, `out` and the other options that
            `throughtime.training.TrainOptions` lists and `throughtime.training.TrainConfig` explains.

    Returns:
        The finished run.

    Raises:
        TrainingError: if an option is invalid or training diverges.
        Interrupted: on Ctrl-C or SIGTERM; the run can be resumed.
        DataError: if the data can't be read or are unsuitable.
        RunError: if the directory for the run already exists.
    """
    return train_from(Start.of({"data": data, **options}, task, cell), time.monotonic(), progress=progress)


def train_from(start: Start, started: float, data: Data[Any] | None = None, progress: bool = True) -> Run:
    """Train a new run, as `train` does.

    Args:
        start: the starting point.
        started: when the time budget started, in `time.monotonic` seconds.
        data: the data if they have been read, otherwise None.
        progress: whether to show progress bars and about ten lines with losses on standard error.
    """
    require_possible(start.config.training)
    return _new_run(start.config.training, progress, lambda *more: _begin(start, data, started, *more))


def replay(path: str | Path, *, out: str | Path | None = None, progress: bool = True) -> Run:
    """Repeat a run's steps with its recorded learning rates, reproducing its weights bit for bit.

    This repeats runs whose time budget determined the learning rates, however fast the machine is now. An unfinished
    run is repeated as far as it got. The data are read again and must not have changed.

    Args:
        path: the directory of the run to replay, or "latest".
        out: the directory of the new run; named by date, cell and data by default.
        progress: whether to show progress bars and about ten lines with losses on standard error.

    Returns:
        The new run, finished after the same number of steps.

    Raises:
        RunError: if the run can't be read, has no steps yet, or its data have changed.
        TrainingError, Interrupted, DataError: see `train`.
    """
    run = Run.open(path)
    config, plan = replay_of(run, out)
    require_possible(config.training)

    def begin(display: Display, undo: list[Callable[[], None]]) -> tuple[Run, Data[Any], list[str]]:
        data = data_of(run, display.progress)
        where = _directory(config)
        undo.append(remover(where))
        initial = (run.path / INITIAL).read_bytes() if (run.path / INITIAL).is_file() else None
        rates = run.rates_file.read_bytes()
        new = Run.create(
            where, config, data, replace(run.description, calibration={}), run.programs, plan, initial, rates
        )
        return new, data, [f"replaying: {display_path(run.path)}"]

    return _new_run(config.training, progress, begin)


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    progress: bool = True,
) -> Run:
    """Resume a run from its last checkpoint, up to its end or a later one.

    A finished run is returned unchanged unless a later end is given. The schedule then follows the new number of
    steps.

    Args:
        path: the run's directory.
        steps: the new end of training, in steps counted from the run's first step.
        epochs: the new end in epochs.
        minutes: the new end in minutes of training, including earlier sessions. If several ends are given, training
            ends at the first one reached.
        progress: whether to show progress bars and about ten lines with losses on standard error.

    Returns:
        The finished run.

    Raises:
        RunError: if the run can't be read, or its data have changed.
        TrainingError, Interrupted, DataError: see `train`.
    """
    run = Run.open(path)
    later = (steps, epochs, minutes) != (None, None, None)
    if run.finished and not later:
        if progress and rank() == 0:
            Display(True).line(run.finished_in_words)
        return run
    require_possible(run.config.training)
    end = later_end(run, steps=steps, epochs=epochs, minutes=minutes) if later else None
    plan = end[1] if end is not None else run.plan
    if plan.from_step and not run.checkpoint.exists():  # its schedule doesn't cover the first steps
        again = command(f"train DATA --init-from {shlex.quote(display_path(run.path))}")
        raise RunError(
            f"{display_path(run.path)} is damaged: {run.checkpoint.relative_to(run.path)} is missing, so the run can't "
            f"be trained further. Start a new run from its weights with: {again}"
        )

    def begin() -> Path:
        if end is not None:
            # Changed data and a damaged checkpoint are rejected before anything is written.
            data_of(run, display.progress)
            if run.checkpoint.exists():
                load_checkpoint(run.checkpoint)
            extended = run.extended(*end)
            if extended.plan.peak < 1 and extended.config.training.schedule == "cosine":
                _log.info("the learning rate warms up again, to %g of its original peak", extended.plan.peak)
        return run.path

    with session(run.config.training, progress) as display:
        opened, data = _opened(path_from_first(run.config.training, begin), display)
        started = [] if opened.checkpoint.exists() else ["no checkpoint yet: starting from step 0"]
        return _to_the_end(opened, data, display, started)


def _new_run(
    training: TrainingOptions,
    progress: bool,
    begin: Callable[[Display, list[Callable[[], None]]], tuple[Run, Data[Any], list[str]]],
) -> Run:
    """Create and train a run.

    Args:
        training: the training options.
        progress: whether to show bars and lines.
        begin: called in the first process with the display and a list to append a function to that removes the run's
            directory; creates the directory and returns the run, its data and notes for the user.
    """
    begun: list[tuple[Run, Data[Any], list[str]]] = []
    undo: list[Callable[[], None]] = []

    def begin_here() -> Path:
        begun.append(begin(display, undo))
        return begun[0][0].path

    try:
        with session(training, progress) as display:
            path = path_from_first(training, begin_here)
            run, data, notes = begun[0] if begun else (*_opened(path, display), [])
            return _to_the_end(run, data, display, notes)
    except Interrupted:
        raise
    except BaseException as error:
        if undo and not (begun and begun[0][0].metrics_file.exists()):  # training hasn't started
            undo[0]()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("training was stopped before its first step, so nothing was saved") from None
        raise


def _begin(
    start: Start, data: Data[Any] | None, started: float, display: Display, undo: list[Callable[[], None]]
) -> tuple[Run, Data[Any], list[str]]:
    """Read the data, make the plan and create the run's directory; append its remover to `undo`.

    Returns:
        The run, its data, and notes on the choices made.
    """
    if start.run is not None:
        start.run.weights()  # rejects a damaged file
    if data is None:
        data = start.read(display.progress)
    task = start.task
    notes = [f"task: {start.task_in_words}", *data.notes]
    if start.run is not None:
        notes.append(f"starting from the weights of {display_path(start.run.path)}")
    interface = task.interface(data.codecs)
    chosen = fitted(start, data, interface)
    start = replace(start, config=chosen.config)
    config, training = chosen.config, chosen.config.training
    programs = start.programs(interface)
    torch.manual_seed(training.seed)
    model = build_model(config.network, programs, interface, training.engine)
    description = task.describe(data.codecs, task.baselines(data))
    plan = make_plan(task, data, config, model, started)
    path = _directory(config)
    undo.append(remover(path))
    run = Run.create(path, config, data, description, programs, plan, start.weights)
    if plan.batch < training.batch:
        notes.append(f"batch size reduced from {training.batch} to {plan.batch} because there is little data")
    if training.minutes is not None and plan.seconds is not None and plan.seconds < 60 * training.minutes / 2:
        before = 60 * training.minutes - plan.reserve - plan.seconds
        notes.append(
            f"{duration(before)} of {duration(60 * training.minutes)} are needed before the first step and "
            f"{duration(plan.reserve)} for the report; a larger {option('minutes')} leaves more time to train"
        )
    return run, data, [*notes, *chosen.why]


def _opened(path: Path, display: Display) -> tuple[Run, Data[Any]]:
    """Open an existing run and read its data."""
    run = Run.open(path)
    return run, data_of(run, display.progress)


def _directory(config: TrainConfig) -> Path:
    """Return the run's directory: the requested one, or one under `runs` named by time, cell and data."""
    if config.training.out is not None:
        return Path(config.training.out)
    first = config.task.data[0] if config.task.data else tasks.get(config.task.task).default_data or config.task.task
    name = "stdin" if first == "-" else Path(first).resolve().stem
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or config.task.task
    path = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{config.network.cell}-{name}"
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.removesuffix(f'-{number - 1}')}-{number}")
    return path


def _saved(run: Run) -> str:
    """Return a message about an interrupted run's checkpoint and how to resume."""
    if not run.checkpoint.exists():
        return "no checkpoint was saved, so training must be restarted"
    again = command(f"train --resume {shlex.quote(display_path(run.path))}")
    return f"the last checkpoint is intact. Resume with: {again}"


def _to_the_end(run: Run, data: Data[Any], display: Display, notes: Sequence[str] = ()) -> Run:
    """Train the remaining steps, then evaluate.

    Raises:
        TrainingError: if the disk is full or training diverges; the message says what was saved.
    """
    try:
        return _trained(run, data, display, notes)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise TrainingError(f"the disk is full{where}; free some space. Training stopped; {_saved(run)}") from None
    except Diverged as error:
        if not run.checkpoint.exists():
            raise
        raise Diverged(f"{error}. The last checkpoint and the best weights are kept") from None


def _trained(run: Run, data: Data[Any], display: Display, notes: Sequence[str]) -> Run:
    again = f"Resume with: {command(f'train --resume {shlex.quote(display_path(run.path))}')}"
    with log_file(run):
        if rank() == 0:
            for line in (*notes, f"run: {display_path(run.path)}"):
                _log.info("%s", line)
        training, best, signals = _fit(run, data, display)
        if rank() == 0 and not signals.interrupted and training.step < _MUCH_SLOWER * run.plan.expected_steps:
            advice = f"; if other programs are running, {setting('threads', 1)} may help"
            _log.warning(
                "the machine was slower than at the start: %s of about %s%s",
                f"{training.step:,}", counted(run.plan.expected_steps, "step"),
                advice if torch.get_num_threads() > 1 else "",
            )  # fmt: skip
        if signals.interrupted:
            raise Interrupted(f"training was stopped at {where(training)}. {again}")
        if rank() == 0:
            try:
                measure(run, data, training, best, display)
            except KeyboardInterrupt:
                raise Interrupted(f"training is complete, but the evaluation was stopped. {again}") from None
            write_report(run, data)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return run


def _fit(run: Run, data: Data[Any], display: Display) -> tuple[Fit, BestWeights, Signals]:
    torch.manual_seed(run.config.training.seed)
    model = begun_model(run)
    if rank() == 0:
        for label, text in first_lines(run, model, run.task.reading(data.valid).terms):
            _log.info("%s: %s", label, text)
    best, signals, validation = BestWeights(run.save_weights), Signals(), Validation()
    rows = MetricsRows(run.metrics_file, best)
    bar = ProgressBar(display, rows)
    rates = Rates(run.rates_file)
    saved = Checkpoints(run.checkpoint, rows, rates)
    callbacks = [signals, Deadline(validation), validation, best, rows, rates, saved, bar]
    if display.shown:
        callbacks.append(Examples())
    loggers = loggers_of(run.config.training, run)
    rates_given = run.replayed_rates().tolist()
    training = Fit(run.task, data, run.config, run.plan, model, callbacks, loggers, rates=rates_given)
    checkpoint = load_checkpoint(run.checkpoint) if run.checkpoint.exists() else None
    if checkpoint is not None and rank() == 0:
        _log.info("resuming at %s", progress_in_words(run.plan, checkpoint["step"], checkpoint["elapsed"]))
    try:
        with joinable(run), signals.listening():
            training.run(checkpoint)
    except KeyboardInterrupt:
        signals.interrupted = True
    return training, best, signals

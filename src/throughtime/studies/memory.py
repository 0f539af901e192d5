"""Measure memory: the longest lag that each cell learns on classical long-lag tasks."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.errors import RunError, TrainingError, UserError, nearest
from throughtime.files import replacing
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.spelling import option, setting
from throughtime.studies.compare import resolved
from throughtime.studies.result import StudyResult
from throughtime.tasks.long_lags import LAG_TASKS, LagTask
from throughtime.training.callbacks import Callback
from throughtime.training.config import TrainConfig
from throughtime.training.display import Display
from throughtime.training.fitting import Diverged, fit

if TYPE_CHECKING:
    from throughtime.training.fitting import Fit

CELLS = ("rnn", "lstm", "gru")
LAGS = (10, 20, 50, 100, 200, 400)
RESULT, PAGE = "memory.json", "memory.html"

_MIN_SECONDS = 1.0  # per attempt; less is too short to train
_SETTLING = 1.0  # approximate seconds per attempt for tracing and evaluating the network


@dataclass(frozen=True)
class Attempt:
    """A network trained on a task with one lag.

    Attributes:
        task, cell, lag: the task, the cell and the lag.
        learned: whether the metric reached the task's threshold.
        value: the best metric on held-out sequences; None if training diverged before the first evaluation.
        steps: the number of training steps.
        seconds: the duration.
        note: why training ended early, if it did.
    """

    task: str
    cell: str
    lag: int
    learned: bool
    value: float | None
    steps: int
    seconds: float
    note: str = ""


def memory(
    *,
    cells: Sequence[str | Cell] = CELLS,
    tasks: Sequence[str] = tuple(LAG_TASKS),
    lags: Sequence[int] = LAGS,
    minutes: float = 30.0,
    hidden_size: int = 64,
    lr: float = 5e-3,
    batch: int = 50,
    forget_bias: float | None = None,
    init: str | None = None,
    clip: float = 1.0,
    chrono: bool = False,
    seed: int = 0,
    threads: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> StudyResult:
    """Measure the longest lag that each cell learns.

    Every pair of task and cell gets an equal share of the remaining time. Within its share, a cell learns one lag after
    another in increasing order, each with a new network, until it fails to learn one. Because time is the limit,
    results depend on the speed of the machine.

    Args:
        cells: names of built-in cells, or cells of your own.
        tasks: names of tasks: adding, copy, temporal-order, parity and reber (see `throughtime.tasks.long_lags`).
        lags: the lags to try.
        minutes: the total time.
        hidden_size: the number of hidden units.
        lr: Adam's learning rate.
        batch: the batch size.
        forget_bias: the initial forget-gate bias, for cells that have one; defaults to 1.
        init: "orthogonal" to initialize recurrent weights orthogonally (Saxe et al. 2013); None for a uniform
            distribution.
        clip: the norm at which gradients are clipped; 0 disables clipping (Pascanu et al. 2013).
        chrono: whether to draw the biases of gates that retain a state for the lag (Tallec & Ollivier 2018), for cells
            that have such gates.
        seed: the seed for weights and sequences.
        threads: the number of CPU threads; defaults to torch's choice.
        out: the folder for `memory.json` and `memory.html`; defaults to `runs/DATE-TIME-memory`. An unfinished
            measurement in it with the same settings is resumed.
        progress: whether to report progress on standard error.

    Returns:
        A result with `longest` (the longest lag learned for each task and cell, None if there is none), `attempts` (one
        dictionary each, see `Attempt`), `claims` (textbook claims and whether they were reproduced), `settings`,
        `seconds`, `folder` and `page`.

    Raises:
        UserError: if an option is invalid, a cell or task is unknown, or `out` has a measurement with other settings.
    """
    found = resolved(cells)
    names, ordered = _tasks(tasks), _lags(lags)
    if not 0 < minutes < float("inf"):
        raise UserError(f"{option('minutes')} must be a positive number, got {minutes:g}")
    if init not in (None, "orthogonal"):
        raise UserError(f"{option('init')} must be orthogonal, got {init!r}")
    if chrono and forget_bias is not None:
        raise UserError(f"{option('chrono')} and {option('forget_bias')} set the same biases; remove one of them")
    _require_lags(names, ordered)
    settings: dict[str, Any] = {
        "cells": list(found), "tasks": names, "lags": ordered, "minutes": minutes, "hidden_size": hidden_size,
        "lr": lr, "batch": batch, "forget_bias": forget_bias, "orthogonal": init is not None, "clip": clip,
        "chrono": chrono, "seed": seed,
    }  # fmt: skip
    TrainConfig.of(LAG_TASKS[names[0]], **_training(settings, threads))  # reject invalid values
    folder = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-memory" if out is None else Path(out)
    measurement = _Measurement(settings, found, threads, folder)
    with Display(progress) as display:
        display.console.print(f"memory of {', '.join(found)} in {display_path(folder)}", markup=False)
        measurement.run(display)
    return _written(_result(settings, measurement.attempts, folder), folder)


def _training(settings: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """Return the training options that all attempts share."""
    return {"threads": threads} | {name: settings[name] for name in ("hidden_size", "lr", "batch", "clip", "seed")}


class _Measurement:
    """The attempts of all pairs of a task and a cell, including those of an interrupted measurement.

    Args:
        settings: the settings of the measurement, as stored in the result.
        cells: the cells by name.
        threads: the number of CPU threads.
        folder: where each attempt is saved as soon as it ends.

    Raises:
        RunError: if the folder has other contents.
    """

    def __init__(
        self, settings: Mapping[str, Any], cells: Mapping[str, Cell], threads: int | None, folder: Path
    ) -> None:
        self.settings, self.cells, self.threads, self.folder = settings, cells, threads, folder
        self.attempts = _earlier(folder, settings)

    def run(self, display: Display) -> None:
        """Give each pair an equal share of the remaining time."""
        pairs = [(task, name) for task in self.settings["tasks"] for name in self.cells]
        for k, (task, name) in enumerate(pairs):
            display.progress("measuring memory", k, len(pairs))
            used = sum(each.seconds for each in self.attempts)
            self._measure(task, name, (60 * self.settings["minutes"] - used) / (len(pairs) - k), display)
        display.progress("measuring memory", len(pairs), len(pairs))

    def _measure(self, task: str, name: str, seconds: float, display: Display) -> None:
        """Train a cell on one lag after another until it fails to learn one or its time is up."""
        for lag in self.settings["lags"]:
            done = next((a for a in self.attempts if (a.task, a.cell, a.lag) == (task, name, lag)), None)
            if done is None:
                if seconds < _MIN_SECONDS + _SETTLING:
                    return
                done = _attempt(LAG_TASKS[task], self.cells[name], lag, self._fields(lag), seconds)
                self.attempts.append(done)
                attempts = [asdict(each) for each in self.attempts]
                _save(self.folder, {"settings": self.settings, "attempts": attempts})
                state = "learned" if done.learned else "not learned"
                display.console.print(f"{task}, {name}, lag {lag}: {state} in {done.seconds:.0f} s", markup=False)
                seconds -= done.seconds
            if not done.learned:
                return

    def _fields(self, lag: int) -> dict[str, Any]:
        settings = self.settings
        return {
            **_training(settings, self.threads),
            "init": "orthogonal" if settings["orthogonal"] else None,
            "forget_bias": settings["forget_bias"],
            "chrono": lag if settings["chrono"] else None,
        }


def _written(result: Mapping[str, Any], folder: Path) -> StudyResult:
    from throughtime.studies.memory_page import head, memory_page, rows, sentences

    _save(folder, result)
    with replacing(folder / PAGE) as file:
        file.write(memory_page(result).encode("utf-8", "replace"))
    return StudyResult(result, head(result), rows(result), sentences(result))


class _Learned(Callback):
    """Stop training once the task is learned, and keep the best metric."""

    def __init__(self, task: LagTask) -> None:
        self._task = task
        self.learned = False
        self.value: float | None = None
        self.steps = 0

    def on_step(self, fit: Fit) -> None:
        """Count the steps."""
        self.steps = fit.step

    def on_validation(self, fit: Fit) -> None:
        """Check whether the task is learned."""
        assert fit.figures is not None
        value = fit.figures[self._task.figure]
        better = max if self._task.maximize else min
        self.value = value if self.value is None else better(value, self.value)
        if self._task.learned(fit.figures):
            self.learned = True
            fit.stop()


def _attempt(kind: type[LagTask], cell: Cell, lag: int, fields: Mapping[str, Any], seconds: float) -> Attempt:
    from throughtime.nn.initialization import forgets, gates_that_keep

    started = time.monotonic()
    given = dict(fields)
    program = cell.program(4, 4)
    if not forgets(program):
        given["forget_bias"] = None
    if not gates_that_keep(program):
        given["chrono"] = None
    minutes = (seconds - _SETTLING) / 60
    config = TrainConfig.of(kind, lag=lag, cell=cell.name, minutes=minutes, **given)
    task, note = kind(config.task), ""
    watch = _Learned(task)
    try:
        fit(task, config=config, callbacks=[watch], cell=cell)
    except Diverged as error:
        note = str(error)
    return Attempt(
        kind.name.removeprefix("memory-"), cell.name, lag, watch.learned, watch.value, watch.steps,
        time.monotonic() - started, note,
    )  # fmt: skip


def _tasks(names: Sequence[str]) -> list[str]:
    given = names.split(",") if isinstance(names, str) else list(names)
    wrong = [name for name in given if name not in LAG_TASKS]
    if wrong or not given:
        problems = ", ".join(f"unknown task {name!r}{nearest(name, LAG_TASKS)}" for name in wrong)
        problems = problems or f"{option('tasks')} is empty"
        raise UserError(f"{problems}; expected one of {', '.join(LAG_TASKS)}")
    return list(dict.fromkeys(given))


def _lags(lags: Iterable[int]) -> list[int]:
    found = sorted(set(lags))
    if not found or found[0] < 3:  # chrono needs more than 2 steps
        raise UserError(f"{option('lags')} must be integers of at least 3, got {found or 'none'}")
    return found


def _require_lags(tasks: Sequence[str], lags: Sequence[int]) -> None:
    short = [
        f"{name} needs lags of at least {LAG_TASKS[name].min_lag}"
        for name in tasks
        if lags[0] < LAG_TASKS[name].min_lag
    ]
    if short:
        raise UserError(f"{setting('lags', lags[0])} is too short: {'; '.join(short)}")


def _earlier(folder: Path, settings: Mapping[str, Any]) -> list[Attempt]:
    """Load the attempts of an earlier measurement in a folder.

    Raises:
        RunError: if its settings differ, or the folder has other contents.
    """
    file = folder / RESULT
    if not file.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{display_path(folder)} already exists; choose another directory with {option('out')}")
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        before, attempts = content["settings"], [Attempt(**each) for each in content["attempts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{display_path(file)} is damaged: {error}") from None
    for name, value in settings.items():
        if before.get(name) != value:
            raise RunError(
                f"{display_path(folder)} was measured with {setting(name, before.get(name))}, not {value}; choose "
                f"another directory with {option('out')}"
            )
    return attempts


def _save(folder: Path, content: Mapping[str, Any]) -> None:
    with replacing(folder / RESULT) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def _result(settings: Mapping[str, Any], attempts: Sequence[Attempt], folder: Path) -> dict[str, Any]:
    if not attempts:
        raise TrainingError(
            f"{setting('minutes', settings['minutes'])} is too short to train anything on "
            f"{len(settings['tasks'])} tasks with {len(settings['cells'])} cells; allow more time"
        )
    longest: dict[str, dict[str, int | None]] = {
        task: {
            cell: max((a.lag for a in attempts if (a.task, a.cell) == (task, cell) and a.learned), default=None)
            for cell in settings["cells"]
        }
        for task in settings["tasks"]
    }
    return {
        "settings": dict(settings),
        "longest": longest,
        "attempts": [asdict(each) for each in attempts],
        "claims": claims(longest, settings["lags"], _unfinished(longest, settings["lags"], attempts)),
        "seconds": sum(each.seconds for each in attempts),
        "folder": str(folder),
        "page": str(folder / PAGE),
    }


PLAIN_LIMIT = 20
"""A plain RNN that learns longer lags contradicts the textbooks' claim of about ten steps."""

ENOUGH_STEPS = 10_000
"""A cell that fails to learn a lag in fewer training steps may have had too little time."""

_GATED = ("lstm", "gru")


def _unfinished(
    longest: Mapping[str, Mapping[str, int | None]], lags: Sequence[int], attempts: Sequence[Attempt]
) -> set[tuple[str, str]]:
    """Return the tasks and cells that ran out of time: the next lag had no attempt or one of few training steps."""
    tried = {(a.task, a.cell, a.lag) for a in attempts if a.note or a.steps >= ENOUGH_STEPS}
    found = set()
    for task, by_cell in longest.items():
        for cell, lag in by_cell.items():
            following = next((each for each in lags if each > (lag or 0)), None)
            if following is not None and (task, cell, following) not in tried:
                found.add((task, cell))
    return found


def claims(
    longest: Mapping[str, Mapping[str, int | None]],
    lags: Sequence[int],
    unfinished: Collection[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Check textbook claims against the results.

    Args:
        longest: the longest lag learned, by task and cell.
        lags: the lags that were tried.
        unfinished: the tasks and cells that ran out of time, so that they might learn longer lags in more time.

    Returns:
        A dictionary per claim with `task`, `claim`, `reproduced` and `found`, the learned lags as text. `reproduced` is
        None if the results are inconclusive because the cells learned none or all of the lags, or ran out of time.
    """
    found = []

    def add(task: str, claim: str, reproduced: bool | None, finding: str, limit: str) -> None:
        """Add a claim that holds or fails because the cell `limit` learned no longer lag; "" if there is none."""
        if reproduced is not None and (task, limit) in unfinished:
            reproduced, finding = None, f"{finding}; time ran out, and more time may change this"
        found.append({"task": task, "claim": claim, "reproduced": reproduced, "found": finding})

    for task, by_cell in longest.items():
        if "rnn" not in by_cell:
            continue
        plain, last = by_cell["rnn"] or 0, lags[-1]
        finding = f"the plain RNN learned {_lag(plain)}"
        if last > PLAIN_LIMIT:
            claim = "a plain RNN spans about ten steps"
            reproduced = plain <= PLAIN_LIMIT if plain else None
            add(task, claim, reproduced, finding, "rnn" if reproduced else "")
        for gated in _GATED:
            if gated in by_cell:
                lag = by_cell[gated] or 0
                claim = f"the {gated.upper()} spans longer lags than a plain RNN"
                reproduced = lag > plain if max(lag, plain) > 0 and min(lag, plain) < last else None
                shown = f"{finding}, the {gated.upper()} {_lag(lag)}"
                add(task, claim, reproduced, shown, "rnn" if reproduced else gated)
    return found


def _lag(lag: int) -> str:
    return f"lag {lag}" if lag else "none of the lags"

"""Train runs to completion, one after another or several at a time in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any, TypeVar

from throughtime.errors import Interrupted, TrainingError
from throughtime.runs import Run
from throughtime.training.fitting import DIVERGED, Diverged
from throughtime.training.loop import resume

T = TypeVar("T")

_INTERRUPTED = 130
_POLL = 0.1  # seconds


def finish(trials: Sequence[T], start: Callable[[T], Run], jobs: int, report: Callable[[T, str | None], None]) -> None:
    """Train runs to completion.

    Args:
        trials: the trials to train.
        start: creates or opens a trial's run.
        jobs: the number of trials to train at a time; if more than one, each has its own process.
        report: called when a trial ends, with the reason if training diverged.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM.
        TrainingError: if a run can't be trained.
    """
    if jobs > 1:
        _in_processes(trials, start, jobs, report)
        return
    for trial in trials:
        try:
            resume(start(trial).path, progress=False)
        except Diverged as error:
            report(trial, str(error))
        else:
            report(trial, None)


def _in_processes(
    trials: Sequence[T], start: Callable[[T], Run], jobs: int, report: Callable[[T, str | None], None]
) -> None:
    waiting = list(trials)
    running: dict[subprocess.Popen[Any], tuple[T, IO[Any]]] = {}
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                trial = waiting.pop(0)
                errors: IO[Any] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
                command = [sys.executable, "-m", "throughtime", "train", "--resume", str(start(trial).path)]
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
                running[process] = trial, errors
            time.sleep(_POLL)
            for process in [each for each in running if each.poll() is not None]:
                trial, errors = running.pop(process)
                with errors:
                    errors.seek(0)
                    message = errors.read().strip()
                _judge(process.returncode, message, trial, report)
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    finally:
        for process in running:  # each saves a checkpoint before it exits
            with suppress(OSError):
                process.terminate()
        for process in running:
            process.wait()


def _judge(code: int, message: str, trial: T, report: Callable[[T, str | None], None]) -> None:
    last = message.splitlines()[-1].removeprefix("error: ") if message else f"exit code {code}"
    if code == _INTERRUPTED:
        raise Interrupted(last)
    if code and DIVERGED not in message:
        raise TrainingError(f"can't train a run: {last}")
    report(trial, last if code else None)

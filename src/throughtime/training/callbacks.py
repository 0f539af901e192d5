"""What is done between steps of training: each callback does one thing.

All of it happens after a step's update, so that a checkpoint is always of a training that has nothing half done.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import struct
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from throughtime.nn.sequence_model import SequenceModel
from throughtime.spelling import duration
from throughtime.training.checkpoints import save_checkpoint
from throughtime.training.display import Display
from throughtime.training.evaluation import Sums, total
from throughtime.training.metrics import MetricsFile

if TYPE_CHECKING:
    from throughtime.training.fitting import Fit

_log = logging.getLogger("throughtime")

STOP, LATE, VALIDATE, CHECKPOINT = "stop", "late", "validate", "checkpoint"
"""What a callback may ask for after a step: to stop, to end as the time is up, to validate, to save a checkpoint."""

_CHECKPOINT_SECONDS = 30.0
_ROWS = 1000  # of metrics.csv, about
_VALIDATION_SHARE = 0.05  # of the training time, where that ends the run
_MOST_VALIDATIONS, _LEAST_VALIDATIONS = 100, 10  # likewise
_FINE = 10_000  # parts of the bar
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Callback:
    """Does something at the points of a training; a subclass overrides those that it wants.

    With several processes each has its own callbacks. What one of them asks for is done in all.
    """

    name: str | None = None  # under which a checkpoint keeps the state; None where there is none

    def on_start(self, fit: Fit) -> None:
        """Called before the first step of this sitting."""

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """What is asked for after a step: any of STOP, LATE, VALIDATE and CHECKPOINT."""
        return ()

    def on_step(self, fit: Fit) -> None:
        """Called after each step, once all processes have agreed on what was asked for."""

    def on_validation(self, fit: Fit) -> None:
        """Called after each validation, with its figures in `fit.figures`."""

    def on_end(self, fit: Fit) -> None:
        """Called when this sitting ends, by an error too."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""


class Validation(Callback):
    """Measures the network on held-out data from time to time, and after the last step.

    It does so every so many steps or, where the time ends the run, by the clock: as often as takes a small share of
    the time on the machine as it is now.

    Attributes:
        took: seconds of the last validation.
    """

    name = "validation"

    def __init__(self) -> None:
        self.took = self._ended = 0.0

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Asks for a validation when the clock says so."""
        seconds = fit.plan.seconds
        if seconds is None or not fit.fabric.is_global_zero:
            return ()
        interval = min(max(self.took / _VALIDATION_SHARE, seconds / _MOST_VALIDATIONS), seconds / _LEAST_VALIDATIONS)
        return (VALIDATE,) if fit.elapsed - self._ended >= interval else ()

    def on_step(self, fit: Fit) -> None:
        """Validates where it is due."""
        plan = fit.plan
        if plan.validate_at is not None:
            due = fit.step in plan.validate_at
        elif plan.seconds is not None:
            due = bool(fit.asked & {LATE, VALIDATE})
        else:
            due = fit.step % plan.validate_every == 0
        if due or fit.step == plan.steps:
            before = fit.elapsed
            self._validate(fit)
            self._ended = fit.elapsed
            self.took = self._ended - before

    def state_dict(self) -> dict[str, Any]:
        """See `Callback.state_dict`."""
        return {"took": self.took, "ended": self._ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback.load_state_dict`."""
        self.took, self._ended = state["took"], state["ended"]

    def _validate(self, fit: Fit) -> None:
        task, here, processes = fit.task, fit.fabric.global_rank, fit.fabric.world_size
        batches = task.reading(
            fit.data.valid, fit.plan.batch, terms=fit.plan.validate_terms, rank=here, ranks=processes
        )
        found = total(fit.model, batches, task.metrics(fit.data.codecs))
        loss, terms = fit.summed(found.loss, found.terms)
        figures = Sums(loss, terms, found.metrics).figures
        if not math.isfinite(figures["loss"]):
            raise fit.diverged(fit.step, f"the validation loss is {figures['loss']:g}")
        fit.validated(figures)


class BestWeights(Callback):
    """Keeps the weights that were best on the held-out data; of equal ones, those with the lowest loss.

    Args:
        keep: called with the network whose weights are the best so far, in the first process; without it a copy of
            the weights is kept in memory.

    Attributes:
        best: the figure that was best.
        step: the step that it was reached at.
        weights: the copy in memory.
    """

    name = "best"

    def __init__(self, keep: Callable[[SequenceModel], None] | None = None) -> None:
        self.best: float | None = None
        self.loss = math.inf
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}
        self._keep = keep or self._copy

    def on_validation(self, fit: Fit) -> None:
        """Keeps the weights if they are the best."""
        assert fit.figures is not None
        found, loss = fit.figures[fit.task.monitor], fit.figures["loss"]
        better = self.best is None or (found > self.best if fit.task.maximize else found < self.best)
        if better or (found == self.best and loss < self.loss):
            self.best, self.loss, self.step = found, loss, fit.step
            if fit.fabric.is_global_zero:
                self._keep(fit.model)

    def _copy(self, model: SequenceModel) -> None:
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """See `Callback.state_dict`."""
        return {"best": self.best, "loss": self.loss, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback.load_state_dict`."""
        self.best, self.loss, self.step = state["best"], state["loss"], state["step"]


class MetricsRows(Callback):
    """Writes a row of figures every so many steps, and a line about each validation.

    Args:
        path: metrics.csv.
        best: knows whether a validation was the best.

    Attributes:
        train_loss: the mean over the steps of the last row; None before the first.
    """

    name = "rows"

    def __init__(self, path: Path, best: BestWeights) -> None:
        self.train_loss: float | None = None
        self._path, self._best = path, best
        self._sums = [0.0, 0.0, 0.0]  # losses, norms, steps since the last row
        self._file: MetricsFile | None = None

    def on_start(self, fit: Fit) -> None:
        """Cuts the file at the step to go on from."""
        if fit.fabric.is_global_zero:
            self._file = MetricsFile(self._path, fit.step, tuple(fit.task.metrics(fit.data.codecs)))

    def on_step(self, fit: Fit) -> None:
        """Adds up, and writes a row where it is due."""
        self._sums = [a + b for a, b in zip(self._sums, (fit.mean_loss, fit.last_norm, 1), strict=True)]
        if fit.just_validated or fit.step % max(1, fit.plan.expected_steps // _ROWS) == 0:
            self._write(fit)

    def sync(self) -> None:
        """Makes sure that all rows are on the disk."""
        if self._file is not None:
            self._file.sync()

    def _write(self, fit: Fit) -> None:
        losses, norms, steps = self._sums
        self._sums = [0.0, 0.0, 0.0]
        self.train_loss = losses / steps
        figures = fit.figures if fit.just_validated and fit.figures else {}
        row: dict[str, Any] = {
            "step": fit.step,
            "epoch": fit.step / fit.plan.epoch_steps,
            "time": fit.elapsed,
            "lr": fit.learning_rate,
            "train_loss": self.train_loss,
            "grad_norm": norms / steps,
            **{f"valid_{name}": value for name, value in figures.items() if name != "terms"},
        }
        if self._file is not None:
            self._file.write(row)
        fit.fabric.log_dict({k: v for k, v in row.items() if k != "step"}, fit.step)
        if fit.just_validated:
            monitor = fit.task.monitor
            others = "" if monitor == "loss" else f", {monitor.replace('_', ' ')} {figures[monitor]:.4f}"
            best = " *" if self._best.step == fit.step else ""
            _log.info(
                "%s: training loss %.4f, validation loss %.4f%s%s",
                where(fit) + _spent_and_left(fit), self.train_loss, figures["loss"], others, best,
            )  # fmt: skip

    def on_end(self, fit: Fit) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """See `Callback.state_dict`."""
        return {"sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback.load_state_dict`."""
        self._sums = state["sums"]


class Checkpoints(Callback):
    """Saves what is needed to go on: after each validation, every half a minute, and before stopping.

    Args:
        path: the file.
        files: what has to be on the disk before.
    """

    def __init__(self, path: Path, *files: MetricsRows | Rates) -> None:
        self._path, self._files = path, files
        self._saved = 0.0

    def on_start(self, fit: Fit) -> None:
        """Starts the clock."""
        self._saved = time.monotonic()

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Asks for a checkpoint every half a minute."""
        return (CHECKPOINT,) if time.monotonic() - self._saved >= _CHECKPOINT_SECONDS else ()

    def on_step(self, fit: Fit) -> None:
        """Saves a checkpoint where it is due."""
        if fit.just_validated or fit.asked & {CHECKPOINT, STOP}:
            if not all(bool(torch.isfinite(p).all()) for p in fit.model.parameters()):
                raise fit.diverged(fit.step, "a weight is not finite")
            for file in self._files:
                file.sync()
            state = fit.state_dict()
            if fit.fabric.is_global_zero:
                save_checkpoint(self._path, state)
            self._saved = time.monotonic()


class Deadline(Callback):
    """Ends training when the time is up, by the clock of the first process.

    Args:
        validation: what measures the network after the last step, for which time is left.
    """

    def __init__(self, validation: Validation | None = None) -> None:
        self._validation = validation

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Asks to end where another step would end later than the time is up."""
        seconds = fit.plan.seconds
        if seconds is None or not fit.fabric.is_global_zero:
            return ()
        after = fit.step_seconds / 2 + (self._validation.took if self._validation else 0.0)
        return (LATE,) if fit.elapsed + after >= seconds else ()


class Rates(Callback):
    """Keeps each step's learning rate: with it a run whose schedule followed the time can be replayed.

    Args:
        path: the file: a float64 for each step, little-endian.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def on_start(self, fit: Fit) -> None:
        """Cuts the file at the step to go on from."""
        if fit.fabric.is_global_zero:
            self._file = self._path.open("r+b" if self._path.exists() else "w+b")
            self._file.truncate(8 * fit.step)
            self._file.seek(0, os.SEEK_END)

    def on_step(self, fit: Fit) -> None:
        """Writes the rate."""
        if self._file is not None:
            self._file.write(struct.pack("<d", fit.learning_rate))

    def sync(self) -> None:
        """Makes sure that all rates are on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def on_end(self, fit: Fit) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Signals(Callback):
    """Lets Ctrl-C and SIGTERM stop training after the step, and a second one at once.

    Attributes:
        interrupted: whether a signal asked to stop.
    """

    interrupted = False

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Asks to stop after a signal."""
        return (STOP,) if self.interrupted else ()

    def on_step(self, fit: Fit) -> None:
        """Takes note of a signal in another process."""
        self.interrupted = STOP in fit.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it lasts, signals are listened to."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True


class Examples(Callback):
    """Shows what the network makes of the data after each quarter of the training (see `Task.example`)."""

    def __init__(self) -> None:
        self._quarter = 0

    def on_start(self, fit: Fit) -> None:
        """Leaves out the quarters of earlier sittings."""
        self._quarter = int(4 * fit.plan.share(fit.step, fit.seconds))

    def on_step(self, fit: Fit) -> None:
        """Shows an example where a quarter is over."""
        quarter = int(4 * fit.plan.share(fit.step, fit.seconds))
        if self._quarter < quarter < 4 and fit.fabric.is_global_zero:
            fit.model.eval()
            text = fit.task.example(fit.model, fit.data).strip()
            fit.model.train()
            if "\n" in text:
                text = "\n" + textwrap.indent(text, "  ")
            if text:
                _log.info("after %d%% of the training: %s", 25 * quarter, text)
        self._quarter = quarter


class ProgressBar(Callback):
    """Shows a bar.

    Args:
        display: what draws it.
        rows: knows the training loss, if there are rows.
    """

    def __init__(self, display: Display, rows: MetricsRows | None = None) -> None:
        self._display, self._rows = display, rows

    def on_step(self, fit: Fit) -> None:
        """Shows the step."""
        train = self._rows.train_loss if self._rows else fit.last_loss
        losses = {"loss": train, "validation": fit.figures["loss"] if fit.figures else None}
        figures = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)
        share = round(_FINE * fit.plan.share(fit.step, fit.seconds))
        self._display.progress("training", share, _FINE, f"step {fit.step:,}, {figures}")


def where(fit: Fit) -> str:
    """How far a training is, by its steps or by the time."""
    if fit.plan.seconds is None:
        return f"step {fit.step} of {fit.plan.steps}"
    return f"step {fit.step}, {duration(fit.seconds)} of {duration(fit.plan.seconds)}"


def _spent_and_left(fit: Fit) -> str:
    """The time that a training by steps has taken, and about what it will take."""
    share = fit.plan.share(fit.step, fit.seconds)
    if fit.plan.seconds is not None or not 0 < share < 1 or fit.seconds < 1:
        return ""
    left = (fit.seconds - fit.plan.from_seconds) * (1 - share) / share
    return f" ({duration(fit.seconds)}, {duration(left)} left)"

"""Callbacks that run between training steps.

All callbacks run after a step's update, so a checkpoint never contains a half-finished step.
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
from throughtime.spelling import duration, figure
from throughtime.training.checkpoints import save_checkpoint
from throughtime.training.display import Display
from throughtime.training.evaluation import Sums, total
from throughtime.training.metrics import MetricsFile

if TYPE_CHECKING:
    from throughtime.training.fitting import Fit
    from throughtime.training.run_config import Plan

_log = logging.getLogger("throughtime")

STOP, LATE, VALIDATE, CHECKPOINT = "stop", "late", "validate", "checkpoint"
"""Requests that a callback may make after a step: stop, end because time is up, validate, save a checkpoint."""

_CHECKPOINT_SECONDS = 30.0
_ROWS = 1000  # the approximate number of rows in metrics.csv
_VALIDATION_SHARE = 0.05  # the fraction of training time to spend on validation, if time ends the run
_MAX_VALIDATIONS, _MIN_VALIDATIONS = 100, 10  # bounds on the number of validations in that case
_FINE = 10_000  # the resolution of the progress bar
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Callback:
    """Base class of callbacks; a subclass overrides the methods it needs.

    With several processes, each has its own callbacks. A request made by any of them takes effect in all.
    """

    name: str | None = None  # the key of the state in a checkpoint; None if there is no state

    def on_start(self, fit: Fit) -> None:
        """Run before the first step of this session."""

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Return the requests to make after a step: any of STOP, LATE, VALIDATE and CHECKPOINT."""
        return ()

    def on_step(self, fit: Fit) -> None:
        """Run after each step, once all processes agree on the requests."""

    def on_validation(self, fit: Fit) -> None:
        """Run after each validation; `fit.figures` has its metrics."""

    def on_end(self, fit: Fit) -> None:
        """Run when this session ends, even if by an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict`."""


class Validation(Callback):
    """Evaluates the network on held-out data at intervals and after the last step.

    The interval is a number of steps or, if time ends the run, a duration chosen so that validation takes a small
    fraction of the training time on this machine.

    Attributes:
        took: the duration of the last validation in seconds.
    """

    name = "validation"

    def __init__(self) -> None:
        self.took = self._ended = 0.0

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Request a validation when one is due by the clock."""
        seconds = fit.plan.seconds
        if seconds is None or not fit.fabric.is_global_zero:
            return ()
        interval = min(max(self.took / _VALIDATION_SHARE, seconds / _MAX_VALIDATIONS), seconds / _MIN_VALIDATIONS)
        return (VALIDATE,) if fit.elapsed - self._ended >= interval else ()

    def on_step(self, fit: Fit) -> None:
        """Validate if it is due."""
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
        found = total(fit.evaluated, batches, task.metrics(fit.data.codecs))
        loss, terms = fit.summed(found.loss, found.terms)
        figures = Sums(loss, terms, found.metrics).figures
        figures["loss"] = task.loss(figures)
        if not math.isfinite(figures["loss"]):
            raise fit.diverged(fit.step, f"the validation loss is {figures['loss']:g}")
        fit.validated(figures)


class BestWeights(Callback):
    """Keeps the weights with the best validation metric; ties are broken by the lower loss.

    Args:
        keep: called in the first process with the network each time its weights are the best so far; by default, a copy
            of the weights is kept in memory.

    Attributes:
        best: the best value of the metric.
        step: the step of the best value.
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
        """Keep the weights if they are the best so far."""
        assert fit.figures is not None
        found, loss = fit.figures[fit.task.monitor], fit.figures["loss"]
        better = self.best is None or (found > self.best if fit.task.maximize else found < self.best)
        if better or (found == self.best and loss < self.loss):
            self.best, self.loss, self.step = found, loss, fit.step
            if fit.fabric.is_global_zero:
                self._keep(fit.evaluated)

    def _copy(self, model: SequenceModel) -> None:
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """See `Callback.state_dict`."""
        return {"best": self.best, "loss": self.loss, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback.load_state_dict`."""
        self.best, self.loss, self.step = state["best"], state["loss"], state["step"]


class MetricsRows(Callback):
    """Writes a row of metrics at intervals, and logs a line for the first and the last validation and about ten others.

    Args:
        path: the path of metrics.csv.
        best: the callback that knows whether a validation was the best.

    Attributes:
        train_loss: the mean training loss over the steps of the last row; None before the first row.
    """

    name = "rows"

    def __init__(self, path: Path, best: BestWeights) -> None:
        self.train_loss: float | None = None
        self._path, self._best = path, best
        self._sums = [0.0, 0.0, 0.0]  # losses, norms, steps since the last row
        self._file: MetricsFile | None = None
        self._logged = -1  # the number of tenths of training at the last logged validation
        self._last_step = 0  # the step of the last logged validation
        self._since_line = [0.0, 0]  # the sum of the losses and the number of steps since then

    def on_start(self, fit: Fit) -> None:
        """Truncate the file at the step to resume from."""
        if fit.fabric.is_global_zero:
            self._file = MetricsFile(self._path, fit.step, tuple(fit.task.metrics(fit.data.codecs)))

    def on_step(self, fit: Fit) -> None:
        """Accumulate, and write a row if it is due."""
        self._since_line = [self._since_line[0] + fit.mean_loss, self._since_line[1] + 1]
        self._sums = [a + b for a, b in zip(self._sums, (fit.mean_loss, fit.last_norm, 1), strict=True)]
        if fit.just_validated or fit.step % max(1, fit.plan.expected_steps // _ROWS) == 0:
            self._write(fit)

    def sync(self) -> None:
        """Flush all rows to disk."""
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
        if fit.just_validated and self._is_due(fit):
            monitor = fit.task.monitor
            others = "" if monitor == "loss" else f", {fit.task.label(monitor)} {figure(figures[monitor])}"
            best = ""
            if self._best.step == fit.step:
                best = " *"
            elif self._best.step > self._last_step and self._best.best is not None:
                best = f"; best {figure(self._best.best)} at step {self._best.step:,}"
            mean = self._since_line[0] / self._since_line[1]
            self._last_step, self._since_line = fit.step, [0.0, 0]
            _log.info(
                "%s: training loss %s, validation loss %s%s%s",
                where(fit) + _spent_and_left(fit), figure(mean), figure(figures["loss"]), others, best,
            )  # fmt: skip

    def _is_due(self, fit: Fit) -> bool:
        """Return whether to log this validation: the first of all, the first in each tenth of training, or the last."""
        tenths = int(10 * fit.plan.share(fit.step, fit.seconds) + 1e-9)
        due = tenths > self._logged or fit.step == fit.plan.steps or LATE in fit.asked
        self._logged = tenths
        return due

    def on_end(self, fit: Fit) -> None:
        """Close the file."""
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
    """Saves checkpoints: after each validation, every 30 seconds, and before stopping.

    Args:
        path: the path of the checkpoint.
        files: files to flush to disk before the checkpoint.
    """

    def __init__(self, path: Path, *files: MetricsRows | Rates) -> None:
        self._path, self._files = path, files
        self._saved = 0.0

    def on_start(self, fit: Fit) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Request a checkpoint every 30 seconds."""
        return (CHECKPOINT,) if time.monotonic() - self._saved >= _CHECKPOINT_SECONDS else ()

    def on_step(self, fit: Fit) -> None:
        """Save a checkpoint if it is due."""
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
        validation: the callback that validates after the last step; time is reserved for it.
    """

    def __init__(self, validation: Validation | None = None) -> None:
        self._validation = validation

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Request the end of training if another step would exceed the time."""
        seconds = fit.plan.seconds
        if seconds is None or not fit.fabric.is_global_zero:
            return ()
        after = fit.step_seconds / 2 + (self._validation.took if self._validation else 0.0)
        return (LATE,) if fit.elapsed + after >= seconds else ()


class Rates(Callback):
    """Records each step's learning rate, so that a run whose schedule followed the clock can be replayed.

    Args:
        path: the path of the file, which holds a little-endian float64 for each step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def on_start(self, fit: Fit) -> None:
        """Truncate the file at the step to resume from."""
        if fit.fabric.is_global_zero:
            self._file = self._path.open("r+b" if self._path.exists() else "w+b")
            self._file.truncate(8 * fit.step)
            self._file.seek(0, os.SEEK_END)

    def on_step(self, fit: Fit) -> None:
        """Write the learning rate."""
        if self._file is not None:
            self._file.write(struct.pack("<d", fit.learning_rate))

    def sync(self) -> None:
        """Flush all learning rates to disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def on_end(self, fit: Fit) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Signals(Callback):
    """Stops training after the current step on Ctrl-C or SIGTERM, and immediately on a second one.

    Attributes:
        interrupted: whether a signal stopped training.
    """

    interrupted = False
    _received = False  # by this process; it requests a stop after the next step at the latest

    def asks(self, fit: Fit) -> tuple[str, ...]:
        """Request a stop after a signal."""
        return (STOP,) if self._received else ()

    def on_step(self, fit: Fit) -> None:
        """Record whether any process received a signal."""
        self.interrupted = STOP in fit.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals within the context."""
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
            if not torch.distributed.is_initialized():  # with several processes, the others would wait for this one
                self.interrupted |= self._received

    def _stop(self, number: int, frame: Any) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True


class Examples(Callback):
    """Logs an example prediction after each quarter of training (see `Task.example`)."""

    def __init__(self) -> None:
        self._quarter = 0

    def on_start(self, fit: Fit) -> None:
        """Skip the quarters of earlier sessions."""
        self._quarter = int(4 * fit.plan.share(fit.step, fit.seconds))

    def on_step(self, fit: Fit) -> None:
        """Log an example at the end of a quarter."""
        quarter = int(4 * fit.plan.share(fit.step, fit.seconds))
        if self._quarter < quarter < 4 and fit.fabric.is_global_zero:
            training = fit.evaluated.training
            text = fit.task.example(fit.evaluated.eval(), fit.data).strip()
            fit.evaluated.train(training)
            if "\n" in text:
                text = "\n" + textwrap.indent(text, "  ")
            elif text:
                text = f" {text}"
            if text:
                resumed = "further " if fit.plan.from_step else ""
                _log.info("after %d%% of the %straining:%s", 25 * quarter, resumed, text)
        self._quarter = quarter


class ProgressBar(Callback):
    """Shows a progress bar.

    Args:
        display: the display that draws it.
        rows: the callback that knows the mean training loss, if any.
    """

    def __init__(self, display: Display, rows: MetricsRows | None = None) -> None:
        self._display, self._rows = display, rows

    def on_step(self, fit: Fit) -> None:
        """Update the bar."""
        train = self._rows.train_loss if self._rows else fit.last_loss
        losses = {"loss": train, "validation": fit.figures["loss"] if fit.figures else None}
        figures = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)
        share = round(_FINE * fit.plan.share(fit.step, fit.seconds))
        self._display.progress("training", share, _FINE, f"step {fit.step:,}, {figures}")


def where(fit: Fit) -> str:
    """Describe the progress of training in steps or time."""
    return progress_in_words(fit.plan, fit.step, fit.seconds)


def progress_in_words(plan: Plan, step: int, seconds: float) -> str:
    """Describe a step and the training time up to it, as parts of a plan."""
    if plan.seconds is None:
        return f"step {step:,} of {plan.steps:,}"
    return f"step {step:,}, {duration(seconds)} of {duration(plan.seconds)}"


def _spent_and_left(fit: Fit) -> str:
    """Describe the elapsed and the estimated remaining time of training with a fixed number of steps."""
    share = fit.plan.share(fit.step, fit.seconds)
    if fit.plan.seconds is not None or not 0 < share < 1 or fit.seconds < 1:
        return ""
    left = (fit.seconds - fit.plan.from_seconds) * (1 - share) / share
    return f" ({duration(fit.seconds)}, {duration(left)} left)"

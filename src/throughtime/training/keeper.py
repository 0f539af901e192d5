"""What is done between steps: validation, the rows of metrics.csv, the best weights, checkpoints, and stopping.

All of it happens at one place, after a step's update, so that a checkpoint is always of a run that has nothing
half done.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from throughtime.data import Streams
from throughtime.runs import Run
from throughtime.training.evaluation import total_loss
from throughtime.training.metrics import MetricsFile
from throughtime.training.module import TrainingModule, diverged

_log = logging.getLogger("throughtime")

_CHECKPOINT_SECONDS = 30.0
_ROWS = 1000  # of metrics.csv, about
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Keeper(Callback):
    """Keeps a run.

    Attributes:
        best_loss: the lowest validation loss so far, in nats per symbol.
        best_step: the step it was reached at.
        valid_loss: the last validation's loss; None before the first.
        train_loss: the mean over the steps of the last row of metrics.csv; None before the first.
        elapsed: seconds of training, over all sittings.
        interrupted: whether a signal asked to stop.
        late: whether the time was up before the last step.

    Args:
        run: where things are kept.
        valid: this process's share of the validation text.
    """

    def __init__(self, run: Run, valid: Streams) -> None:
        self.best_loss, self.best_step = math.inf, 0
        self.valid_loss: float | None = None
        self.train_loss: float | None = None
        self.interrupted = self.late = False
        self._run, self._valid = run, valid
        self._sums = [0.0, 0.0, 0.0]  # losses, norms, steps since the last row
        self._before = 0.0  # seconds of earlier sittings
        self._began = self._saved = 0.0
        self._metrics: MetricsFile | None = None
        self._row_every = max(1, run.plan.steps // _ROWS)

    @property
    def elapsed(self) -> float:
        """Seconds of training, over all sittings."""
        return self._before + (time.monotonic() - self._began if self._began else 0.0)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Cut metrics.csv at the step to go on from."""
        self._began = self._saved = time.monotonic()
        if trainer.is_global_zero:
            self._metrics = MetricsFile(self._run.metrics_file, trainer.global_step)
        self._listen()  # Lightning has put its own handlers there

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do what is due after a step."""
        assert isinstance(pl_module, TrainingModule)
        step, plan = trainer.global_step, self._run.plan
        due = time.monotonic() - self._saved >= _CHECKPOINT_SECONDS
        late = plan.seconds is not None and self.elapsed > plan.seconds and step < plan.steps
        loss, due, self.interrupted, self.late = _agreed(trainer, pl_module.last_loss, due, self.interrupted, late)
        self._sums = [a + b for a, b in zip(self._sums, (loss, pl_module.last_norm, 1), strict=True)]
        validated = self.late or step % plan.validate_every == 0 or step == plan.steps
        if validated:
            self._validate(trainer, pl_module)
        if validated or step % self._row_every == 0:
            self._write_row(trainer, pl_module, validated)
        if validated or due or self.interrupted:
            self._save(trainer, pl_module)
        if self.interrupted or self.late:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "valid_loss": self.valid_loss,
            "sums": self._sums,
            "elapsed": self.elapsed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]
        self.valid_loss, self._sums, self._before = state_dict["valid_loss"], state_dict["sums"], state_dict["elapsed"]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While it lasts, Ctrl-C and SIGTERM stop training after the step, and a second one at once."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)
            if self._metrics is not None:
                self._metrics.close()
                self._metrics = None

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def _validate(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        total, count = total_loss(module.model, self._valid)
        sums = _summed(trainer, total, count)
        loss = sums[0] / sums[1]
        if not math.isfinite(loss):
            raise diverged(self._run.config, trainer.global_step, f"the validation loss is {loss:g}", module.last_norm)
        self.valid_loss = loss
        module.schedule.validated(loss)
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, trainer.global_step
            if trainer.is_global_zero:
                self._run.save_weights(module.model)

    def _write_row(self, trainer: lightning.Trainer, module: TrainingModule, validated: bool) -> None:
        losses, norms, steps = self._sums
        self._sums = [0.0, 0.0, 0.0]
        self.train_loss = losses / steps
        step = trainer.global_step
        row = {
            "step": step,
            "epoch": step / self._run.plan.epoch_steps,
            "time": self.elapsed,
            "lr": module.learning_rate,
            "train_loss": self.train_loss,
            "grad_norm": norms / steps,
            "valid_loss": self.valid_loss if validated else None,
        }
        if self._metrics is not None:
            self._metrics.write(row)
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in row.items() if k != "step" and v is not None}, step)
        if validated:
            best = ", the best" if self.best_step == step else ""
            _log.info(
                "step %d of %d: training loss %.4f, validation loss %.4f%s",
                step, self._run.plan.steps, self.train_loss, self.valid_loss, best,
            )  # fmt: skip

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in module.model.parameters()):
            raise diverged(self._run.config, trainer.global_step, "a weight is not finite", module.last_norm)
        if self._metrics is not None:
            self._metrics.sync()
        trainer.save_checkpoint(self._run.checkpoint)
        self._saved = time.monotonic()


def _agreed(trainer: lightning.Trainer, loss: float, *asked: bool) -> tuple[Any, ...]:
    """The mean loss of all processes, and whether any of them asked for something."""
    if trainer.world_size == 1:
        return loss, *asked
    total, *flags = _summed(trainer, loss, *asked)
    return total / trainer.world_size, *(flag > 0 for flag in flags)


def _summed(trainer: lightning.Trainer, *values: float) -> list[float]:
    """Each value's sum over all processes."""
    sums = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    if trainer.world_size > 1:
        torch.distributed.all_reduce(sums)
    return sums.tolist()

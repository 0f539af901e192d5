"""The training loop: truncated backpropagation through time, one batch per step, with callbacks in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from throughtime.errors import TrainingError
from throughtime.nn.forms import State
from throughtime.nn.sequence_model import SequenceModel, detached
from throughtime.spelling import option, setting
from throughtime.tasks.base import Data, Figures, Task
from throughtime.training.averaging import WeightAverage
from throughtime.training.callbacks import CHECKPOINT, LATE, STOP, VALIDATE, BestWeights, Callback, Deadline, Validation
from throughtime.training.config import TrainConfig
from throughtime.training.evaluation import OnDevice
from throughtime.training.fabric import make_fabric
from throughtime.training.optimizers import clipped_norm, make_optimizer
from throughtime.training.planning import make_plan
from throughtime.training.run_config import Plan
from throughtime.training.schedule import Schedule

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from throughtime.program.cell import Cell

_WEIGHTS = {"64": torch.float64, "bf16": torch.bfloat16}
_REQUESTS = (STOP, LATE, VALIDATE, CHECKPOINT)


DIVERGED = "training diverged"  # starts the message, by which other processes recognize the error


class Diverged(TrainingError):
    """Raised when a loss, a gradient or a weight is no longer finite."""


class Fit:
    """The training loop and its state, as seen by callbacks.

    Attributes:
        task, data, config, plan: the task, its data, the configuration and the plan.
        model: the network being trained.
        fabric: Lightning Fabric, which handles devices and processes.
        step: the number of steps taken.
        last_loss: the mean loss of the last step in this process.
        mean_loss: the same, averaged over all processes.
        last_norm: the gradient norm of the last step before clipping.
        figures: the metrics of the last validation; None before the first.
        seconds: the training time in seconds up to the end of the last step, summed over sessions. With several
            processes, the first one's time, so that all of them use the same learning rate and end together.
        step_seconds: the duration of the last step in this process.
        asked: the requests that callbacks of any process made after the last step.
        schedule: the learning rate schedule.

    Args:
        task, data, config, plan: see above.
        model: the network with its initial weights.
        callbacks: the callbacks in the order to call them.
        loggers: Fabric's loggers.
        clock: a function that returns the time in seconds.
        rates: the learning rates of the first steps, to replay a run; later steps follow the schedule.
    """

    def __init__(
        self,
        task: Task[Any],
        data: Data[Any],
        config: TrainConfig,
        plan: Plan,
        model: SequenceModel,
        callbacks: Sequence[Callback],
        loggers: Sequence[Any] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        rates: Sequence[float] = (),
    ) -> None:
        self.task, self.data, self.config, self.plan, self.model = task, data, config, plan, model
        self.callbacks = list(callbacks)
        self.step = 0
        self.last_loss = self.mean_loss = self.last_norm = math.nan
        self.figures: Figures | None = None
        self._validated = -1  # the step of the last validation in this session
        self.asked: frozenset[str] = frozenset()
        self.schedule = Schedule(config.training, plan)
        self.fabric: Fabric = make_fabric(config.training, loggers)
        self._average: WeightAverage | None = None
        self._carried: State | None = None
        self._generators: list[Tensor] | None = None  # set until the first step of a resumed training
        self._clock, self._rates = clock, rates
        self.seconds = self.step_seconds = 0.0
        self._before = 0.0  # training time in earlier sessions, in seconds
        self._began: float | None = None
        self._stopped = self._timed_out = False

    @property
    def elapsed(self) -> float:
        """The training time in seconds, summed over sessions."""
        return self._before + (self._clock() - self._began if self._began is not None else 0.0)

    @property
    def evaluated(self) -> SequenceModel:
        """The network to validate and save: with averaged weights if `ema` is set, otherwise `model`."""
        return self.model if self._average is None else self._average.module

    @property
    def just_validated(self) -> bool:
        """Whether a validation followed the last step."""
        return self._validated == self.step

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def stop(self) -> None:
        """End training after this step. With several processes, all of them must call it."""
        self._stopped = True

    def run(self, checkpoint: Mapping[str, Any] | None = None) -> None:
        """Train to the end of the plan, or until stopped.

        Args:
            checkpoint: the state to resume from (see `state_dict`).

        Raises:
            Diverged: if a loss, a gradient or a weight is no longer finite.
        """
        training, fabric = self.config.training, self.fabric
        fabric.launch()
        self.model.to(_WEIGHTS.get(training.precision, torch.float32))
        torch.manual_seed(training.seed + fabric.global_rank)  # a different dropout mask in each process
        if training.ema:
            fabric.to_device(self.model)
            self._average = WeightAverage(self.model, training.ema)
        # Not fabric.setup, whose wrapper converts double precision outputs to single precision.
        self._loss = fabric.strategy.setup_module(fabric.to_device(_Loss(self.model)))
        self._optimizer = fabric.strategy.setup_optimizer(make_optimizer(training, self.model))
        self.model.train()
        if checkpoint is not None:
            self._load(checkpoint)
        batches = self.task.batches(
            self.data.train, self.plan.batch, seed=training.seed, rank=fabric.global_rank, ranks=fabric.world_size
        )
        self._began = self._clock()
        try:
            for callback in self.callbacks:
                callback.on_start(self)
            if self._generators is not None:
                _set_generators(self._generators)
            while not (self._stopped or self._timed_out or self.step == self.plan.steps):
                before = self._clock()
                self._advance(batches.batch(self.step))
                self.step_seconds = self._clock() - before
                self._agree()
                for callback in self.callbacks:
                    callback.on_step(self)
                self._stopped |= STOP in self.asked
        finally:
            self._before, self._began = self.elapsed, None
            for callback in self.callbacks:
                callback.on_end(self)

    def _advance(self, batch: Any) -> None:
        """Take one step."""
        training = self.config.training
        if self.step < len(self._rates):
            lr = float(self._rates[self.step])
        else:
            lr = training.learning_rate * self.schedule.factor(self.step, self.seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        parameter = next(self.model.parameters())
        on_device = OnDevice.of(batch, parameter.device, parameter.dtype)
        with self.fabric.autocast():
            total, state = self._loss(*on_device, self._carried if batch.carry else None)
        self._carried = detached(state)
        loss = total / batch.terms
        self._optimizer.zero_grad()
        self.fabric.backward(loss)
        scaled = training.precision == "16-mixed"  # infinite gradients are normal here, and their steps are skipped
        if scaled:
            self.fabric.strategy.precision.unscale_gradients(self._optimizer)
        norm = clipped_norm(self.model, training.clip)
        self.last_loss, self.last_norm = torch.stack([loss.detach().double(), norm.double()]).tolist()
        if not math.isfinite(self.last_loss) or not (scaled or math.isfinite(self.last_norm)):
            raise self.diverged(self.step + 1, f"the loss is {self.last_loss:g}")
        self.fabric.strategy.optimizer_step(self._optimizer)
        if self._average is not None:
            self._average.update_parameters(self.model)
        self.step += 1

    def _agree(self) -> None:
        """Combine the requests of all processes after a step."""
        asked = {request for callback in self.callbacks for request in callback.asks(self)}
        if self.fabric.world_size > 1:
            own = self.elapsed if self.fabric.is_global_zero else 0.0
            requests = (float(request in asked) for request in _REQUESTS)
            loss, self.seconds, *counts = self.summed(self.last_loss, own, *requests)
            self.mean_loss = loss / self.fabric.world_size
            asked = {request for request, count in zip(_REQUESTS, counts, strict=True) if count}
        else:
            self.mean_loss, self.seconds = self.last_loss, self.elapsed
        self.asked = frozenset(asked)
        self._timed_out = LATE in asked

    def summed(self, *values: float) -> list[float]:
        """Sum each value over all processes."""
        if self.fabric.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        torch.distributed.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def validated(self, figures: Figures) -> None:
        """Record a validation's metrics and notify the callbacks."""
        self.figures, self._validated = figures, self.step
        self.schedule.validated(figures["loss"])
        for callback in self.callbacks:
            callback.on_validation(self)

    def diverged(self, step: int, what: str) -> Diverged:
        """Create the error for values that are no longer finite."""
        training = self.config.training
        clip = option("clip")
        clip = f"a smaller {clip} ({training.clip:g} now)" if training.clip else f"{setting('clip', 1)} (now off)"
        return Diverged(
            f"{DIVERGED} at step {step}: {what} (gradient norm {self.last_norm:g}). Try a lower "
            f"{option('lr')} ({training.learning_rate:g} now) or {clip}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume. With several processes, all of them must call it."""
        here = {"carried": _on_cpu(self._carried), "generators": _get_generators(self.fabric.device)}
        return {
            "step": self.step,
            "elapsed": self.elapsed,
            "timed_out": self.plan.seconds if self._timed_out else None,
            "figures": self.figures,
            "model": self.model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "schedule": self.schedule.state_dict(),
            "callbacks": {c.name: c.state_dict() for c in self.callbacks if c.name is not None},
            "processes": _from_all(here),
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.step, self._before, self.figures = state["step"], state["elapsed"], state["figures"]
        self.seconds = self._before
        self._timed_out = state["timed_out"] is not None and state["timed_out"] == self.plan.seconds
        self.model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.schedule.load_state_dict(state["schedule"])
        for callback in self.callbacks:
            if callback.name is not None:
                callback.load_state_dict(state["callbacks"][callback.name])
        here = state["processes"][self.fabric.global_rank]
        carried, device = here["carried"], self.fabric.device
        if carried is not None:
            carried = carried.to(device) if isinstance(carried, Tensor) else tuple(s.to(device) for s in carried)
        self._carried, self._generators = carried, here["generators"]


class _Loss(nn.Module):
    """The loss as a module, because DDP wraps the forward method of modules."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        lengths: Tensor | None,
        weights: Tensor | None,
        branches: int,
        state: State | None,
    ) -> tuple[Tensor, State]:
        """See `SequenceModel.loss`."""
        return self.model.loss(inputs, targets, state, lengths=lengths, weights=weights, branches=branches)


def fit(
    task: Task[Any],
    data: Data[Any] | None = None,
    config: TrainConfig | None = None,
    callbacks: Iterable[Callback] = (),
    *,
    cell: Cell | None = None,
    keep: Literal["best", "last"] = "best",
) -> SequenceModel:
    """Train a network without writing any files.

    Args:
        task: the task to learn.
        data: the data; by default, those that the task's options name.
        config: the options of network and training; the task's defaults if None.
        callbacks: callbacks to run between steps, after the validation.
        cell: a custom cell; by default, the cell named in `config`.
        keep: "best" keeps the weights with the best validation metric; "last" keeps those after the last step and
            skips validation.

    Returns:
        The network in evaluation mode.

    Raises:
        TrainingError: if an option is invalid or training diverges.
        DataError: if the data can't be read or are unsuitable.
    """
    from throughtime import cells
    from throughtime.training.building import build_model, programs_of
    from throughtime.training.session import settings_kept

    config = config or TrainConfig.of(type(task))
    data = task.prepare() if data is None else data
    started = time.monotonic()
    best = BestWeights()
    validation = Validation()
    own: list[Callback] = [Deadline()] if keep == "last" else [Deadline(validation), validation, best]
    with settings_kept(config.training):
        interface = task.interface(data.codecs)
        torch.manual_seed(config.training.seed)
        programs = programs_of(config.network, cell or cells.get(config.network.cell), interface)
        model = build_model(config.network, programs, interface, config.training.engine)
        model.task = task.describe(data.codecs, task.baselines(data))
        plan = make_plan(task, data, config, model, started, report=False)
        training = Fit(task, data, config, plan, model, [*own, *callbacks])
        training.run()
    model.load_state_dict(best.weights if keep == "best" else training.evaluated.state_dict())
    model.task = replace(model.task, calibration=task.calibrate(model.eval(), data, plan.evaluate_terms))
    return model.eval()


def _on_cpu(state: State | None) -> State | None:
    if state is None or isinstance(state, Tensor):
        return None if state is None else state.cpu()
    return tuple(tensor.cpu() for tensor in state)


def _get_generators(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _set_generators(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


def _from_all(here: Any) -> list[Any]:
    """Gather a value from all processes, ordered by rank."""
    if not torch.distributed.is_initialized():
        return [here]
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, here)
    return list(found)

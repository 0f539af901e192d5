"""The language model as Lightning trains it: truncated backpropagation through time, one window a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor

from throughtime.data import Streams
from throughtime.errors import TrainingError
from throughtime.nn.language_model import LanguageModel, detached
from throughtime.nn.recurrent import State
from throughtime.spelling import option, setting
from throughtime.training.config import TrainConfig
from throughtime.training.optimizers import clipped_norm, make_optimizer
from throughtime.training.record import Plan
from throughtime.training.schedule import Schedule

Window = tuple[int, Tensor, Tensor]


@dataclass(frozen=True)
class Windows:
    """The windows of the steps from `first` to before `last`, epoch after epoch: `(window's number, inputs, targets)`.

    To Lightning this is one long epoch, so that a run goes on at any step as if it had never stopped.
    """

    streams: Streams
    first: int
    last: int

    def __iter__(self) -> Iterator[Window]:
        for step in range(self.first, self.last):
            k = step % len(self.streams)
            symbols, targets = self.streams[k]
            yield k, torch.from_numpy(symbols), torch.from_numpy(targets)


class TrainingModule(lightning.LightningModule):
    """A language model in training.

    Attributes:
        model: the model.
        schedule: its learning rate over the steps.
        last_loss: of the last step, in nats per symbol, in this process.
        last_norm: of the last step's gradient, before clipping.

    Args:
        model: the model.
        config: how to train it.
        plan: how long.
        streams: this process's share of the training text.
    """

    def __init__(self, model: LanguageModel, config: TrainConfig, plan: Plan, streams: Streams) -> None:
        super().__init__()
        self.model = model
        self.schedule = Schedule(config, plan)
        self.last_loss = self.last_norm = math.nan
        self._config, self._plan, self._streams = config, plan, streams
        self._carried: State | None = None
        self._generators: list[Tensor] | None = None  # until the first step of a resumed run

    def train_dataloader(self) -> Windows:
        """The windows that are still to be trained on."""
        return Windows(self._streams, self.trainer.global_step, self._plan.steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer; the learning rate is set at each step."""
        return make_optimizer(self._config, self.model)

    def on_train_start(self) -> None:
        """Put torch's generators where the checkpoint had them."""
        if self._generators is not None:
            _set_generators(self._generators)
            self._generators = None

    def on_train_batch_start(self, batch: Window, batch_idx: int) -> None:
        """Set the step's learning rate."""
        lr = self._config.learning_rate * self.schedule.factor(self.trainer.global_step)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr

    @property
    def learning_rate(self) -> float:
        """The last step's learning rate."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def training_step(self, batch: Window, batch_idx: int) -> Tensor:
        """The mean loss of a window's symbols; each stream goes on with the state that it had."""
        window, symbols, targets = batch
        total, state = self.model.loss(symbols, targets, None if window == 0 else self._carried)
        self._carried = detached(state)
        loss = total / targets.numel()
        self._step_loss = loss.detach()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient by its norm, and stop before a step that would spoil the weights.

        Raises:
            TrainingError: the loss or the gradient is not finite.
        """
        norm = clipped_norm(self.model, self._config.clip)
        self.last_loss, self.last_norm = torch.stack([self._step_loss.double(), norm.double()]).tolist()
        scaled = self._config.precision == "16-mixed"  # then an infinite gradient is usual, and its step is skipped
        if not math.isfinite(self.last_loss) or not (scaled or math.isfinite(self.last_norm)):
            raise diverged(
                self._config, self.trainer.global_step + 1, f"the loss is {self.last_loss:g}", self.last_norm
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning doesn't keep: each process's carried state and generators, and the schedule's state."""
        here = {"carried": _on_cpu(self._carried), "generators": _get_generators(self.device)}
        checkpoint["processes"] = _from_all(here)
        checkpoint["schedule"] = self.schedule.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` kept."""
        here = checkpoint["processes"][self.global_rank]
        carried = here["carried"]
        if carried is not None:
            device = self.device
            carried = carried.to(device) if isinstance(carried, Tensor) else tuple(s.to(device) for s in carried)
        self._carried, self._generators = carried, here["generators"]
        self.schedule.load_state_dict(checkpoint["schedule"])


class Diverged(TrainingError):
    """Training whose numbers are no longer finite."""


def diverged(config: TrainConfig, step: int, what: str, norm: float) -> Diverged:
    """The error for numbers that are no longer finite."""
    clip = option("clip")
    clip = f"a smaller {clip} ({config.clip:g} now)" if config.clip else f"{setting('clip', 1)} (now off)"
    return Diverged(
        f"step {step}: {what} (the gradient's norm is {norm:g}), so training can't go on. Try a lower {option('lr')} "
        f"({config.learning_rate:g} now) or {clip}"
    )


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
    """What each process has, in their order."""
    if not torch.distributed.is_initialized():
        return [here]
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, here)
    return list(found)

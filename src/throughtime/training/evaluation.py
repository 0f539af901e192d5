"""How well a network does what it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from throughtime.data.batch import Batch
from throughtime.nn.forms import State
from throughtime.nn.sequence_model import SequenceModel, detached
from throughtime.tasks.base import Batches, Figures, Progress, Task

if TYPE_CHECKING:
    from torchmetrics import Metric


class OnDevice(NamedTuple):
    """A batch as tensors (see `Batch`)."""

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None
    weights: Tensor | None

    @classmethod
    def of(cls, batch: Batch, device: torch.device, dtype: torch.dtype) -> OnDevice:
        """The tensors of a batch; its numbers have the type of the weights."""

        def tensor(array: Any) -> Any:
            if array is None:
                return None
            found = torch.from_numpy(array)
            return found.to(device, dtype if found.is_floating_point() else None)

        lengths = None if batch.lengths is None else torch.from_numpy(batch.lengths)
        return cls(tensor(batch.inputs), tensor(batch.targets), lengths, tensor(batch.weights))


def measured(
    model: SequenceModel, task: Task[Any], part: Any, *, terms: int | None = None, progress: Progress | None = None
) -> Figures:
    """The figures of a network on a part of the data.

    Args:
        model: on any device; it predicts without dropout, and is left in the mode that it was in.
        task: the task.
        part: the part.
        terms: about how many terms to measure, from the first on; all if not given.
        progress: told how far it is.
    """
    assert model.task is not None
    sums = total(model, task.reading(part, terms=terms), task.metrics(model.task.codecs), progress)
    return {**task.figures(sums.figures, part), **task.further_figures(model, part, terms)}


@dataclass
class Sums:
    """What a pass over batches added up.

    Attributes:
        loss: the sum of the losses.
        terms: how many there were.
        metrics: the task's other metrics, brought up to date.
    """

    loss: float
    terms: float
    metrics: Mapping[str, Metric]

    @property
    def figures(self) -> Figures:
        """The mean loss, the number of terms and the metrics."""
        found = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        return {"loss": self.loss / self.terms, **found, "terms": self.terms}


@torch.no_grad()
def total(
    model: SequenceModel,
    batches: Batches,
    metrics: Mapping[str, Metric] | None = None,
    progress: Progress | None = None,
) -> Sums:
    """Adds up the losses of all batches, the state carried where they say so, and brings the metrics up to date."""
    parameter = next(model.parameters())
    metrics = {name: metric.to(parameter.device) for name, metric in (metrics or {}).items()}
    training = model.training
    model.eval()
    loss, terms = torch.zeros((), dtype=torch.float64, device=parameter.device), 0.0
    state: State | None = None
    for k in range(len(batches)):
        batch = batches.batch(k)
        on_device = OnDevice.of(batch, parameter.device, parameter.dtype)
        of, state = _measure(model, on_device, state if batch.carry else None, metrics)
        loss += of
        terms += batch.terms
        if progress:
            progress("evaluating", k + 1, len(batches))
    model.train(training)
    return Sums(loss.item(), terms, metrics)


def _measure(
    model: SequenceModel, batch: OnDevice, state: State | None, metrics: Mapping[str, Metric]
) -> tuple[Tensor, State]:
    if not metrics:
        return model.loss(batch.inputs, batch.targets, state, lengths=batch.lengths, weights=batch.weights)
    raw, state = model(batch.inputs, state, lengths=batch.lengths)
    _update(metrics, raw, batch.targets, batch.weights, model.per_step)
    return model.head.loss_of(raw, batch.targets, batch.weights), detached(state)


def _update(
    metrics: Mapping[str, Metric], raw: Tensor, targets: Tensor, weights: Tensor | None, per_step: bool
) -> None:
    """Gives each metric the outputs and targets that count, and their number in each sequence if it takes `lengths`."""
    counted = torch.ones(raw.shape[:-1], dtype=torch.bool, device=raw.device) if weights is None else weights > 0
    if per_step:  # a sequence after the other, as a metric of whole sequences needs them
        raw, targets, counted = (tensor.transpose(0, 1) for tensor in (raw, targets, counted))
    lengths = counted.reshape(len(counted), -1).sum(1)
    for metric in metrics.values():
        metric.update(raw[counted], targets[counted], **metric._filter_kwargs(lengths=lengths))

"""Measure a network's loss and metrics."""

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
    """A batch converted to tensors (see `Batch`)."""

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None
    weights: Tensor | None
    branches: int = 0

    @classmethod
    def of(cls, batch: Batch, device: torch.device, dtype: torch.dtype) -> OnDevice:
        """Convert a batch to tensors; floating-point arrays get the dtype of the weights."""

        def tensor(array: Any) -> Any:
            if array is None:
                return None
            found = torch.from_numpy(array)
            return found.to(device, dtype if found.is_floating_point() else None)

        lengths = None if batch.lengths is None else torch.from_numpy(batch.lengths)
        return cls(tensor(batch.inputs), tensor(batch.targets), lengths, tensor(batch.weights), batch.branches)


def measured(
    model: SequenceModel,
    task: Task[Any],
    part: Any,
    *,
    terms: int | None = None,
    batch: int = 1,
    progress: Progress | None = None,
) -> Figures:
    """Return a network's metrics on a part of the data.

    Args:
        model: a network on any device; runs in evaluation mode and is restored to its previous mode.
        task: the task.
        part: the part.
        terms: the approximate number of loss terms to measure; all if None.
        batch: the batch size; a larger one is faster and may be less exact.
        progress: called with the progress.
    """
    assert model.task is not None
    sums = total(model, task.reading(part, batch, terms=terms), task.metrics(model.task.codecs), progress)
    figures = {**sums.figures, "loss": task.loss(sums.figures)}
    return {**task.figures(figures, task.subset(part, terms)), **task.extra_figures(model, part, terms)}


@dataclass
class Sums:
    """Sums over a pass through batches.

    Attributes:
        loss: the sum of the losses.
        terms: the number of loss terms.
        metrics: the task's other metrics, updated.
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
    """Sum the losses of all batches and update the metrics, carrying the state between batches that ask for it."""
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
        return model.loss(
            batch.inputs, batch.targets, state, lengths=batch.lengths, weights=batch.weights, branches=batch.branches
        )
    raw, state = model(batch.inputs, state, lengths=batch.lengths, branches=batch.branches)
    _update(metrics, raw, batch.targets, batch.weights, model.per_step)
    return model.head.loss_of(raw, batch.targets, batch.weights), detached(state)


def _update(
    metrics: Mapping[str, Metric], raw: Tensor, targets: Tensor, weights: Tensor | None, per_step: bool
) -> None:
    """Update metrics with the outputs and targets that count, and with their lengths if a metric takes `lengths`."""
    counted = torch.ones(raw.shape[:-1], dtype=torch.bool, device=raw.device) if weights is None else weights > 0
    if per_step:  # batch first, because sequence metrics need whole sequences one after another
        raw, targets, counted = (tensor.transpose(0, 1) for tensor in (raw, targets, counted))
    lengths = counted.reshape(len(counted), -1).sum(1)
    for metric in metrics.values():
        metric.update(raw[counted], targets[counted], **metric._filter_kwargs(lengths=lengths))

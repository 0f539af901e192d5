"""Compute a network's metric on blocks of held-out data, for bootstrapping."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from throughtime.data.sequences import Sequences
from throughtime.nn.forms import State
from throughtime.nn.sequence_model import SequenceModel
from throughtime.tasks.base import Task
from throughtime.training.evaluation import OnDevice, total

_BLOCKS = 40
_TERMS = 100_000  # the maximum number of held-out terms to measure
_STREAMS = 10  # the number of parallel streams in which a text is read


def compared_figure(task: Task[Any], part: Any) -> tuple[str, bool]:
    """Return the metric by which cells are compared, and whether larger is better.

    It is the metric that selects the weights; data that form one long stream are compared by the loss.
    """
    if isinstance(part, Sequences):
        return task.monitor, task.maximize
    return "loss", False


def block_figures(model: SequenceModel, task: Task[Any], part: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Compute each block's metric and number of terms; the blocks are the same for every network.

    Args:
        model: the network.
        task: the task.
        part: the held-out data. Separate sequences are assigned to blocks at random; a stream is cut into blocks.
    """
    values, weights = _of_sequences(model, task, part) if isinstance(part, Sequences) else _of_stream(model, task, part)
    return np.array(values), np.array(weights)


def _of_sequences(model: SequenceModel, task: Task[Any], part: Sequences) -> tuple[list[float], list[float]]:
    assert model.task is not None
    order = np.random.default_rng(0).permutation(len(part))
    order = order[: max(_BLOCKS, int(len(part) * min(1.0, _TERMS / task.reading(part).terms)))]
    name, _ = compared_figure(task, part)
    values, weights = [], []
    for rows in np.array_split(order, min(_BLOCKS, len(order))):
        figures = total(model, task.reading(part.take(rows)), task.metrics(model.task.codecs)).figures
        values.append(figures[name])
        weights.append(figures["terms"])
    return values, weights


@torch.no_grad()
def _of_stream(model: SequenceModel, task: Task[Any], part: Any) -> tuple[list[float], list[float]]:
    batches = task.reading(part, _STREAMS, terms=min(_TERMS, task.reading(part).terms))
    parameter = next(model.parameters())
    losses, terms = [], []
    state: State | None = None
    for k in range(len(batches)):
        batch = batches.batch(k)
        on = OnDevice.of(batch, parameter.device, parameter.dtype)
        carried = state if batch.carry else None
        loss, state = model.loss(on.inputs, on.targets, carried, lengths=on.lengths, weights=on.weights)
        losses.append(float(loss))
        terms.append(float(batch.terms))
    groups = np.array_split(np.arange(len(losses)), min(_BLOCKS, len(losses)))
    sums = [(sum(losses[k] for k in group), sum(terms[k] for k in group)) for group in groups]
    return [loss / count for loss, count in sums], [count for _, count in sums]

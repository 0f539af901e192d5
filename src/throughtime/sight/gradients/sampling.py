"""Measure how far back gradients reach, using a sample of losses, for reports, commands and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from throughtime.data.sequences import Sequences
from throughtime.sight.arrays import Array
from throughtime.sight.gradients.flow import gradient_flow

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.tasks.base import Task

WINDOW = 200
"""The largest lag to measure."""

STEPS, STREAMS = 400, 4
"""Steps per stream and evenly spaced streams; separate sequences have about STEPS * STREAMS steps in total."""

LOSSES = 160
"""Losses to follow, spread evenly over all streams or sequences; a run with a tight time budget follows fewer."""

_SEQUENCES = 40  # the maximum number of sequences

Followed = tuple[Any, Any]
"""A model's input, `[T]`, `[T, B]` or with features as the last axis, and its targets; None without targets."""


class Reach(NamedTuple):
    """How far gradients reach.

    Attributes:
        by_lag: the mean norm by lag, `[window + 1]`, for each layer, each of its states and the input; shorter if no
            loss has enough steps before it.
        losses: the number of losses averaged over.
    """

    by_lag: dict[str, Array]
    losses: int


def followed(task: Task[Any], part: Any, steps: int = STEPS, streams: int = STREAMS) -> list[Followed]:
    """Choose the sequences on which to measure how far the gradient reaches.

    Args:
        task: the task.
        part: the data to choose from.
        steps: steps per stream, or the maximum per sequence.
        streams: number of streams of a text or sound; fewer if the data are short.
    """
    if isinstance(part, Sequences):
        count = int(np.clip(steps * streams / part.lengths.mean(), 1, min(_SEQUENCES, len(part))))
        chosen = np.unique(np.linspace(0, len(part) - 1, count).round().astype(int))
        per_step = part.per_step
        return [(part.inputs[k][:steps], part.targets[k][:steps] if per_step else part.targets[k]) for k in chosen]
    if (row := getattr(part, "ids", None)) is not None:
        streams = max(1, min(streams, len(row) // 3))  # with at least two predictions each
        apart = len(row) // streams
        starts = [k * apart for k in range(streams)]
        ids = [np.asarray(row[at : at + min(apart, steps + 1)]).astype(np.int64) for at in starts]
        return [(stream[:-1], stream[1:]) for stream in ids]
    batch = task.reading(part, terms=steps).batch(0)
    alike = batch.weights is None and batch.lengths is None  # otherwise only some steps have a target
    return [(batch.inputs[:steps, :streams], batch.targets[:steps, :streams] if alike else None)]


def reach_of(model: SequenceModel, sequences: Sequence[Followed], window: int = WINDOW, losses: int = LOSSES) -> Reach:
    """Measure the mean gradient norm by lag, averaged over losses of all sequences.

    Args:
        model: the network.
        sequences: its inputs and targets (see `followed`).
        window: the largest lag, if a sequence is long enough.
        losses: the approximate number of losses. A model with one output per sequence has one loss per sequence, so
            some sequences are left out if there are more.

    Returns:
        The mean norms, omitting names that no gradient reaches, and the number of losses.

    Raises:
        UserError: if no gradient reaches the recurrent layers.
    """
    if losses < len(sequences):
        sequences = [sequences[k] for k in np.unique(np.linspace(0, len(sequences) - 1, losses).round().astype(int))]
    window = max(1, min(window, max(len(x) for x, _ in sequences) - 1))
    count = 0
    sums: dict[str, Array] = {}
    counts: dict[str, Array] = {}
    for x, targets in sequences:
        steps = None
        if model.per_step:
            many = min(len(x), max(1, losses // len(sequences)))
            steps = np.unique(np.linspace(0, len(x) - 1, many).round().astype(int))
        count += 1 if steps is None else len(steps)
        for name, norms in gradient_flow(model, x, targets, window=window, steps=steps).norms.items():
            if not model.per_step:  # the only output is at this direction's last step
                norms = norms[:1] if ".reverse" in name else norms[-1:]
            there, lags = ~np.isnan(norms), norms.shape[1]
            sums.setdefault(name, np.zeros(window + 1))[:lags] += np.nansum(norms, 0)
            counts.setdefault(name, np.zeros(window + 1))[:lags] += there.sum(0)
    means = {name: sums[name][counts[name] > 0] / counts[name][counts[name] > 0] for name in sums}
    return Reach({name: mean for name, mean in means.items() if mean.max() > 0}, count)

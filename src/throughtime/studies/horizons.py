"""Measure how far back the gradient of a network reaches, as one number for any task."""

from __future__ import annotations

from typing import Any

from throughtime.errors import UserError
from throughtime.nn.sequence_model import SequenceModel
from throughtime.sight import horizon
from throughtime.sight.gradients.flow import layer_names
from throughtime.sight.gradients.sampling import LOSSES, followed, reach_of
from throughtime.tasks.base import Task


def horizon_of(model: SequenceModel, task: Task[Any], part: Any, losses: int = LOSSES) -> int | None:
    """Return the lag at which 1% of the gradient is left in the top layer.

    Args:
        model: the network.
        task: its task.
        part: the data to read.
        losses: the approximate number of losses to follow.

    Returns:
        The lag; the largest lag measured if more than 1% is left there; None if no gradient reaches the layers.
    """
    try:
        means = reach_of(model, followed(task, part), losses=losses).by_lag
        reach = horizon(means[layer_names(means)[-1]])
    except (UserError, IndexError):
        return None
    return reach.window if reach.lag is None else reach.lag

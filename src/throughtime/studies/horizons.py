"""How far back the gradient of a network of any task reaches, as one number."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from throughtime.data.sequences import Sequences
from throughtime.errors import UserError
from throughtime.nn.sequence_model import SequenceModel
from throughtime.sight import gradient_flow
from throughtime.tasks.base import Task
from throughtime.training.evaluation import OnDevice

WINDOW = 200
"""Lags that are looked at; a gradient that reaches further has the horizon WINDOW."""

_STEPS, _LOSSES = 300, 30


def horizon_of(model: SequenceModel, task: Task[Any], part: Any) -> int | None:
    """The lag after which 1% of the gradient is left in the top layer.

    Returns:
        The lag; `WINDOW`, or the longest lag of the data, where more is left there; None if no gradient arrives.
    """
    try:
        inputs = _inputs(model, task, part)
        steps = None if not model.per_step else _spread(len(inputs))
        flow = gradient_flow(model, inputs, window=min(WINDOW, len(inputs) - 1), steps=steps)
        top = flow.layers[-1]
        reach = flow.horizon(top)
    except UserError:
        return None
    return reach.window if reach.lag is None else reach.lag


def _inputs(model: SequenceModel, task: Task[Any], part: Any) -> torch.Tensor:
    """A stretch of a stream, or the longest sequence: `[T, 1]` or `[T, 1, features]`."""
    if isinstance(part, Sequences):
        batch = task.reading(part.take([int(np.argmax(part.lengths))])).batch(0)
    else:
        batch = task.reading(part, 1).batch(0)
    parameter = next(model.parameters())
    return OnDevice.of(batch, parameter.device, parameter.dtype).inputs[:_STEPS, :1]


def _spread(length: int) -> list[int]:
    return sorted(set(np.linspace(0, max(0, length - 2), _LOSSES).round().astype(int).tolist()))

"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from throughtime.nn.sequence_model import SequenceModel


class WeightAverage(AveragedModel):
    """An exponential moving average of a network's weights.

    The first update copies the weights. Update t, counted from 0, decays by min(decay, (1 + t) / (10 + t)), so that
    early averages don't depend on the first weights for long. See Polyak & Juditsky 1992 and Tarvainen & Valpola 2017
    (arXiv:1703.01780). Weights in half precision are averaged in single precision, which resolves small changes.

    Args:
        model: the network.
        decay: the maximum decay, at least 0 and less than 1.

    Attributes:
        module: the network with averaged weights, in evaluation mode.
    """

    module: SequenceModel

    def __init__(self, model: SequenceModel, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
            t = int(updates)
            return torch.lerp(averaged, current.to(averaged.dtype), 1 - min(decay, (1 + t) / (10 + t)))

        super().__init__(model, avg_fn=average)
        self.module.to(torch.promote_types(next(model.parameters()).dtype, torch.float32))
        self.module.eval().requires_grad_(False)

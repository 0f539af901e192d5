"""Layers and networks for the tests of online learning, and an optimizer that only sums gradients."""

from __future__ import annotations

import numpy as np
import torch

from throughtime.nn.encoders import Embedding, Numeric, Projection
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Bernoulli, Categorical, Output
from throughtime.streaming import Optimizer

STEPS, INPUT, HIDDEN = 12, 3, 5


class Summing(Optimizer):
    """An optimizer that sums gradients and leaves the weights unchanged."""

    def __init__(self) -> None:
        self.total: dict[str, np.ndarray] = {}

    def update(self, weights, gradients):
        for name, gradient in gradients.items():
            self.total[name] = self.total.get(name, 0) + gradient


def layer(cell, *, layers=1, **options):
    torch.manual_seed(0)
    recurrent = Recurrent(cell, INPUT, HIDDEN, num_layers=layers, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in recurrent.parameters():  # biases start at 0 or 1, which would hide mistakes
            parameter += 0.2 * torch.randn_like(parameter)
    return recurrent


def network(output: Output, cell="gru", *, vocabulary_size=None, embed=None, tie=False, layers=1, dtype=torch.float64):
    torch.manual_seed(0)
    if vocabulary_size:
        encoder = Embedding(vocabulary_size, embed or HIDDEN)
    else:
        encoder = Projection(INPUT, embed) if embed else Numeric(INPUT)
    recurrent = Recurrent(cell, encoder.features, HIDDEN, num_layers=layers)
    return SequenceModel(encoder, recurrent, output, tie=tie).to(dtype)


def inputs_of(model, steps=STEPS, rows=2):
    generator = torch.Generator().manual_seed(1)
    if model.reads_tokens:
        return torch.randint(model.vocabulary_size, (steps, rows), generator=generator)
    return torch.randn(steps, rows, INPUT, generator=generator, dtype=torch.float64)


def targets_of(output: Output, steps=STEPS, rows=2):
    generator = torch.Generator().manual_seed(2)
    if isinstance(output, Categorical):
        return torch.randint(output.classes, (steps, rows), generator=generator)
    if isinstance(output, Bernoulli):
        return torch.randint(2, (steps, rows, *output.target_shape), generator=generator)
    return torch.randn(steps, rows, *output.target_shape, generator=generator, dtype=torch.float64)

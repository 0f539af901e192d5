"""The update rules by name."""

from __future__ import annotations

import torch
from torch import nn

from throughtime.training.config import TrainConfig


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a configuration asks for, over all of a model's parameters."""
    parameters, lr = model.parameters(), config.learning_rate
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr)
        case "adam":
            return torch.optim.Adam(parameters, lr)
        case "adamw":
            return torch.optim.AdamW(parameters, lr)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr, alpha=0.95)  # as char-rnn

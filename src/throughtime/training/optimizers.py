"""The update rules by name, and what is done to a gradient before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from throughtime.training.config import TrainConfig


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a configuration asks for, over all of a model's parameters."""
    parameters, lr = list(model.parameters()), config.learning_rate
    # One pass over each parameter instead of ten. A GPU has its own ways, of which gradients scaled in half precision
    # allow only some.
    fused = True if all(p.device.type == "cpu" for p in parameters) else None
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr, fused=fused)
        case "adam":
            return torch.optim.Adam(parameters, lr, fused=fused)
        case "adamw":
            return torch.optim.AdamW(parameters, lr, fused=fused)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr, alpha=0.95)  # as char-rnn


def clipped_norm(model: nn.Module, clip: float) -> Tensor:
    """The norm of a model's gradient, which is made as short as `clip` where it is longer and `clip` is not 0.

    Args:
        model: has gradients.
        clip: the largest norm that is left.

    Returns:
        The norm before (Pascanu et al. 2013, arXiv:1211.5063), a scalar.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if clip and norm > clip:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
    return norm

"""Optimizers by name, and gradient clipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime.training.config import TrainingOptions


def make_optimizer(training: TrainingOptions, model: nn.Module) -> torch.optim.Optimizer:
    """Create the optimizer of a configuration for all of a model's parameters.

    The first group (matrices) decays; the second (vectors such as biases and gains) doesn't. Every optimizer uses
    decoupled weight decay, as AdamW does (Loshchilov & Hutter 2019, arXiv:1711.05101).
    """
    parameters, lr = list(model.parameters()), training.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": training.decoupled_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused means one pass over each parameter instead of ten. On GPUs torch chooses, because fused optimizers don't
    # support all cases of gradient scaling in half precision.
    fused = True if all(p.device.type == "cpu" for p in parameters) else None
    match training.optimizer:
        case "sgd":
            return _SGD(groups, lr, fused=fused)
        case "adam":
            return torch.optim.AdamW(groups, lr, fused=fused)  # equals Adam at zero weight decay
        case "adamw":
            return torch.optim.AdamW(groups, lr, fused=fused)
        case "rmsprop":
            return _RMSprop(groups, lr, alpha=0.95)  # as in char-rnn


class _Decoupled(torch.optim.Optimizer):
    """Decoupled weight decay for optimizers whose own weight decay option adds to the gradient."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, **options: Any) -> None:
        for group in groups:
            group["decoupled_decay"] = group.pop("weight_decay")
        super().__init__(groups, lr, **options)  # type: ignore[arg-type]

    def step(self, closure: Any = None) -> Any:
        """Run the closure, decay the weights, then take the step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                if group["decoupled_decay"]:
                    for parameter in group["params"]:
                        parameter.mul_(1 - group["lr"] * group["decoupled_decay"])
        super().step()
        return loss


class _SGD(_Decoupled, torch.optim.SGD):
    """SGD with decoupled weight decay."""


class _RMSprop(_Decoupled, torch.optim.RMSprop):
    """RMSprop with decoupled weight decay."""


def clipped_norm(model: nn.Module, clip: float) -> Tensor:
    """Clip a model's gradient to a maximum norm (Pascanu et al. 2013, arXiv:1211.5063).

    Args:
        model: a model with gradients.
        clip: the maximum norm; 0 turns clipping off.

    Returns:
        The norm before clipping, a scalar.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if clip and norm > clip:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
    return norm

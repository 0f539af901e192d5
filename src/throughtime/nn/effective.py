"""Effective weights of layers whose parameters are normalized or pruned."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def effective_weights(layer: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the named tensors of a layer after weight norm, spectral norm, pruning or a parametrization.

    The layer is not changed: reading a spectral norm in training mode would otherwise update its estimate.
    """
    states = [(module, module.training) for module in layer.modules()]
    try:
        for module, _ in states:
            module.training = False
        with torch.no_grad():
            computed = _by_hooks(layer)
            return {n: computed[n] if n in computed else getattr(layer, n).detach() for n in names}
    finally:
        for module, training in states:
            module.training = training


def refresh_weights(module: nn.Module) -> None:
    """Recompute the weights that hooks compute before each call, as parameters may have changed since the last call."""
    with torch.no_grad():
        for inner in module.modules():
            for name, tensor in _by_hooks(inner).items():
                setattr(inner, name, tensor)


def _by_hooks(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights that forward pre-hooks compute before each call."""
    found: dict[str, Tensor] = {}
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            found[hook.name] = hook.compute_weight(layer)
        elif isinstance(hook, SpectralNorm):
            found[hook.name] = hook.compute_weight(layer, do_power_iteration=False)
        elif isinstance(hook, prune.BasePruningMethod):
            found[hook._tensor_name] = hook.apply_mask(layer)  # type: ignore[no-untyped-call]
    return found

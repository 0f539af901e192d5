"""Cache packed weights for inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import nn

from throughtime.engines.base import Constants
from throughtime.errors import UserError
from throughtime.nn.effective import refresh_weights
from throughtime.nn.stack import Layers

Model = TypeVar("Model", bound=nn.Module)


class Freezable:
    """A recurrent module that can be frozen; training it or loading new weights unfreezes it.

    Attributes:
        frozen: each layer's directions, as pairs of a program and its parameters, while frozen; None otherwise.
    """

    frozen: Layers | None = None
    training: bool

    def layers(self) -> Layers:
        """Return each layer's directions, as pairs of a program and its current parameters."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Cache the current weights."""
        if isinstance(self, nn.Module):
            refresh_weights(self)
        with torch.no_grad():
            self.frozen = [
                [(program, Constants(p.detach() for p in parameters)) for program, parameters in directions]
                for directions in self.layers()
            ]

    def lasting_layers(self) -> Layers:
        """Return the cached layers if frozen, the current ones otherwise."""
        # A captured graph must refer to the parameters themselves.
        if self.frozen is None or self.training or torch.compiler.is_compiling():
            return self.layers()
        return self.frozen

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; training mode unfreezes the module."""
        if mode:
            self.frozen = None
        super().train(mode)  # type: ignore[misc]
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self.frozen = None
        super()._apply(fn, recurse)  # type: ignore[misc]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.frozen = None
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to copy or pickle, without the cache."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "frozen"}


def freeze(model: Model) -> Model:
    """Cache the packed weights of a model's recurrent layers, for inference.

    Calls on short sequences become much faster, because weights are packed once instead of on every call. Results are
    bit-identical. Later changes to the weights, in place or by replacement (`torch.func.functional_call`, for example),
    have no effect, and weights get no gradients. `model.train()`, `model.to(...)` and `model.load_state_dict(...)`
    unfreeze the layers.

    Args:
        model: a throughtime recurrent layer, or any module that contains one; set to evaluation mode.

    Returns:
        The same model.

    Raises:
        UserError: if `model` is not a module or contains no throughtime layer.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"freeze expects a torch module with recurrent layers in it, got {type(model).__name__}")
    found = [module for module in model.modules() if isinstance(module, Freezable)]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no throughtime layer to freeze: replace torch's layers first with "
            "throughtime.accelerate(model)"
        )
    model.eval()
    for module in found:
        module.freeze()
    return model

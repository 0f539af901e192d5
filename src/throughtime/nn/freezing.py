"""Layers whose weights stay as they are: what a run needs of them is made once and kept."""

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
    """A recurrent module that can be frozen; it thaws where torch gives it new weights or trains it.

    Attributes:
        frozen: each layer's directions, a program and its parameters, while it is frozen.
    """

    frozen: Layers | None = None
    training: bool

    def layers(self) -> Layers:
        """Each layer's directions: a program and its parameters, as they are now."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Keeps the weights as they are now."""
        if isinstance(self, nn.Module):
            refresh_weights(self)
        with torch.no_grad():
            self.frozen = [
                [(program, Constants(p.detach() for p in parameters)) for program, parameters in directions]
                for directions in self.layers()
            ]

    def lasting_layers(self) -> Layers:
        """What was kept, where the module is frozen; else the layers as they are now."""
        # A captured graph holds the parameters themselves.
        if self.frozen is None or self.training or torch.compiler.is_compiling():
            return self.layers()
        return self.frozen

    def train(self, mode: bool = True) -> Self:
        """Thaws it, if it is to be trained."""
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
        """What is copied and pickled: all but what is kept, which a copy makes anew when it is frozen."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "frozen"}


def freeze(model: Model) -> Model:
    """Keeps the weights of a model's recurrent layers as they are now, made ready once: for inference.

    A call of a short sequence takes much less time then, as nothing is packed anew. What is written into the weights
    afterwards, or put in their place (by `torch.func.functional_call`, say), is not seen, and they get no gradients;
    `model.train()`, `model.to(...)` and `model.load_state_dict(...)` thaw the layers. Results are the same bits as
    before.

    Args:
        model: any torch module with recurrent layers of throughtime's in it, or such a layer; put into evaluation.

    Returns:
        The same model.

    Raises:
        UserError: if it is no module, or has no such layer.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"a torch module is wanted, to freeze the recurrent layers in it; given {type(model).__name__}."
        )
    found = [module for module in model.modules() if isinstance(module, Freezable)]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no recurrent layer of throughtime's to freeze: throughtime.accelerate(model) "
            "makes torch's layers such."
        )
    model.eval()
    for module in found:
        module.freeze()
    return model

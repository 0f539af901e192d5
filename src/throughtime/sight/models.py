"""Find the recurrent layers of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from torch import nn

from throughtime.errors import UserError
from throughtime.nn.hooks import Hook
from throughtime.nn.stack import Layers


class RecurrentLayers(Protocol):
    """The interface shared by recurrent modules: `Recurrent` and the drop-in `RNN`, `LSTM` and `GRU`."""

    hooks: tuple[Hook, ...]
    engine: str | None

    def layers(self) -> Layers:
        """Return each layer's directions: a program and its parameters."""
        ...


def opened(model: Any) -> nn.Module:
    """Return a model, loading it if given a run, a run's directory or a file written by `throughtime.save`.

    Raises:
        UserError: if it is none of these.
    """
    from throughtime.model_file import load
    from throughtime.runs import Run

    if isinstance(model, nn.Module):
        return model
    if isinstance(model, Run):
        return model.model()
    if isinstance(model, str | Path):
        module: nn.Module = load(model)
        return module
    raise UserError(f"model must be a torch module, a run or a run's directory, got {type(model).__name__}")


def recurrent_modules(model: nn.Module) -> dict[str, RecurrentLayers]:
    """Return a model's recurrent modules by the prefix of their layers' names.

    The prefix is empty if there is only one such module, otherwise its path and a dot.

    Raises:
        UserError: if there is none.
    """
    found = {
        path: cast(RecurrentLayers, module)
        for path, module in model.named_modules()
        if hasattr(module, "hooks") and hasattr(module, "layers")
    }
    if not found:
        torchs = any(isinstance(module, nn.RNNBase) for module in model.modules())
        hint = "; throughtime.accelerate(model) replaces torch's layers" if torchs else ""
        raise UserError(f"{type(model).__name__} has no throughtime recurrent layers{hint}")
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    return {f"{path}." if path else "": module for path, module in found.items()}


def only_recurrent(model: nn.Module) -> RecurrentLayers:
    """Return the only recurrent module in a model.

    Raises:
        UserError: if there is none, or more than one.
    """
    found = recurrent_modules(model)
    if len(found) > 1:
        paths = ", ".join(path.rstrip(".") for path in found)
        raise UserError(f"{type(model).__name__} has several recurrent modules ({paths}); pass one of them")
    return next(iter(found.values()))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Disable dropout within the context, then restore each module's mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def hooked(module: RecurrentLayers, hook: Hook) -> Iterator[None]:
    """Install a hook on the module's runs within the context, after all other hooks."""
    module.hooks = (*module.hooks, hook)
    try:
        yield
    finally:
        module.hooks = tuple(f for f in module.hooks if f is not hook)


def sequence_model(model: nn.Module) -> Any:
    """Return the model if it consists of an encoder, recurrent layers and a head; otherwise None."""
    from throughtime.nn.sequence_model import SequenceModel

    return model if isinstance(model, SequenceModel) else None


def language_model(model: nn.Module) -> Any:
    """Return the model if it is a language model, otherwise None."""
    sequence = sequence_model(model)
    return sequence if sequence is not None and sequence.predicts_tokens else None

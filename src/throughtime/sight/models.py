"""Models that are looked at: what has recurrent layers in it."""

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
    """What every recurrent module has: `Recurrent` and the drop-in `RNN`, `LSTM` and `GRU`."""

    hooks: tuple[Hook, ...]
    engine: str | None

    def layers(self) -> Layers:
        """Each layer's directions: a program and its parameters."""
        ...


def opened(model: Any) -> nn.Module:
    """A model as it is, or the one of a run, of a run's directory or of a file that `throughtime.save` wrote.

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
    raise UserError(f"a model (a torch module), a run or a run's directory is wanted; given {type(model).__name__}.")


def recurrent_modules(model: nn.Module) -> dict[str, RecurrentLayers]:
    """The recurrent modules in a model, each with what its layers' names begin with.

    That is nothing where there is one such module, and otherwise its path and a dot.

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
        hint = "; throughtime.accelerate(model) puts ours in the place of torch's" if torchs else ""
        raise UserError(f"{type(model).__name__} has no recurrent layers of throughtime in it{hint}.")
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    return {f"{path}." if path else "": module for path, module in found.items()}


def only_recurrent(model: nn.Module) -> RecurrentLayers:
    """The recurrent module in a model.

    Raises:
        UserError: if there is none, or more than one.
    """
    found = recurrent_modules(model)
    if len(found) > 1:
        paths = ", ".join(path.rstrip(".") for path in found)
        raise UserError(f"{type(model).__name__} has several recurrent modules, {paths}: give the one that is meant.")
    return next(iter(found.values()))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout for as long as this lasts; each module's mode is put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def hooked(module: RecurrentLayers, hook: Hook) -> Iterator[None]:
    """A hook that takes part in the module's runs for as long as this lasts, after all others."""
    module.hooks = (*module.hooks, hook)
    try:
        yield
    finally:
        module.hooks = tuple(f for f in module.hooks if f is not hook)


def sequence_model(model: nn.Module) -> Any:
    """The model if it is an encoder, recurrent layers and a head; otherwise None."""
    from throughtime.nn.sequence_model import SequenceModel

    return model if isinstance(model, SequenceModel) else None


def language_model(model: nn.Module) -> Any:
    """The model if it is a language model, else None."""
    sequence = sequence_model(model)
    return sequence if sequence is not None and sequence.predicts_symbols else None

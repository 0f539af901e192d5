"""Base class for modules that torch's tools treat as torch's own layers."""

from __future__ import annotations

import copyreg
import logging
from typing import Any, ClassVar

import torch
from torch import nn

from throughtime.engines import get
from throughtime.errors import UserError

_log = logging.getLogger("throughtime")


class Substitute(nn.Module):
    """A module with the parameters and results of one of torch's classes.

    `isinstance(module, torch.nn.LSTM)` is True, because initializers and other tools check it. But torch.compile
    rejects subclasses of torch's recurrent layers. So `__class__`, which isinstance falls back on, returns torch's
    class except while a graph is being compiled; `type(module)` always returns the actual class.

    Attributes:
        original: torch's class.
        engine: the engine that runs the module; the best one for each input if None.
    """

    original: ClassVar[type[nn.Module]]
    engine: str | None = None

    def _set_engine(self, engine: str | None) -> None:
        if engine is not None:
            get(engine)  # rejects unknown names
            self.engine = engine

    @property
    def __class__(self) -> type[Any]:
        kind = type(self)
        if kind.__dict__.get("original") is None or torch._guards.CompileContext.try_get() is not None:
            return kind
        return kind.original

    @__class__.setter
    def __class__(self, kind: type[Any]) -> None:
        original = self.original
        if kind is not original and issubclass(kind, original) and not issubclass(kind, Substitute):
            kind = _rebased(kind, type(self))
        _set_class(self, kind)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Pickle by the actual class: pickle compares it with `__class__`.
        found = super().__reduce_ex__(protocol)
        return (_new, found[1], *found[2:]) if found[0] is copyreg.__newobj__ else found  # type: ignore[attr-defined]

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the module for torch.jit.script to compile: torch's own, with the same parameters."""
        name = self.original.__name__
        _log.warning(
            "torch.jit.script replaced throughtime.%s with torch.nn.%s in the model, because TorchScript can compile "
            "only torch's own layers. To speed up the eager model again, call throughtime.accelerate(model).",
            name,
            name,
        )
        return as_original(self)

    @property
    def qconfig(self) -> Any:
        """Raise on access: torch's quantization sets it, but replaces exact classes only and would skip this layer."""
        raise AttributeError("qconfig")

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        name = self.original.__name__
        raise UserError(
            f"torch's quantization supports torch.nn.{name} and would leave throughtime.{name} in float32: call "
            "throughtime.restore(model), quantize the model, then call throughtime.accelerate(model) again"
        )


def as_original(module: Substitute) -> nn.Module:
    """Return a module of torch's own class with the same parameters, buffers and hooks."""
    kind = _original_class(module)
    made: nn.Module = kind.__new__(kind)
    made.__dict__.update(original_state(module))
    return made


def revert(module: Substitute) -> None:
    """Turn a module into an instance of torch's own class, in place."""
    kind, state = _original_class(module), original_state(module)
    module.__dict__.clear()
    module.__dict__.update(state)
    _set_class(module, kind)


def _original_class(module: Substitute) -> type[nn.Module]:
    """Return torch's class for a module; a subclass that torch derived from ours is rebuilt on torch's class."""
    kind = type(module)
    if kind.__dict__.get("original") is not None:
        return module.original
    bases = tuple(base for base in kind.__bases__ if not issubclass(base, Substitute))
    return type(kind.__name__, bases or (module.original,), _body(kind))


def original_state(module: Substitute) -> dict[str, Any]:
    """Return a module's attributes without those that only substitutes have."""
    return {name: value for name, value in module.__dict__.items() if name not in ("engine", "frozen", "hooks")}


def _new(kind: type[Any]) -> Any:
    return object.__new__(kind)


def _set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    object.__dict__["__class__"].__set__(module, kind)


def _rebased(kind: type[Any], ours: type[Any]) -> type[Any]:
    """Rebuild a subclass of torch's class (from parametrize or FSDP) to inherit from ours as well."""
    original = ours.original
    bases = [b for base in kind.__bases__ for b in ((ours, original) if base is original else (base,))]
    return type(kind.__name__, tuple(bases), _body(kind))


def _body(kind: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in kind.__dict__.items() if name not in ("__dict__", "__weakref__")}


torch.serialization.add_safe_globals([_new])

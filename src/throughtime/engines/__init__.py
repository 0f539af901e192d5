"""Engines, which run programs. They are chosen by name, or by device and capability."""

from __future__ import annotations

import logging
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from throughtime.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.engines.base import Engine
    from throughtime.program.core import Program

# Each engine's module in this package and its class, which is imported on first use.
_HOMES = {
    "native": ("native", "NativeEngine"),
    "torch": ("torch_fused", "FusedEngine"),
    "reference": ("reference", "ReferenceEngine"),
}
NAMES = tuple(_HOMES)
# In order of preference: the first one that supports the device and the program is chosen.
PREFERENCE = {"cpu": ("native", "reference"), "cuda": ("torch", "reference")}

_log = logging.getLogger("throughtime")


def names() -> tuple[str, ...]:
    """Return the engines' names."""
    return NAMES


@cache
def get(name: str) -> Engine:
    """Look up an engine by name.

    Raises:
        UserError: if there is no engine with that name; the message suggests the most similar one.
    """
    if name not in _HOMES:
        raise UserError(f"no engine named {name!r}{nearest(name, NAMES)}; choose from {', '.join(NAMES)}")
    module, kind = _HOMES[name]
    engine: Engine = getattr(import_module(f"{__name__}.{module}"), kind)()
    return engine


def choose(name: str | None, program: Program, like: Tensor) -> Engine:
    """Choose the engine for a program.

    Args:
        name: the name of the engine; None chooses by device.
        program: the program to run.
        like: one of the operands, for its device and dtype.

    Raises:
        UserError: if the named engine can't run the program.
    """
    if name is not None:
        engine = get(name)
        reason = engine.refuses(program, like)
        if reason is not None:
            raise UserError(f"the engine {name!r} can't run this: {reason}. Omit the engine, or use 'reference'")
        return engine
    for preferred in PREFERENCE.get(kind_of(like.device), ("reference",)):
        engine = get(preferred)
        reason = engine.refuses(program, like)
        if reason is None:
            return engine
        log_fallback(reason)
    return get("reference")


@lru_cache(maxsize=64)  # reading a device's type is slow
def kind_of(device: Any) -> str:
    """Return the type of a torch device, such as "cpu", or NumPy's name for its device."""
    return str(getattr(device, "type", device))


@lru_cache(maxsize=64)
def log_fallback(why: str) -> None:
    """Log a fallback to the reference engine, once for each reason."""
    _log.warning("%s: the reference engine runs instead.", why)

"""Who runs a program: engines, chosen by device and by what they can do, or by name."""

from __future__ import annotations

import logging
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from throughtime.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.engines.base import Engine
    from throughtime.program.core import Program

# In the order in which they are tried: the first that runs on the device and does not refuse.
PREFERENCE = {"cpu": ("native", "reference"), "cuda": ("torch", "reference")}
NAMES = ("native", "torch", "reference")

_log = logging.getLogger("throughtime")


def names() -> tuple[str, ...]:
    """The engines' names."""
    return NAMES


@cache
def get(name: str) -> Engine:
    """An engine by its name.

    Raises:
        UserError: if there is none of that name, with the nearest one.
    """
    if name == "reference":
        from throughtime.engines.reference import ReferenceEngine

        return ReferenceEngine()
    if name == "native":
        from throughtime.engines.native import NativeEngine

        return NativeEngine()
    if name == "torch":
        from throughtime.engines.torch_fused import FusedEngine

        return FusedEngine()
    raise UserError(f"no engine is called {name!r}{nearest(name, NAMES)} (there are: {', '.join(NAMES)}).")


def choose(name: str | None, program: Program, like: Tensor) -> Engine:
    """The engine that runs a program on tensors like this one.

    Args:
        name: the engine that is asked for; None leaves the choice to the device.
        program: what is to be run.
        like: one of the tensors.

    Raises:
        UserError: if the engine that is asked for cannot run the program.
    """
    if name is not None:
        engine = get(name)
        reason = engine.refuses(program, like)
        if reason is not None:
            raise UserError(f"the engine {name!r} cannot run this: {reason}. Leave the engine out, or use 'reference'.")
        return engine
    for preferred in PREFERENCE.get(kind_of(like.device), ("reference",)):
        engine = get(preferred)
        reason = engine.refuses(program, like)
        if reason is None:
            return engine
        say_once(reason)
    return get("reference")


@lru_cache(maxsize=64)  # a device is slow to say
def kind_of(device: Any) -> str:
    """The type of a torch device, such as "cpu", or what NumPy calls it."""
    return str(getattr(device, "type", device))


@lru_cache(maxsize=64)
def say_once(why: str) -> None:
    """Logs that the reference engine stands in for a faster one; the same reason is told once."""
    _log.warning("%s: the reference engine runs instead.", why)

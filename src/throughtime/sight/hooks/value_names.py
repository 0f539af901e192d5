"""The named values of a model: `layer0.forget`, `encoder.layer1.reverse.cell`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from throughtime.errors import UserError, nearest
from throughtime.nn.hooks import LayerDirection
from throughtime.program.core import Program
from throughtime.sight.models import RecurrentLayers, recurrent_modules


@dataclass(frozen=True, eq=False)
class Values:
    """The named values of one recurrent module of a model.

    Attributes:
        module: the recurrent module.
        path: what the names of its values begin with: nothing where the model has one such module, else its path and
            a dot.
        full_path: its path and a dot, in any case; both are understood.
    """

    module: RecurrentLayers
    path: str
    full_path: str

    def name(self, direction: LayerDirection, value: str) -> str:
        """A value's name in the model."""
        return f"{self.path}{direction}.{value}"

    def programs(self) -> Iterator[tuple[LayerDirection, Program]]:
        """The program of each direction of each layer."""
        for layer, ways in enumerate(self.module.layers()):
            for way, (program, _) in enumerate(ways):
                yield LayerDirection(layer, way == 1), program

    def matching(self, pattern: str, direction: LayerDirection, program: Program) -> list[str]:
        """The named values of a program whose names in the model match a pattern."""
        paths = {self.path, self.full_path}
        return [name for name in program.values if any(fnmatchcase(f"{p}{direction}.{name}", pattern) for p in paths)]

    def all_matching(self, patterns: Sequence[str], direction: LayerDirection, program: Program) -> list[str]:
        """The named values that match one of the patterns, in the order of the patterns."""
        return list(dict.fromkeys(name for pattern in patterns for name in self.matching(pattern, direction, program)))


def values_of(model: Any) -> list[Values]:
    """The named values of each recurrent module of a model.

    Raises:
        UserError: if it is no torch module, or has no recurrent layers of ours in it.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"a model (a torch module) is wanted; given {type(model).__name__}.")
    model = _unwrapped(model)
    path_of = {module: _path(path) for path, module in model.named_modules()}
    return [Values(module, _path(path), path_of[module]) for path, module in recurrent_modules(model).items()]


def require_matches(values: Sequence[Values], patterns: Sequence[str]) -> dict[str, list[str]]:
    """For each pattern the names in the model that match it, by the equations of the cells.

    Raises:
        UserError: if one matches nothing, with the nearest name, or is no text.
    """
    known = [
        each.name(direction, name)
        for each in values
        for direction, program in each.programs()
        for name in program.values
    ]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UserError(f"the name of a value, such as {known[0]!r}, is wanted; given {pattern!r}.")
    found: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    for each in values:
        for direction, program in each.programs():
            for pattern in patterns:
                found[pattern] += [each.name(direction, name) for name in each.matching(pattern, direction, program)]
    for pattern, names in found.items():
        if not names:
            raise UserError(f"no value is called {pattern!r}{nearest(pattern, known)} (there are: {listed(known)}).")
    return found


def listed(names: Sequence[str], most: int = 16) -> str:
    """The first names and how many more there are, for a message."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, of what DistributedDataParallel and torch.compile put around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _path(path: str) -> str:
    """A module's path as the beginning of names, without what torch.compile puts in."""
    words = [word for word in path.split(".") if word not in ("", "_orig_mod")]
    return "".join(f"{word}." for word in words)

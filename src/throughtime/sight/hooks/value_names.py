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
        path: the prefix of its values' names: the module's path and a dot, or empty if the model has only one recurrent
            module.
        full_path: the module's path and a dot; also accepted as a prefix.
    """

    module: RecurrentLayers
    path: str
    full_path: str

    def name(self, direction: LayerDirection, value: str) -> str:
        """Return a value's name in the model."""
        return f"{self.path}{direction}.{value}"

    def programs(self) -> Iterator[tuple[LayerDirection, Program]]:
        """Yield the program of each direction of each layer."""
        for layer, directions in enumerate(self.module.layers()):
            for direction, (program, _) in enumerate(directions):
                yield LayerDirection(layer, direction == 1), program

    def matching(self, pattern: str, direction: LayerDirection, program: Program) -> list[str]:
        """Return a program's named values whose names in the model match a pattern."""
        paths = {self.path, self.full_path}
        return [name for name in program.values if any(fnmatchcase(f"{p}{direction}.{name}", pattern) for p in paths)]

    def all_matching(self, patterns: Sequence[str], direction: LayerDirection, program: Program) -> list[str]:
        """Return a program's named values that match any of the patterns, in the order of the patterns."""
        return list(dict.fromkeys(name for pattern in patterns for name in self.matching(pattern, direction, program)))


def values_of(model: Any) -> list[Values]:
    """Return the named values of each recurrent module of a model.

    Raises:
        UserError: if `model` is not a torch module, or contains none of throughtime's recurrent layers.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model must be a torch module, got {type(model).__name__}")
    model = _unwrapped(model)
    path_of = {module: _path(path) for path, module in model.named_modules()}
    return [Values(module, _path(path), path_of[module]) for path, module in recurrent_modules(model).items()]


def require_matches(values: Sequence[Values], patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return the names in the model that match each pattern, according to the cells' equations.

    Raises:
        UserError: if a pattern is not a string or matches nothing; the message suggests the nearest name.
    """
    known = [
        each.name(direction, name)
        for each in values
        for direction, program in each.programs()
        for name in program.values
    ]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UserError(f"a value's name must be a string, such as {known[0]!r}; got {pattern!r}")
    found: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    for each in values:
        for direction, program in each.programs():
            for pattern in patterns:
                found[pattern] += [each.name(direction, name) for name in each.matching(pattern, direction, program)]
    for pattern, names in found.items():
        if not names:
            raise UserError(f"no value named {pattern!r}{nearest(pattern, known)}; available: {listed(known)}")
    return found


def listed(names: Sequence[str], limit: int = 16) -> str:
    """Format the first names and the number of remaining ones for a message."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _path(path: str) -> str:
    """Return a module's path as a prefix for names, without the parts that torch.compile inserts."""
    words = [word for word in path.split(".") if word not in ("", "_orig_mod")]
    return "".join(f"{word}." for word in words)

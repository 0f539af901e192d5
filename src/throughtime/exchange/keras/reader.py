"""Convert Keras's recurrent layers to `Recurrent`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from throughtime.errors import nearest
from throughtime.exchange.keras.config import FoundLayer, KerasMask, cells_of
from throughtime.exchange.keras.file import read_keras
from throughtime.exchange.keras.layers import (
    BIDIRECTIONAL,
    KINDS,
    Array,
    Direction,
    KerasError,
    is_one_stack,
    layer_of,
    reminders,
    split_directions,
)  # fmt: skip
from throughtime.nn.recurrent import Recurrent

_log = logging.getLogger("throughtime")


class KerasLayers(dict[str, Recurrent]):
    """The recurrent layers of a Keras file, by name.

    Attributes:
        unread: the recurrent layers that could not be read, with the reasons.
        masks: for each layer that skips masked steps in Keras, the layers that mask them; call the layer with
            `lengths=mask.lengths(input)`.
        notes: for each layer, other behavior of Keras that the caller of the `Recurrent` must reproduce.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unread: dict[str, str] = {}
        self.masks: dict[str, tuple[KerasMask, ...]] = {}
        self.notes: dict[str, list[str]] = {}

    def __missing__(self, name: str) -> Recurrent:
        if name in self.unread:
            raise KerasError(f"layer {name!r} could not be read: {self.unread[name]}")
        raise KerasError(f"no recurrent layer named {name!r}{nearest(name, self)}; its layers: {', '.join(self)}")


@overload
def from_keras(source: str | os.PathLike[str], *, engine: str | None = None, **arguments: Any) -> KerasLayers: ...


@overload
def from_keras(source: Sequence[Array], *, engine: str | None = None, **arguments: Any) -> Recurrent: ...


@overload
def from_keras(source: Any, *, engine: str | None = None, **arguments: Any) -> Any: ...


def from_keras(source: Any, *, engine: str | None = None, **arguments: Any) -> Any:
    """Convert Keras's recurrent layers: SimpleRNN, LSTM, GRU, and RNN with their cells, alone or in wrappers.

    The converted layers take and return `[B, T, features]`, as Keras's do, and always return the state too, as with
    `return_state`.

    Args:
        source: a layer, or the arrays that its `get_weights()` returns; or the path of a `.keras` file, a whole model's
            `.h5`, or a `.weights.h5`.
        engine: the engine's name; chosen by device by default.
        **arguments: the layer's arguments, as in its `get_config()`; for a file, they override the file's. Missing ones
            take Keras's defaults, except that all steps are returned. Arguments about initialization, training
            and implementation have no effect.

    Returns:
        For a layer or arrays, a `Recurrent`. For a file, a `KerasLayers`: a dictionary of all its recurrent layers by
        name (by path if names are not unique); an RNN with cells of different kinds or sizes becomes one layer per
        cell, "name/cell". `unread` lists layers that can't be read; `masks` and `notes` list behavior that the caller
        must reproduce (masks, input dropout, keeping the state). All of this is also logged as warnings.

    Raises:
        KerasError: if a layer uses something that `Recurrent` doesn't support; if arrays have wrong shapes; if a file
            is missing or damaged, or none of its layers can be read.
    """
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source), engine, arguments)
    kind = None
    if hasattr(source, "get_weights") and hasattr(source, "get_config"):
        kind = type(source).__name__
        if kind not in (*KINDS, "RNN", BIDIRECTIONAL):
            raise KerasError(
                f"expected a Keras layer of class {', '.join(KINDS)}, RNN or {BIDIRECTIONAL}, got {kind}. Pass the "
                "layer inside a wrapper, or save the model and pass the file"
            )
        source, arguments = source.get_weights(), {**source.get_config(), **arguments}
    if not isinstance(source, Sequence | tuple) or not all(isinstance(array, np.ndarray) for array in source):
        raise KerasError(
            "expected a Keras layer, the arrays of its get_weights(), or a .keras, .h5 or .weights.h5 file, got "
            f"{type(source).__name__}"
        )
    directions, merge = split_directions(list(source), arguments)
    stacks = [_stacked(direction) for direction in directions]
    if not all(is_one_stack(stack) for stack in stacks):
        raise KerasError("the layer's stacked cells differ in kind or size: save the model and pass the file")
    made = layer_of("the layer", stacks, merge, engine)
    for note in reminders(stacks):
        _log.warning("The layer %s: %s.", arguments.get("name", ""), note)
    return made


def _stacked(direction: Direction) -> list[Direction]:
    """Split a layer whose arguments describe RNN over cells into its cells."""
    if "cell" not in direction.arguments:
        return [direction]
    described = cells_of("RNN", direction.arguments)
    sizes = [2 + bool(arguments.get("use_bias", True)) for _, arguments, _ in described]
    if sum(sizes) != len(direction.arrays):
        raise KerasError(f"the layer: expected {sum(sizes)} arrays for its cells, got {len(direction.arrays)}")
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [
        Direction(direction.arrays[end - size : end], arguments, kind)
        for (kind, arguments, _), size, end in zip(described, sizes, ends, strict=True)
    ]


def _from_file(path: Path, engine: str | None, arguments: Mapping[str, Any]) -> KerasLayers:
    found = read_keras(path)
    names = [layer.name for layer in found.layers]
    made = KerasLayers()
    made.unread.update(found.unread)
    errors = []
    for layer in found.layers:
        name = layer.name if names.count(layer.name) == 1 else layer.path
        try:
            _read_into(made, name, layer, path, engine, arguments)
        except KerasError as error:
            errors.append(error)
            made.unread[name] = str(error).removeprefix(f"{name} of {path}: ")
    if not made:
        if len(made.unread) == len(errors) == 1:
            raise errors[0]
        if made.unread:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in made.unread.items())
            raise KerasError(f"none of the recurrent layers of {path} can be read:{reasons}")
        raise KerasError(f"{path} has no {', '.join(KINDS)} or RNN layer, alone or in {BIDIRECTIONAL} or a wrapper")
    for name, reason in made.unread.items():
        _log.warning("Not read from %s: %s: %s", path.name, name, reason)
    for name, masks in made.masks.items():
        mask_names = " and ".join(map(str, masks))
        message = "%s of %s skips steps that %s masks: pass lengths to it (see .masks)."
        _log.warning(message, name, path.name, mask_names)
    for name, notes in made.notes.items():
        for note in notes:
            _log.warning("%s of %s: %s.", name, path.name, note)
    return made


def _read_into(
    made: KerasLayers, name: str, layer: FoundLayer, path: Path, engine: str | None, arguments: Mapping[str, Any]
) -> None:
    """Convert a found layer and add it under its name."""
    if len(layer.directions) == 2 and "go_backwards" in arguments:
        raise KerasError(f"{name} of {path} is bidirectional: remove go_backwards")
    given = {argument: value for argument, value in arguments.items() if argument != "merge_mode"}
    merge = arguments.get("merge_mode", layer.merge) if len(layer.directions) == 2 else layer.merge
    below = given | {"return_sequences": True}  # all stacked cells but the top one return all steps
    directions = [
        [Direction(c.arrays, {**c.arguments, **(given if c is direction[-1] else below)}, c.kind) for c in direction]
        for direction in layer.directions
    ]
    what = f"{name} of {path}"
    parts = [(name, directions)]
    if not all(is_one_stack(direction) for direction in directions):
        if len(directions) == 2:
            raise KerasError(f"{what}: bidirectional stacked cells that differ in kind or size are not supported")
        ends = [cell.arguments.get("name", depth) for depth, cell in enumerate(directions[0])]
        parts = [(f"{name}/{end}", [[cell]]) for end, cell in zip(ends, directions[0], strict=True)]
    ready = {part: layer_of(what, cells, merge, engine) for part, cells in parts}
    notes = [f"it is inside {wrapper}, which runs it on parts of its input" for wrapper in layer.inside]
    notes += [
        f"it takes the mask that {name!r} computes in the model; pass lengths instead" for name in layer.masked_by
    ]
    for part, cells in parts:
        made[part] = ready[part]
        if layer.masks:
            made.masks[part] = layer.masks
        if own := notes + reminders(cells):
            made.notes[part] = own

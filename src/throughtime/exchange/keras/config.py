"""Finding the recurrent layers that a Keras model's configuration describes, and the masks that reach them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from throughtime.exchange.keras.layers import BIDIRECTIONAL, KINDS, Direction, KerasError
from throughtime.exchange.keras.weights import WAYS, WeightSource

_DEPTH = 32  # of models and wrappers in each other; real files have a handful
_MODELS = ("Sequential", "Functional", "Model")
_RECURRENT = (*KINDS, "RNN", BIDIRECTIONAL)
# Layers behind which Keras has no mask any more.
_UNMASKED = re.compile("Conv(?!LSTM)|Pool|Flatten|Permute|RepeatVector|Reshape|UpSampling|ZeroPadding|Cropping")


@dataclass(frozen=True)
class KerasMask:
    """A layer of a Keras model that masks steps: recurrent layers behind it skip those.

    Attributes:
        layer: the layer's name.
        value: what it masks: the token id 0 for an Embedding with `mask_zero`; for a Masking layer, steps whose
            features all have this value.
        embedding: whether it is an Embedding.
    """

    layer: str
    value: float
    embedding: bool

    def lengths(self, input: Tensor) -> Tensor:
        """Count the steps of each sequence that come before the masked ones.

        Args:
            input: what the masking layer takes: token ids `[B, T]` for an Embedding, `[B, T, features]` for a Masking
                layer.

        Returns:
            The lengths, `[B]`, which a `Recurrent` takes as `lengths`.

        Raises:
            KerasError: if masked steps come before others that aren't: lengths can't say that.
        """
        kept = input != self.value
        if not self.embedding:
            kept = kept.any(-1)
        found = kept.sum(-1)
        if not torch.equal(kept, torch.arange(kept.shape[-1], device=kept.device) < found[:, None]):
            raise KerasError(
                f"{self.layer} masks steps that aren't at the end of their sequence. Move the padding to the end "
                "(keras.utils.pad_sequences(padding='post')): skipped steps change nothing else."
            )
        return found

    def __str__(self) -> str:
        return f"{self.layer} ({'mask_zero' if self.embedding else f'Masking of {self.value:g}'})"


@dataclass
class FoundLayer:
    """A recurrent layer in a file.

    Attributes:
        name: its name in the model.
        path: where its weights are in the file.
        ways: for each direction of time, the cells stacked in it; a layer that isn't made of stacked cells has one.
        merge: how the directions are put together.
        masks: the layers whose masks reach it.
        inside: the wrappers around it, as "class 'name'".
        masked_by: the operations that compute a mask given to it in the model.
    """

    name: str
    path: str
    ways: list[list[Direction]]
    merge: Any = "concat"
    masks: tuple[KerasMask, ...] = ()
    inside: tuple[str, ...] = ()
    masked_by: tuple[str, ...] = ()


@dataclass
class Found:
    """What reading a file has found.

    Attributes:
        layers: the recurrent layers.
        unread: the paths or names of those that can't be read, with the reasons.
        claimed: the paths of the layers that are in one of both.
    """

    layers: list[FoundLayer] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)

    def add(self, name: str, source: WeightSource, ways: Any, **about: Any) -> None:
        """Add a layer, or the reason why it can't be read.

        Args:
            name: its name.
            source: its source.
            ways: a function that reads its directions.
            **about: see `FoundLayer`.
        """
        self.claimed.add(source.path)
        try:
            self.layers.append(FoundLayer(name, source.path, ways(), **about))
        except KerasError as error:
            self.unread[name if name not in self.unread else source.path] = str(error)


def read_model(
    model: Any,
    source: WeightSource,
    found: Found,
    masks: frozenset[KerasMask] = frozenset(),
    inside: tuple[str, ...] = (),
    depth: int = 0,
) -> frozenset[KerasMask]:
    """Find the recurrent layers of a model.

    Args:
        model: its configuration.
        source: where its weights are.
        found: takes what is found.
        masks: the masks of its input.
        inside: the wrappers around it.
        depth: how many models and wrappers are around it.

    Returns:
        The masks of its output.

    Raises:
        KerasError: if the configuration doesn't list the model's layers.
    """
    layers = model["config"].get("layers") if model.get("class_name") in _MODELS else None
    if not isinstance(layers, list) or depth > _DEPTH:
        raise KerasError(
            f"the configuration of {source.path or 'the model'} ({model.get('class_name')}) does not list its layers: "
            "save model.save_weights('x.weights.h5'), and read that, with the layers' arguments if they are not the "
            "defaults"
        )
    after: dict[str, frozenset[KerasMask]] = {}
    last = masks
    for layer, group in zip(layers, groups(layers), strict=True):
        name = layer["config"].get("name", layer.get("name", group))
        before = _named(layer.get("inbound_nodes"))
        given = frozenset().union(*(after.get(n, frozenset()) for n in before)) if before else last
        if layer["class_name"] == "InputLayer":
            given = masks
        known = len(found.layers)
        last = after[name] = _layer(layer, source.of_layer(name, group), found, given, inside, depth)
        if not given:
            for one in found.layers[known:]:
                one.masked_by = tuple(sorted(_named(layer.get("inbound_nodes"), masks=True)))
    ends = _named(model["config"].get("output_layers"))
    return frozenset().union(*(after.get(name, frozenset()) for name in ends)) if ends else last


def _layer(
    layer: Any,
    source: WeightSource,
    found: Found,
    masks: frozenset[KerasMask],
    inside: tuple[str, ...],
    depth: int,
) -> frozenset[KerasMask]:
    kind, words = layer["class_name"], layer["config"]
    name = words.get("name", source.path.rsplit("/", 1)[-1])
    if depth > _DEPTH:
        raise KerasError("it has more layers in layers than a model has")
    if kind in _MODELS:
        try:
            return read_model(layer, source, found, masks, inside, depth + 1)
        except KerasError as error:
            found.unread[name] = str(error)
            return masks
    if kind in _RECURRENT:
        told = tuple(sorted(masks, key=str))
        merge = words.get("merge_mode", "concat") if kind == BIDIRECTIONAL else "concat"
        found.add(name, source, lambda: _ways(kind, words, source), merge=merge, masks=told, inside=inside)
        return masks if _keeps_steps(words) else frozenset()
    if str(kind).startswith("ConvLSTM"):
        found.claimed.add(source.path)
        found.unread[name] = f"{kind} computes its gates by convolution, which a Recurrent does not"
    for attribute, inner in words.items():
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict) and "name" in inner["config"]:
            around = (*inside, f"{kind} {name!r}")
            _layer(inner, source.inside(attribute, inner["config"]["name"]), found, masks, around, depth + 1)
    if kind == "Embedding":
        return frozenset({KerasMask(name, 0, True)} if words.get("mask_zero") else ())
    if kind == "Masking":
        return frozenset({KerasMask(name, float(words.get("mask_value", 0)), False)})
    return frozenset() if _UNMASKED.search(str(kind)) else masks


def _keeps_steps(words: Mapping[str, Any]) -> bool:
    inner = words.get("layer")
    return bool((inner["config"] if isinstance(inner, dict) else words).get("return_sequences"))


def _ways(kind: str, words: Mapping[str, Any], source: WeightSource) -> list[list[Direction]]:
    if kind != BIDIRECTIONAL:
        return [_cells(kind, words, source)]
    both = [words["layer"], words["backward_layer"]]
    sources = [source.inside(way, layer["config"]["name"]) for way, layer in zip(WAYS, both, strict=True)]
    return [_cells(layer["class_name"], layer["config"], p) for layer, p in zip(both, sources, strict=True)]


def _cells(kind: str, words: Mapping[str, Any], source: WeightSource) -> list[Direction]:
    described = cells_of(kind, words)
    names = [inner for _, _, inner in described]
    if names[0] is None or len(names[0]) < 2:
        return [Direction(source.cell(names[0] or ()), w, kind) for kind, w, _ in described]
    stacked = groups([{"class_name": f"{kind}Cell"} for kind, _, _ in described])
    return [
        Direction(source.stacked_cell(inner or (), group), w, kind)
        for (kind, w, inner), group in zip(described, stacked, strict=True)
    ]


def cells_of(kind: str, words: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], tuple[str, ...] | None]]:
    """Describe each cell of a layer by the layer of that one cell: its class, arguments, and the cell's names.

    Args:
        kind: the layer's class.
        words: its arguments.

    Raises:
        KerasError: if it has a cell that isn't Keras's, or nothing like a cell.
    """
    if kind in KINDS:
        return [(kind, dict(words), None)]
    cell = words.get("cell")
    if kind != "RNN" or not isinstance(cell, dict) or not isinstance(cell.get("config"), dict):
        raise KerasError(f"{kind} is not one of {', '.join(KINDS)} and RNN")
    stacked = cell.get("class_name") == "StackedRNNCells"
    cells = cell["config"]["cells"] if stacked else [cell]
    outer = {name: value for name, value in words.items() if name not in ("cell", "name")}
    found: list[tuple[str, dict[str, Any], tuple[str, ...] | None]] = []
    for one in cells:
        own, told = str(one["class_name"]).removesuffix("Cell"), one["config"]
        if own not in KINDS or own == one["class_name"]:
            raise KerasError(f"its cell {one['class_name']} is not one of {', '.join(f'{k}Cell' for k in KINDS)}")
        names = (cell["config"]["name"], told["name"]) if stacked else (told["name"],)
        top = {} if one is cells[-1] else {"return_sequences": True}
        found.append((own, told | outer | top, names))
    if not found:
        raise KerasError("its StackedRNNCells has no cells")
    return found


def groups(layers: Sequence[Any]) -> Iterator[str]:
    """List the groups that Keras stores these layers' weights in, where nothing else is known."""
    counts: dict[str, int] = {}
    for layer in layers:
        name = _snake_case(layer["class_name"])
        yield f"{name}_{counts[name]}" if name in counts else name
        counts[name] = counts.get(name, 0) + 1


def _snake_case(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _named(nodes: Any, *, masks: bool = False) -> set[str]:
    """List the layers that a graph's links, however nested, lead to: those that compute masks, or all others."""
    found: set[str] = set()
    given: list[Any] = []
    left = [nodes]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [value for name, value in one.items() if name != "mask"]
            given.append(one.get("mask"))
        elif isinstance(one, list):
            if len(one) >= 3 and isinstance(one[0], str) and isinstance(one[1], int):
                found.add(one[0])
            left += one
    return _named(given) if masks else found

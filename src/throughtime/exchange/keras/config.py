"""Find the recurrent layers in a Keras model's configuration, and the masks that reach them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from throughtime.exchange.keras.layers import BIDIRECTIONAL, KINDS, Direction, KerasError
from throughtime.exchange.keras.weights import DIRECTIONS, WeightSource

_DEPTH = 32  # maximum nesting of models and wrappers; real files have only a few levels
_MODELS = ("Sequential", "Functional", "Model")
_RECURRENT = (*KINDS, "RNN", BIDIRECTIONAL)
# Layers that don't pass masks on.
_UNMASKED = re.compile("Conv(?!LSTM)|Pool|Flatten|Permute|RepeatVector|Reshape|UpSampling|ZeroPadding|Cropping")


@dataclass(frozen=True)
class KerasMask:
    """A masking layer of a Keras model; recurrent layers after it skip the masked steps.

    Attributes:
        layer: the layer's name.
        value: the masked value: token id 0 for an Embedding with `mask_zero`; for a Masking layer, the value that all
            features of a masked step have.
        embedding: whether the layer is an Embedding.
    """

    layer: str
    value: float
    embedding: bool

    def lengths(self, input: Tensor) -> Tensor:
        """Count the unmasked steps at the start of each sequence.

        Args:
            input: the input of the masking layer: token ids `[B, T]` for an Embedding, `[B, T, features]` for a Masking
                layer.

        Returns:
            The lengths, `[B]`, to pass to a `Recurrent` as `lengths`.

        Raises:
            KerasError: if masked steps precede unmasked ones, which lengths can't express.
        """
        kept = input != self.value
        if not self.embedding:
            kept = kept.any(-1)
        found = kept.sum(-1)
        if not torch.equal(kept, torch.arange(kept.shape[-1], device=kept.device) < found[:, None]):
            raise KerasError(
                f"{self.layer} masks steps that aren't at the end of their sequence. Move the padding to the end "
                "(keras.utils.pad_sequences(padding='post')); the results stay the same"
            )
        return found

    def __str__(self) -> str:
        return f"{self.layer} ({'mask_zero' if self.embedding else f'Masking of {self.value:g}'})"


@dataclass
class FoundLayer:
    """A recurrent layer found in a file.

    Attributes:
        name: the layer's name in the model.
        path: the path of the layer's weights in the file.
        directions: for each direction, its stacked cells; a single cell unless the layer stacks cells.
        merge: how the outputs of the directions are combined.
        masks: the masking layers whose masks reach the layer.
        inside: the wrappers around the layer, as "class 'name'".
        masked_by: the operations that compute the mask passed to the layer explicitly.
    """

    name: str
    path: str
    directions: list[list[Direction]]
    merge: Any = "concat"
    masks: tuple[KerasMask, ...] = ()
    inside: tuple[str, ...] = ()
    masked_by: tuple[str, ...] = ()


@dataclass
class Found:
    """The result of reading a file.

    Attributes:
        layers: the recurrent layers.
        unread: the paths or names of recurrent layers that can't be read, with the reasons.
        claimed: the weight paths of all layers in `layers` and `unread`.
    """

    layers: list[FoundLayer] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)

    def add(self, name: str, source: WeightSource, directions: Any, **about: Any) -> None:
        """Add a layer, or the reason why it can't be read.

        Args:
            name: the layer's name.
            source: the location of the layer's weights.
            directions: a function that reads the layer's directions.
            **about: see `FoundLayer`.
        """
        self.claimed.add(source.path)
        try:
            self.layers.append(FoundLayer(name, source.path, directions(), **about))
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
        model: the model's configuration.
        source: the location of the model's weights.
        found: the result to add layers to.
        masks: the masks of the model's input.
        inside: the wrappers around the model.
        depth: the number of models and wrappers around the model.

    Returns:
        The masks of the model's output.

    Raises:
        KerasError: if the configuration doesn't list the model's layers.
    """
    layers = model["config"].get("layers") if model.get("class_name") in _MODELS else None
    if not isinstance(layers, list) or depth > _DEPTH:
        raise KerasError(
            f"the configuration of {source.path or 'the model'} ({model.get('class_name')}) does not list its layers: "
            "call model.save_weights('x.weights.h5') and read that file, passing the layers' arguments if they are not "
            "the defaults"
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
    kind, arguments = layer["class_name"], layer["config"]
    name = arguments.get("name", source.path.rsplit("/", 1)[-1])
    if depth > _DEPTH:
        raise KerasError("its layers are nested too deeply")
    if kind in _MODELS:
        try:
            return read_model(layer, source, found, masks, inside, depth + 1)
        except KerasError as error:
            found.unread[name] = str(error)
            return masks
    if kind in _RECURRENT:
        layer_masks = tuple(sorted(masks, key=str))
        merge = arguments.get("merge_mode", "concat") if kind == BIDIRECTIONAL else "concat"
        found.add(
            name, source, lambda: _directions(kind, arguments, source), merge=merge, masks=layer_masks, inside=inside
        )
        return masks if _keeps_steps(arguments) else frozenset()
    if str(kind).startswith("ConvLSTM"):
        found.claimed.add(source.path)
        found.unread[name] = f"{kind} computes its gates by convolution, which Recurrent does not support"
    for attribute, inner in arguments.items():
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict) and "name" in inner["config"]:
            around = (*inside, f"{kind} {name!r}")
            _layer(inner, source.inside(attribute, inner["config"]["name"]), found, masks, around, depth + 1)
    if kind == "Embedding":
        return frozenset({KerasMask(name, 0, True)} if arguments.get("mask_zero") else ())
    if kind == "Masking":
        return frozenset({KerasMask(name, float(arguments.get("mask_value", 0)), False)})
    return frozenset() if _UNMASKED.search(str(kind)) else masks


def _keeps_steps(arguments: Mapping[str, Any]) -> bool:
    inner = arguments.get("layer")
    return bool((inner["config"] if isinstance(inner, dict) else arguments).get("return_sequences"))


def _directions(kind: str, arguments: Mapping[str, Any], source: WeightSource) -> list[list[Direction]]:
    if kind != BIDIRECTIONAL:
        return [_cells(kind, arguments, source)]
    both = [arguments["layer"], arguments["backward_layer"]]
    sources = [
        source.inside(attribute, layer["config"]["name"]) for attribute, layer in zip(DIRECTIONS, both, strict=True)
    ]
    return [_cells(layer["class_name"], layer["config"], p) for layer, p in zip(both, sources, strict=True)]


def _cells(kind: str, arguments: Mapping[str, Any], source: WeightSource) -> list[Direction]:
    described = cells_of(kind, arguments)
    names = [inner for _, _, inner in described]
    if names[0] is None or len(names[0]) < 2:
        return [Direction(source.cell(names[0] or ()), w, kind) for kind, w, _ in described]
    stacked = groups([{"class_name": f"{kind}Cell"} for kind, _, _ in described])
    return [
        Direction(source.stacked_cell(inner or (), group), w, kind)
        for (kind, w, inner), group in zip(described, stacked, strict=True)
    ]


def cells_of(kind: str, arguments: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], tuple[str, ...] | None]]:
    """Describe each cell of a layer as if it were a layer: its class, its arguments and the cell's names.

    Args:
        kind: the layer's class.
        arguments: the layer's arguments.

    Raises:
        KerasError: if the layer has a custom cell, or no cell.
    """
    if kind in KINDS:
        return [(kind, dict(arguments), None)]
    cell = arguments.get("cell")
    if kind != "RNN" or not isinstance(cell, dict) or not isinstance(cell.get("config"), dict):
        raise KerasError(f"{kind} is not supported; supported layers: {', '.join(KINDS)}, RNN")
    stacked = cell.get("class_name") == "StackedRNNCells"
    cells = cell["config"]["cells"] if stacked else [cell]
    outer = {name: value for name, value in arguments.items() if name not in ("cell", "name")}
    found: list[tuple[str, dict[str, Any], tuple[str, ...] | None]] = []
    for one in cells:
        own, cell_config = str(one["class_name"]).removesuffix("Cell"), one["config"]
        if own not in KINDS or own == one["class_name"]:
            raise KerasError(
                f"unsupported cell {one['class_name']}; supported cells: {', '.join(f'{k}Cell' for k in KINDS)}"
            )
        names = (cell["config"]["name"], cell_config["name"]) if stacked else (cell_config["name"],)
        top = {} if one is cells[-1] else {"return_sequences": True}
        found.append((own, cell_config | outer | top, names))
    if not found:
        raise KerasError("its StackedRNNCells has no cells")
    return found


def groups(layers: Sequence[Any]) -> Iterator[str]:
    """Yield the default group names under which Keras stores these layers' weights."""
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
    """Return the names of the layers that a graph's links refer to, at any depth: only masks, or all others."""
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

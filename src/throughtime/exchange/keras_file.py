"""Reading recurrent layers out of Keras's files. What is damaged, hostile or can't be read ends as a KerasError."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from throughtime.errors import nearest
from throughtime.exchange.hdf5 import Hdf5, Hdf5Error, Node
from throughtime.exchange.keras_layers import BIDIRECTIONAL, KINDS, Array, Direction, KerasError

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_DEPTH = 32  # of groups in groups, or models in models; those of honest files have a handful
_LAYERS = 10_000
_WORTH_A_LOOK = 1 << 24  # bytes
_DENSEST = 100  # how many times its size what is compressed may have
_WAYS = ("forward_layer", "backward_layer")  # of a Bidirectional
_MODELS = ("Sequential", "Functional", "Model")


class FoundLayer(NamedTuple):
    """A recurrent layer in a file.

    Attributes:
        name: its name in the model.
        path: where in the file its weights are.
        ways: its directions.
        merge: how they are put together.
    """

    name: str
    path: str
    ways: list[Direction]
    merge: Any = "concat"


def read_keras(path: Path) -> dict[str, FoundLayer]:
    """The recurrent layers of a file, by their names; where two models in one have the same, by their paths in it.

    Args:
        path: a file `.weights.h5`, which does not say with what arguments layers were made, or `.keras`, which does.

    Raises:
        KerasError: the file is missing, damaged, or has nothing in it that can be read.
    """
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise KerasError(f"{path}: there is no such file{nearest(path.name, siblings)}")
    with _told(path):
        content = path.read_bytes()
        if content[:2] == b"PK":
            config, content = _unzipped(content)
            found = list(_configured(config, _Weights(content), "", 0))
        else:
            found = list(_Weights(content).found())
    if not found:
        raise KerasError(f"{path} has no layer {', '.join(KINDS)}, alone or in {BIDIRECTIONAL}.")
    names = [layer.name for layer in found]
    return {layer.name if names.count(layer.name) == 1 else layer.path: layer for layer in found}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """All that is wrong with the file as a KerasError."""
    try:
        yield
    except (KerasError, Hdf5Error) as error:
        raise KerasError(f"{path}: {error}") from None
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError, OverflowError, EOFError,
        IndexError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        # A zip tells of damage in many ways, and a configuration can be anything.
        raise KerasError(f"{path} is damaged, or is no file of Keras's: {error}.") from None


def _unzipped(content: bytes) -> tuple[Any, bytes]:
    """The model's configuration and the file of its weights."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        for name in (_CONFIG, _WEIGHTS):
            if name not in names:
                raise KerasError(f"it has no {name}, as a file .keras has.")
            size, packed = archive.getinfo(name).file_size, archive.getinfo(name).compress_size
            if size > max(_WORTH_A_LOOK, _DENSEST * packed):
                raise KerasError(f"its {name} says that it is {size} bytes, and {packed} are there.")
        return json.loads(archive.read(_CONFIG)), archive.read(_WEIGHTS)


class _Weights:
    """A file of weights.

    Args:
        content: its bytes.
    """

    def __init__(self, content: bytes) -> None:
        self._root = Hdf5(content).root
        if "layer_names" in self._root.attributes or "model_weights" in self._root.members:
            raise KerasError("it is of an older Keras: load it there, and save it as .keras or .weights.h5.")

    def at(self, path: str) -> Node | None:
        """What has that path, if there is such a thing."""
        return self._root.at(*filter(None, path.split("/")))

    def name(self, path: str) -> str | None:
        """The name of the layer whose group that is."""
        group = self.at(f"{path}/vars")
        return None if group is None else group.attributes.get("name")

    def children(self, path: str) -> list[str]:
        """The names of what is in a group."""
        group = self.at(path)
        return [] if group is None else list(group.members)

    def arrays(self, path: str) -> list[Array]:
        """The arrays of the cell of a layer.

        Raises:
            KerasError: if there are none, or one can't be read.
        """
        cell = f"{path}/cell/vars"
        found = [self.at(f"{cell}/{k}") for k in range(min(3, len(self.children(cell))))]
        arrays = [node.array() for node in found if node is not None]
        if not arrays or len(arrays) < len(found):
            raise KerasError(f"{path[1:]} has no weights of a recurrent layer.")
        return arrays

    def found(self) -> Iterator[FoundLayer]:
        """All that can be recurrent layers, where nothing is told of them."""
        for path in self._layers():
            name = self.name(path) or path.rsplit("/", 1)[-1]
            both = [f"{path}/{way}" for way in _WAYS]
            if self.at(both[0]) is None:
                yield FoundLayer(name, path[1:], [Direction(self.arrays(path), {})])
            else:
                backwards = [{}, {"go_backwards": True}]
                ways = [Direction(self.arrays(p), words) for p, words in zip(both, backwards, strict=True)]
                yield FoundLayer(name, path[1:], ways)

    def _layers(self) -> Iterator[str]:
        """The paths of what can be recurrent layers."""
        left, seen = [""], 0
        while left:
            path = left.pop()
            seen += 1
            if seen > _LAYERS or path.count("/") > _DEPTH:
                raise KerasError("it has more groups in groups than a model has.")
            names = self.children(path)
            if set(_WAYS) <= set(names):
                if all(self._has_cell(f"{path}/{way}") for way in _WAYS):
                    yield path
            elif self._has_cell(path):
                yield path
            else:
                left += [f"{path}/{name}" for name in reversed(names)]

    def _has_cell(self, path: str) -> bool:
        return len(self.children(f"{path}/cell/vars")) in (2, 3)


def _configured(model: Any, weights: _Weights, path: str, depth: int) -> Iterator[FoundLayer]:
    """The recurrent layers that a model's configuration tells of, and those of the models in it."""
    layers = model["config"].get("layers") if model.get("class_name") in _MODELS else None
    if not isinstance(layers, list) or depth > _DEPTH:
        raise KerasError(
            f"the configuration of {path or 'the model'} ({model.get('class_name')}) does not tell its layers: save "
            "model.save_weights('x.weights.h5'), and give that, with the layers' arguments if they are not the usual."
        )
    own = {weights.name(f"{path}/layers/{child}"): child for child in weights.children(f"{path}/layers")}
    counts: dict[str, int] = {}
    for layer in layers:
        kind, words = layer["class_name"], layer["config"]
        name, usual = words["name"], _snake_case(kind)
        numbered = usual if usual not in counts else f"{usual}_{counts[usual]}"
        counts[usual] = counts.get(usual, 0) + 1
        where = f"{path}/layers/{own.get(name, numbered)}"
        if kind in _MODELS:
            yield from _configured(layer, weights, where, depth + 1)
            continue
        found = _layer(kind, words, weights, where)
        if found is not None:
            yield found


def _layer(kind: str, words: Mapping[str, Any], weights: _Weights, path: str) -> FoundLayer | None:
    if kind in KINDS:
        return FoundLayer(words["name"], path[1:], [Direction(weights.arrays(path), words, kind)])
    if kind != BIDIRECTIONAL or words["layer"]["class_name"] not in KINDS:
        return None
    both = zip(_WAYS, (words["layer"], words["backward_layer"]), strict=True)
    ways = [Direction(weights.arrays(f"{path}/{way}"), told["config"], told["class_name"]) for way, told in both]
    return FoundLayer(words["name"], path[1:], ways, words["merge_mode"])


def _snake_case(name: str) -> str:
    """What Keras calls the group of a layer of that class."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()

"""Locate the weights of recurrent cells in Keras files, in both formats that Keras 3 writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from throughtime.exchange.keras.hdf5 import Node
from throughtime.exchange.keras.layers import Array, Direction, KerasError

_DEPTH = 32  # maximum nesting of groups; real files have only a few levels
_GROUPS = 10_000
_KERNELS = ("kernel", "recurrent_kernel", "bias")
DIRECTIONS = ("forward_layer", "backward_layer")  # attributes of Bidirectional


class WeightSource(Protocol):
    """The location of a layer's weights in a file."""

    @property
    def path(self) -> str:
        """The path in the file, without a leading slash."""

    def of_layer(self, name: str, group: str) -> WeightSource:
        """Locate a layer of this model by its name and its default group."""

    def inside(self, attribute: str, name: str) -> WeightSource:
        """Locate the layer inside this wrapper by its attribute and name."""

    def cell(self, names: Sequence[str]) -> list[Array]:
        """Read the arrays of this layer's only cell, given the known names of the cell.

        Raises:
            KerasError: if there are no arrays, or one can't be read.
        """

    def stacked_cell(self, names: Sequence[str], group: str) -> list[Array]:
        """Read the arrays of one of this layer's stacked cells, as `cell` does."""

    def cells(self) -> Iterator[str]:
        """Yield the paths of all cells in the file."""

    def is_part(self, cell: str, layer: str) -> bool:
        """Return whether a cell in the file belongs to the layer with this path."""


@dataclass(frozen=True)
class Structured:
    """A layer in a `.weights.h5`, the format inside a `.keras` file: groups are named by attributes and classes.

    Attributes:
        root: the file's root.
        path: see `WeightSource`.
    """

    root: Node
    path: str = ""

    def _at(self, path: str) -> Node | None:
        return self.root.at(*filter(None, path.split("/")))

    def _children(self, path: str) -> list[str]:
        group = self._at(path)
        return [] if group is None else list(group.members)

    def _name(self, path: str) -> str | None:
        group = self._at(f"{path}/vars")
        return None if group is None else group.attributes.get("name")

    def _below(self, name: str) -> Structured:
        return Structured(self.root, f"{self.path}/{name}".lstrip("/"))

    def of_layer(self, name: str, group: str) -> Structured:
        """See `WeightSource`."""
        layers = self._below("layers")
        own = {self._name(f"{layers.path}/{child}"): child for child in self._children(layers.path)}
        return layers._below(own.get(name, group))

    def inside(self, attribute: str, name: str) -> Structured:
        """See `WeightSource`."""
        return self._below(attribute)

    def cell(self, names: Sequence[str]) -> list[Array]:
        """See `WeightSource`."""
        return self._arrays(f"{self.path}/cell/vars")

    def stacked_cell(self, names: Sequence[str], group: str) -> list[Array]:
        """See `WeightSource`."""
        stack = f"{self.path}/cell/cells"
        own = {self._name(f"{stack}/{child}"): child for child in self._children(stack)}
        return self._arrays(f"{stack}/{own.get(names[-1], group)}/vars")

    def _arrays(self, path: str) -> list[Array]:
        found = [self._at(f"{path}/{k}") for k in range(min(3, len(self._children(path))))]
        arrays = [node.array() for node in found if node is not None]
        if not arrays or len(arrays) < len(found):
            raise KerasError(f"the file has no weights of a recurrent cell at {path.removesuffix('/vars')}")
        return arrays

    def cells(self) -> Iterator[str]:
        """See `WeightSource`."""
        for path, names in _groups(self.root):
            if names and re.search(r"(^|/)(cell|cells/[^/]+)/vars$", path):
                yield path.removesuffix("/vars")

    def is_part(self, cell: str, layer: str) -> bool:
        """See `WeightSource`."""
        return cell.startswith(f"{layer}/")

    def layers(self) -> Iterator[tuple[str, str, list[Structured]]]:
        """Yield the path, name and directions of each group that looks like a recurrent layer."""
        seen = set()
        for cell in self.cells():
            layer = re.sub("/cell(/cells/[^/]+)?$", "", f"/{cell}").lstrip("/")
            outer, _, attribute = layer.rpartition("/")
            both = [f"{outer}/{name}" for name in DIRECTIONS]
            paired = attribute in DIRECTIONS and all(self._at(f"{path}/cell") is not None for path in both)
            path = outer if paired else layer
            if path not in seen:
                seen.add(path)
                name = self._name(path) or path.rsplit("/", 1)[-1]
                yield path, name, [Structured(self.root, p) for p in (both if paired else [path])]

    def directions(self) -> list[Direction]:
        """Read this layer's cells without a configuration.

        Raises:
            KerasError: if the order of stacked cells isn't stored.
        """
        stack = f"{self.path}/cell/cells"
        if not (groups := self._children(stack)):
            return [Direction(self.cell(()), {})]
        numbered = {int(m[2] or 0): name for name in groups if (m := re.fullmatch(r"(.*?)(?:_(\d+))?", name))}
        if sorted(numbered) != list(range(len(groups))) or len({re.sub(r"_\d+$", "", name) for name in groups}) > 1:
            raise KerasError(
                "a weights file doesn't store the order of stacked cells: read the model from a .keras file"
            )
        return [Direction(self._arrays(f"{stack}/{numbered[k]}/vars"), {}) for k in range(len(groups))]


@dataclass(frozen=True)
class Named:
    """A layer in a whole model's `.h5`, where arrays are named by the layers that contain them.

    Attributes:
        root: the file's `model_weights` group.
        group: the group of the outermost layer.
        names: the names of the enclosing layers and of this layer.
    """

    root: Node
    group: str = ""
    names: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """See `WeightSource`."""
        return "/".join(self.names)

    def of_layer(self, name: str, group: str) -> Named:
        """See `WeightSource`."""
        return Named(self.root, self.group or name, (*self.names, name))

    def inside(self, attribute: str, name: str) -> Named:
        """See `WeightSource`."""
        return self.of_layer(name, "")

    def cell(self, names: Sequence[str]) -> list[Array]:
        """See `WeightSource`."""
        own = "/".join(re.escape(name) for name in (self.names[-1], *names))
        return self._arrays(own if names else f"{own}/[^/]+")

    def stacked_cell(self, names: Sequence[str], group: str) -> list[Array]:
        """See `WeightSource`."""
        return self.cell(names)

    def _arrays(self, pattern: str) -> list[Array]:
        # A functional model's name may be missing from the names of its layers' arrays, so only the end must match.
        found = [cell for cell in self.cells() if re.search(f"(^|/){pattern}$", cell)]
        found = [cell for cell in found if cell.split("/")[0] == self.group]
        if len(found) > 1:
            found = [cell for cell in found if cell.startswith(f"{self.group}/{self.path}/")]
        if len(found) != 1:
            count = "several layers" if found else "no layer"
            raise KerasError(f"the file has weights of {count} named {self.names[-1]!r} in {self.group!r}")
        group = self.root.at(*found[0].split("/"))
        assert group is not None
        return [node.array() for name in _KERNELS if (node := group.at(name)) is not None]

    def cells(self) -> Iterator[str]:
        """See `WeightSource`."""
        for path, names in _groups(self.root):
            if "recurrent_kernel" in names:
                yield path

    def is_part(self, cell: str, layer: str) -> bool:
        """See `WeightSource`."""
        names, own = cell.split("/"), layer.split("/")
        return names[0] == own[0] and own[-1] in names


def _groups(root: Node) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each group with the names of its members.

    Raises:
        KerasError: if there are too many groups, or they are nested too deeply.
    """
    left, seen = [""], 0
    while left:
        path = left.pop()
        seen += 1
        if seen > _GROUPS or path.count("/") > _DEPTH:
            raise KerasError("its groups are nested too deeply")
        group = root.at(*filter(None, path.split("/")))
        names = [] if group is None else list(group.members)
        yield path, names
        left += [f"{path}/{name}".lstrip("/") for name in reversed(names)]

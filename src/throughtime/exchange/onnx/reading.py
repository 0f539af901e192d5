"""A model of ONNX as a module."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import UserError, nearest
from throughtime.exchange.onnx.file import Node, OnnxError, OnnxFile, read_onnx
from throughtime.exchange.onnx.operators import MEANINGS, size_limit
from throughtime.exchange.onnx.recurrent import OPERATORS, STORED, OnnxRecurrent

_SMALL = 1 << 16  # elements that a result may always have


def from_onnx(source: str | os.PathLike[str] | bytes) -> OnnxModel:
    """Makes a module of a model of ONNX whose recurrent layers are operators RNN, LSTM or GRU.

    Args:
        source: the file, or what it holds.

    Returns:
        A module that computes what the model does. Each recurrent operator in it is one of our layers; all weights are
        parameters, which can be trained.

    Raises:
        UserError: if the file is missing, damaged, or has in it what can't be read, or the package onnx is missing.
    """
    return OnnxModel(read_onnx(source))


class OnnxModel(nn.Module):
    """A model of ONNX on our engines.

    Attributes:
        inputs, outputs: the names of what it takes and gives.
        layers: the recurrent layers by the names of their nodes, in the order in which they run.
        metadata: what the file said of itself.
    """

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.inputs, self.outputs, self.metadata = file.inputs, file.outputs, dict(file.metadata)
        self.layers = nn.ModuleDict()
        self.weights = nn.ParameterDict()
        self._whole: dict[str, Tensor] = {}  # constants that are no weights: shapes, axes, lengths
        self._nodes: list[tuple[Node, str]] = []  # what is left to be run, with the name of its layer
        self._named: dict[str, str] = {}  # a constant's name in the file: in `weights`
        self._read(file)
        self._stored = sum(p.numel() for p in self.parameters())

    def forward(self, *given: Any, **by_name: Any) -> Any:
        """Runs the model.

        Args:
            *given: what it takes, in the order of `inputs`.
            **by_name: what it takes, by name.

        Returns:
            What it gives, in the order of `outputs`; a tuple if it is more than one.

        Raises:
            UserError: if something is missing or its shape does not fit.
        """
        values: dict[str, Tensor] = dict(self._arguments(given, by_name))
        elements = sum(v.numel() for v in values.values())
        values |= self._whole | {name: self.weights[key] for name, key in self._named.items()}
        token = size_limit.set(max(_SMALL, elements * max(self._stored, 1)))
        try:
            for node, layer in self._nodes:
                results = _run(node, self.layer(layer) if layer else None, values)
                values.update(zip(node.outputs, results, strict=False))
        finally:
            size_limit.reset(token)
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def _arguments(self, given: tuple[Any, ...], by_name: Mapping[str, Any]) -> dict[str, Tensor]:
        arguments = dict(zip(self.inputs, given, strict=False)) | dict(by_name)
        for name in by_name:
            if name not in self.inputs:
                raise UserError(f"the model takes nothing called {name!r}{nearest(name, self.inputs)}.")
        if len(given) > len(self.inputs) or len(arguments) < max(len(self.inputs), len(given) + len(by_name)):
            raise UserError(
                f"the model takes {', '.join(self.inputs)}; given {len(given)} in order"
                f"{' and ' + ', '.join(by_name) if by_name else ''}."
            )
        return {name: torch.as_tensor(value) for name, value in arguments.items()}

    def layer(self, name: str) -> OnnxRecurrent:
        """A recurrent layer by its name among `layers`."""
        found = self.layers[name]
        assert isinstance(found, OnnxRecurrent)
        return found

    # How the file is read.

    def _read(self, file: OnnxFile) -> None:
        constants = {name: torch.from_numpy(array.copy()) for name, array in file.constants.items()}
        known = {"", *file.inputs, *constants}
        used: set[str] = set(file.outputs)
        token = size_limit.set(max(_SMALL, 2 * sum(c.numel() for c in constants.values())))
        try:
            for node in file.nodes:
                self._check(node, known)
                known.update(node.outputs)
                if node.operator in OPERATORS:
                    used.update(self._add_layer(node, constants))
                elif all(name in constants for name in node.inputs if name):
                    constants.update(zip(node.outputs, _run(node, None, constants), strict=False))
                else:
                    self._nodes.append((node, ""))
                    used.update(node.inputs)
        finally:
            size_limit.reset(token)
        for name in file.outputs:
            if name not in known or not name:
                raise OnnxError(f"the model gives {name!r}, but nothing in it makes that.")
        if not self.layers:
            raise OnnxError(f"the model has none of the operators {', '.join(OPERATORS)}: there is nothing for us.")
        for name in sorted(used & set(constants)):
            if constants[name].is_floating_point():
                key = _plain(name or "constant", self.weights)
                self.weights[key] = nn.Parameter(constants[name].contiguous())
                self._named[name] = key
            else:
                self._whole[name] = constants[name]

    @staticmethod
    def _check(node: Node, known: set[str]) -> None:
        possible = [*MEANINGS, *OPERATORS]
        if node.operator not in possible:
            raise node.error(
                f"this operator can't be read{nearest(node.operator, possible)} (those that can: "
                f"{', '.join(sorted(possible))})."
            )
        for name in node.inputs:
            if name not in known:
                raise node.error(f"it takes {name!r}, which nothing before it gives.")
        for name in node.outputs:
            if name in known and name:
                raise node.error(f"it gives {name!r}, which is there already.")

    def _add_layer(self, node: Node, constants: Mapping[str, Tensor]) -> list[str]:
        """Makes a node a layer; returns the names of the values that it takes when it is run."""
        stored = {}
        for place, letter in STORED.items():
            if name := node.input(place):
                if name not in constants:
                    raise node.error(f"its {letter} is computed while the model runs; a stored one can be read.")
                stored[letter] = constants[name]
        key = _plain(node.name or node.operator, self.layers)
        self.layers[key] = layer = OnnxRecurrent(node, stored)
        self._nodes.append((node, key))
        return layer.takes


def _run(node: Node, layer: OnnxRecurrent | None, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    given = [values[name] if name else None for name in (layer.takes if layer else node.inputs)]
    try:
        found = layer(*given) if layer else MEANINGS[node.operator](node, *given)
        results = found if isinstance(found, tuple) else (found,)
        if not all(isinstance(result, Tensor) for result in results):
            raise ValueError("something that it takes is left out")
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # What torch says of tensors that don't fit; the node's name tells where in the file it is.
        shapes = ", ".join(str(list(v.shape)) for v in given if v is not None)
        raise node.error(f"it can't be run on {shapes or 'nothing'}: {error}") from error
    return results


def _plain(name: str, taken: Any) -> str:
    """A name that torch allows and that is not taken yet."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "value"
    number, found = 1, plain
    while found in taken or hasattr(nn.ModuleDict, found):
        number += 1
        found = f"{plain}_{number}"
    return found

"""Import an ONNX model as a module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.errors import UserError, nearest
from throughtime.exchange.onnx.bounds import size_limit
from throughtime.exchange.onnx.file import OnnxError, OnnxFile, read_onnx
from throughtime.exchange.onnx.graph import Array
from throughtime.exchange.onnx.recurrent import OPERATORS, OnnxRecurrent
from throughtime.exchange.onnx.steps import Steps, plain_name

_FLOAT64 = 11  # ONNX's type number
_SMALL = 1 << 16  # elements; smaller results are always allowed


def from_onnx(source: str | os.PathLike[str] | bytes | Any, *, weights: Mapping[str, Any] | None = None) -> OnnxModel:
    """Create a module from an ONNX model whose recurrent layers are RNN, LSTM or GRU operators.

    Args:
        source: the path of the file, with its data file, if any, next to it; the content of the file; or an
            `onnx.ModelProto`.
        weights: arrays by name, for inputs of the model, which become parameters (for a file that takes a layer's
            weights as inputs), or to replace stored arrays.

    Returns:
        A module with the same results as the model. Its recurrent operators are throughtime layers, and all weights
        are trainable parameters.

    Raises:
        UserError: if the file is missing, damaged or unsupported, if a weight has the wrong shape, or if the onnx
            package is not installed.
    """
    file = read_onnx(source)
    return OnnxModel(_with_weights(file, weights) if weights is not None else file)


def _with_weights(file: OnnxFile, weights: Mapping[str, Any]) -> OnnxFile:
    """Replace stored arrays of a file."""
    known, arrays = [*file.inputs, *file.graph.constants], dict(file.graph.constants)
    if not isinstance(weights, Mapping):
        raise UserError(f"weights must be a dictionary from names to arrays, got {type(weights).__name__}")
    for name, value in weights.items():
        if name not in known:
            raise UserError(f"the model has no input or stored array {name!r}{nearest(str(name), known)}")
        array: Array = np.array(value.detach().cpu() if isinstance(value, Tensor) else value)
        if array.dtype.kind not in "fiub":
            raise UserError(f"weights[{name!r}] must be an array of numbers, got {array.dtype}")
        wanted = arrays[name].shape if name in arrays else file.shapes.get(name)
        sizes = None if wanted is None else [n if d is None else d for n, d in zip(array.shape, wanted, strict=False)]
        if wanted is not None and (len(wanted) != array.ndim or sizes != list(array.shape)):
            shown = ["?" if d is None else d for d in wanted]
            raise UserError(f"weights[{name!r}] must have shape {shown}, got {list(array.shape)}")
        # Use the declared dtype: arrays computed with NumPy are float64 by default.
        double = file.types.get(name) == _FLOAT64 if name not in arrays else arrays[name].dtype == np.float64
        arrays[name] = array.astype(np.float64 if double else np.float32) if array.dtype.kind == "f" else array
    inputs = tuple(name for name in file.inputs if name not in weights)
    return replace(file, inputs=inputs, graph=replace(file.graph, constants=arrays))


class OnnxModel(nn.Module):
    """An ONNX model that runs on throughtime's engines.

    Attributes:
        inputs, outputs: the names of the model's inputs and outputs.
        layers: the recurrent layers, by the names of their nodes, in running order.
        weights: the other weights, by their names in the file.
        metadata: the file's metadata.
    """

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.inputs, self.outputs, self.metadata = file.inputs, file.graph.outputs, dict(file.metadata)
        token = size_limit.set(max(_SMALL, 2 * sum(array.size for array in file.graph.constants.values())))
        try:
            found = Steps(file.graph, file.inputs)
        finally:
            size_limit.reset(token)
        if not found.layers:
            raise OnnxError(
                f"the model has no {', '.join(OPERATORS)} operator, so there is nothing for throughtime to run. "
                "If its recurrence is unrolled into other operators, as torch.onnx.export(dynamo=True) does with "
                "nn.RNN, export it with dynamo=False, or convert the layer itself: throughtime.from_torch(layer)"
            )
        self.layers = nn.ModuleDict(found.layers)
        self.weights = nn.ParameterDict()
        self.fixed = nn.Module()
        self._steps, self._results = found.steps, found.outputs
        self._weight_inputs = found.given_weights
        self._whole: dict[str, Tensor] = {}  # integers: shapes, axes, lengths
        self._named: list[tuple[str, str]] = []  # a constant's name and its name in `weights`
        self._fixed: list[tuple[str, str]] = []  # a constant's name and its name in `fixed`
        for name in sorted(found.used & found.constants.keys()):
            tensor = found.constants[name].contiguous()
            if name in found.trained:
                key = plain_name(name, self.weights.keys())
                self.weights[key] = nn.Parameter(tensor)
                self._named.append((name, key))
            elif tensor.is_floating_point():
                key = plain_name(name, dict(self.fixed.named_buffers()))
                self.fixed.register_buffer(key, tensor)
                self._fixed.append((name, key))
            else:
                self._whole[name] = tensor
        self._stored = sum(p.numel() for p in self.parameters())

    def forward(self, *given: Any, **by_name: Any) -> Any:
        """Run the model.

        Args:
            *given: the model's inputs, in the order of `inputs`.
            **by_name: the model's inputs, by name.

        Returns:
            The model's outputs, in the order of `outputs`; a tuple if there are several.

        Raises:
            UserError: if an input is missing or has the wrong shape.
        """
        values = self._arguments(given, by_name)
        elements = sum(v.numel() for v in values.values())
        stored = self._stored + sum(values[name].numel() for name in self._weight_inputs)
        values |= self._whole | {name: self.weights[key] for name, key in self._named}
        values |= {name: self.fixed.get_buffer(key) for name, key in self._fixed}
        token = size_limit.set(max(_SMALL, elements * max(stored, 1)))
        try:
            for step in self._steps:
                step.run(values)
        finally:
            size_limit.reset(token)
        found = tuple(values[name] for name in self._results)
        return found[0] if len(found) == 1 else found

    def _arguments(self, given: tuple[Any, ...], by_name: Mapping[str, Any]) -> dict[str, Tensor]:
        arguments = dict(zip(self.inputs, given, strict=False)) | dict(by_name)
        for name in by_name:
            if name not in self.inputs:
                raise UserError(f"the model has no input {name!r}{nearest(name, self.inputs)}")
        if len(given) > len(self.inputs) or len(arguments) < max(len(self.inputs), len(given) + len(by_name)):
            lacking = [name for name in self._weight_inputs if name not in arguments]
            hint = (
                f" Inputs that are weights ({', '.join(sorted(lacking))}) can be set once: "
                f"from_onnx(..., weights={{{', '.join(f'{name!r}: array' for name in sorted(lacking))}}})"
                if lacking
                else ""
            )
            raise UserError(
                f"the model takes {', '.join(self.inputs)}; got {len(given)} positional"
                f"{' and ' + ', '.join(by_name) if by_name else ''}.{hint}"
            )
        return {name: torch.as_tensor(value) for name, value in arguments.items()}

    def layer(self, name: str) -> OnnxRecurrent:
        """Return a recurrent layer by its name in `layers`."""
        found = self.layers[name]
        assert isinstance(found, OnnxRecurrent)
        return found

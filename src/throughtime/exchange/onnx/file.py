"""Reading a file of ONNX into plain data. What is damaged, hostile or beyond what can be read ends as a UserError."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from throughtime.errors import UserError
from throughtime.exchange.onnx.graph import Array
from throughtime.exchange.packages import require

_FIRST_OPSET = 7  # from here on the recurrent operators have meant the same
_KINDS = "fiub"  # numbers and truth values; no texts


class OnnxError(UserError):
    """A file of ONNX that is damaged, or that has something in it that can't be read."""


@dataclass(frozen=True)
class Node:
    """An operator in a graph.

    Attributes:
        operator: its name.
        inputs, outputs: the names of values; "" for one that is left out.
        attributes: numbers, texts, lists of them, and arrays.
        name: the node's name, "" if it has none.
        number: its place in the graph.
        opset: the version of the operators.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str
    number: int
    opset: int

    def input(self, place: int) -> str:
        """The name of an input, "" if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def error(self, what: str) -> OnnxError:
        """An error about this node."""
        return OnnxError(f"{self.operator} {repr(self.name) if self.name else f'(node {self.number})'}: {what}")


@dataclass(frozen=True)
class OnnxFile:
    """A model.

    Attributes:
        inputs, outputs: the names of what the graph takes and gives.
        nodes: in an order in which each has what it takes.
        constants: the stored arrays by name.
        metadata: what else the file says of itself.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    metadata: Mapping[str, str]


def read_onnx(source: str | os.PathLike[str] | bytes) -> OnnxFile:
    """Reads a model.

    Args:
        source: the file, or what it holds.

    Raises:
        OnnxError: the file is missing, damaged, or holds what can't be read.
    """
    require("onnx")
    if isinstance(source, bytes):
        return _decoded(source, "the model")
    if not isinstance(source, str | os.PathLike):
        raise OnnxError(f"a file of ONNX, or its bytes, is wanted; given {type(source).__name__}.")
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise OnnxError(f"{source} can't be read: {error.strerror}.") from None
    return _decoded(content, str(source))


def _decoded(content: bytes, what: str) -> OnnxFile:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    try:
        return _model(ModelProto.FromString(content), what)
    except (DecodeError, ValueError, TypeError, KeyError, OverflowError) as error:
        # Texts are decoded and arrays are made when they are first asked for, so any of these can come up.
        raise OnnxError(f"{what} is damaged, or is no file of ONNX: {error}.") from None


def _model(proto: Any, what: str) -> OnnxFile:
    graph = proto.graph
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx"))
    if opset is None or not graph.node:
        raise OnnxError(f"{what} is damaged, or is no file of ONNX: it has no graph, or doesn't say of what version.")
    if opset < _FIRST_OPSET:
        raise OnnxError(
            f"{what} is of version {opset} of ONNX's operators; {_FIRST_OPSET} or newer is wanted: convert it with "
            "onnx.version_converter."
        )
    if graph.sparse_initializer:
        raise OnnxError(f"{what} has sparse arrays, which can't be read.")
    constants = {_text(tensor.name): _array(tensor, tensor.name) for tensor in graph.initializer}
    nodes = []
    for number, node in enumerate(graph.node):
        operator, inputs, outputs = _text(node.op_type), tuple(map(_text, node.input)), tuple(map(_text, node.output))
        if node.domain not in ("", "ai.onnx"):
            raise OnnxError(f"the operator {operator} is of {node.domain!r}, and only ONNX's own can be read.")
        attributes = {_text(a.name): _attribute(a, operator) for a in node.attribute}
        nodes.append(Node(operator, inputs, outputs, attributes, _text(node.name), number, opset))
    return OnnxFile(
        inputs=tuple(_text(value.name) for value in graph.input if value.name not in constants),
        outputs=tuple(_text(value.name) for value in graph.output),
        nodes=tuple(nodes),
        constants=constants,
        metadata={_text(entry.key): _text(entry.value) for entry in proto.metadata_props},
    )


def _text(given: str | bytes) -> str:
    """A text; what is none comes as bytes."""
    if isinstance(given, bytes):
        raise ValueError(f"{given!r} is no text")
    return given


def _attribute(proto: Any, operator: str) -> Any:
    from onnx import AttributeProto

    match proto.type:
        case AttributeProto.INT:
            return int(proto.i)
        case AttributeProto.FLOAT:
            return float(proto.f)
        case AttributeProto.STRING:
            return proto.s.decode()
        case AttributeProto.INTS:
            return tuple(map(int, proto.ints))
        case AttributeProto.FLOATS:
            return tuple(map(float, proto.floats))
        case AttributeProto.STRINGS:
            return tuple(text.decode() for text in proto.strings)
        case AttributeProto.TENSOR:
            return _array(proto.t, f"{operator}'s {proto.name}")
    raise OnnxError(f"{operator}: its attribute {proto.name!r} is of a kind that can't be read.")


def _array(proto: Any, name: str) -> Array:
    from onnx import TensorProto, helper, numpy_helper

    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        raise OnnxError(f"the array {name!r} is kept in another file, and only what is in this one is read.")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
    if dtype.kind not in _KINDS or dtype == np.float16:
        raise OnnxError(f"the array {name!r} is of {dtype}; float32, float64, whole numbers and truth values are read.")
    if proto.raw_data and len(proto.raw_data) != math.prod(proto.dims) * dtype.itemsize:
        raise ValueError(f"the array {name!r} of the shape {list(proto.dims)} has {len(proto.raw_data)} bytes")
    array: Array = numpy_helper.to_array(proto)
    return array

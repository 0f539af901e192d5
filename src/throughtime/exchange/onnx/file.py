"""Parse an ONNX file into plain data. Damaged, malicious or unsupported files raise UserError."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from throughtime.errors import UserError
from throughtime.exchange.onnx.arrays import read_array
from throughtime.exchange.onnx.graph import Array
from throughtime.packages import require

_FIRST_OPSET = 7  # recurrent operators have kept their meaning since this version
_BRANCHES = ("then_branch", "else_branch")

# Why an operator is not supported, and what to do instead.
_REFUSED = {
    "DynamicQuantizeLSTM": "its weights are quantized; load the float model that was passed to quantize_dynamic",
    "DynamicQuantizeLinear": "the model is quantized; load the float model that was passed to quantize_dynamic",
    "MatMulInteger": "the model is quantized; load the float model that was passed to quantize_dynamic",
    "Loop": "its recurrence is a general loop; export the layer as an RNN, LSTM or GRU operator",
    "Scan": "its recurrence is a general loop; save throughtime models with throughtime.save, and export "
    "others with an RNN, LSTM or GRU operator",
    "SplitToSequence": "the recurrence is unrolled step by step, as torch.onnx.export(dynamo=True) does with nn.RNN; "
    "export with dynamo=False, or convert the layer itself: throughtime.from_torch(layer)",
    "SequenceAt": "the recurrence is unrolled step by step; export with an RNN, LSTM or GRU operator",
}


class OnnxError(UserError):
    """Raised for an ONNX file that is damaged or contains something unsupported."""


def refusal(operator: str) -> str:
    """Return why an operator is unsupported and what to do instead; empty if unknown."""
    return _REFUSED.get(operator, "")


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    Attributes:
        operator: the name of its operator.
        inputs, outputs: the names of its values; "" for an omitted one.
        attributes: numbers, strings, tuples of either, and arrays.
        name: the node's name, "" if it has none.
        number: the node's position in the graph.
        opset: the version of the operator set.
        branches: the graphs of an `If`: for true, then for false.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str
    number: int
    opset: int
    branches: tuple[Block, ...] = ()

    def input(self, place: int) -> str:
        """Return the name of an input, "" if it is omitted."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def error(self, what: str) -> OnnxError:
        """Create an error about this node."""
        return OnnxError(f"{self.operator} {repr(self.name) if self.name else f'(node {self.number})'}: {what}")


@dataclass(frozen=True)
class Block:
    """A graph of nodes.

    Attributes:
        outputs: the names of the graph's results.
        nodes: the nodes, in topological order.
        constants: the stored arrays, by name.
    """

    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model.

    Attributes:
        inputs: the names of the graph's inputs without a stored value.
        graph: the graph.
        shapes: the declared shapes of the inputs; None for an unspecified size.
        types: the declared types of the inputs, as ONNX's type numbers.
        metadata: the file's metadata.
    """

    inputs: tuple[str, ...]
    graph: Block
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_onnx(source: Any) -> OnnxFile:
    """Read an ONNX model.

    Args:
        source: a path, the bytes of a file, or an `onnx.ModelProto`.

    Raises:
        OnnxError: if the file is missing or damaged, or contains something unsupported.
    """
    require("onnx")
    from onnx import ModelProto

    if isinstance(source, ModelProto):
        return _decoded(lambda: source, "the model", None)
    if isinstance(source, bytes):
        return _decoded(lambda: ModelProto.FromString(source), "the model", None)
    if not isinstance(source, str | os.PathLike):
        raise OnnxError(
            f"expected the path of an ONNX file, its bytes or an onnx.ModelProto, got {type(source).__name__}"
        )
    path = Path(source)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OnnxError(f"{source} can't be read: {error.strerror}") from None
    return _decoded(lambda: ModelProto.FromString(content), str(source), path.parent)


def _decoded(proto: Callable[[], Any], what: str, folder: Path | None) -> OnnxFile:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return _model(proto(), what, folder)
    except (DecodeError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        # Strings are decoded and arrays are built lazily, so any of these errors can be raised here.
        raise OnnxError(f"{what} is damaged or is not an ONNX file: {error}") from None


def _model(proto: Any, what: str, folder: Path | None) -> OnnxFile:
    graph = proto.graph
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx"))
    if opset is None or not graph.node:
        raise OnnxError(f"{what} is damaged or is not an ONNX file: it has no graph or no version")
    if opset < _FIRST_OPSET:
        raise OnnxError(
            f"{what} uses version {opset} of ONNX's operators; {_FIRST_OPSET} or newer is required: convert it with "
            "onnx.version_converter"
        )
    if proto.functions:
        raise OnnxError(
            f"{what} defines its own functions ({', '.join(_text(f.name) for f in proto.functions)}), which are not "
            "supported: expand them with onnx.inliner.inline_local_functions"
        )
    block = _block(graph, what, opset, folder)
    taken = [value for value in graph.input if value.name not in block.constants]
    return OnnxFile(
        inputs=tuple(_text(value.name) for value in taken),
        graph=block,
        shapes={value.name: _shape(value) for value in taken if value.type.tensor_type.HasField("shape")},
        types={value.name: int(value.type.tensor_type.elem_type) for value in taken},
        metadata={_text(entry.key): _text(entry.value) for entry in proto.metadata_props},
    )


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(
        int(size.dim_value) if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim
    )


def _block(graph: Any, what: str, opset: int, folder: Path | None) -> Block:
    if graph.sparse_initializer:
        raise OnnxError(f"{what} has sparse arrays, which are not supported")
    constants = {_text(tensor.name): read_array(tensor, tensor.name, folder) for tensor in graph.initializer}
    nodes = tuple(_node(node, number, what, opset, folder) for number, node in enumerate(graph.node))
    return Block(tuple(_text(value.name) for value in graph.output), nodes, constants)


def _node(proto: Any, number: int, what: str, opset: int, folder: Path | None) -> Node:
    operator, name = _text(proto.op_type), _text(proto.name)
    inputs, outputs = tuple(map(_text, proto.input)), tuple(map(_text, proto.output))
    if proto.domain not in ("", "ai.onnx"):
        why = f": {refusal(operator)}" if refusal(operator) else ""
        raise OnnxError(f"operator {operator} is from {proto.domain!r}; only ONNX's own are supported{why}")
    if refusal(operator):  # before reading its graphs
        raise Node(operator, inputs, outputs, {}, name, number, opset).error(f"unsupported: {refusal(operator)}")
    attributes, branches = {}, []
    for a in proto.attribute:
        if operator == "If" and a.name in _BRANCHES:
            branches.append((_text(a.name), _block(a.g, what, opset, folder)))
        else:
            attributes[_text(a.name)] = _attribute(a, operator, folder)
    found = Node(
        operator,
        inputs,
        outputs,
        attributes,
        name,
        number,
        opset,
        tuple(dict(branches)[b] for b in _BRANCHES if b in dict(branches)),
    )
    if operator == "If" and len(found.branches) != 2:
        raise found.error("then_branch or else_branch is missing")
    return found


def _text(given: str | bytes) -> str:
    """Check that a string is text: protobuf returns invalid UTF-8 as bytes."""
    if isinstance(given, bytes):
        raise ValueError(f"{given!r} is not text")
    return given


def _attribute(proto: Any, operator: str, folder: Path | None) -> Any:
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
            return read_array(proto.t, f"{operator}'s {proto.name}", folder)
    raise OnnxError(f"{operator}: attribute {proto.name!r} has an unsupported type")

"""What the operators that stand around recurrent layers mean in torch. One table; what is not in it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.exchange.onnx.file import Node

Meaning = Callable[..., Tensor | tuple[Tensor, ...]]

# How many elements a result may have. In a chain of layers no result is larger than what is given times what is
# stored; a file in which one is was made to exhaust the memory.
size_limit: ContextVar[int] = ContextVar("size limit")

# ONNX's numbers of the types that are read.
_TYPES = {1: torch.float32, 11: torch.float64, 6: torch.int32, 7: torch.int64, 9: torch.bool}


def _bounded(*shape: int) -> None:
    if math.prod(shape) > size_limit.get():
        raise ValueError(f"a result of the shape {list(shape)} is too large")


def _together(*shapes: Sequence[int]) -> Sequence[int]:
    """The shape that these come to beside one another, if it is not too large."""
    shape: Sequence[int] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    _bounded(*shape)
    return shape


def _numbers(node: Node, name: str, given: Tensor | None) -> list[int] | None:
    """Whole numbers that are an attribute in old versions of an operator and an input in new ones."""
    if given is not None:
        return [int(n) for n in given.reshape(-1).tolist()]
    found = node.attributes.get(name)
    return None if found is None else list(found)


def _constant(node: Node) -> Tensor:
    for name, value in node.attributes.items():
        if name == "value":
            return torch.from_numpy(value.copy())
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
    raise ValueError("it has no number")


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.attributes.get("perm") or tuple(reversed(range(x.dim()))))


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _numbers(node, "axes", axes)
    if given is None:
        return x.squeeze()
    for axis in given:
        if x.shape[axis] != 1:
            raise ValueError(f"axis {axis} of {list(x.shape)} is not 1")
    return x.squeeze(tuple(given))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _numbers(node, "axes", axes) or []
    rank = x.dim() + len(given)
    for axis in sorted(a % rank for a in given):
        x = x.unsqueeze(axis)
    return x


def _reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    wanted = _numbers(node, "shape", shape) or []
    if not node.attributes.get("allowzero"):
        wanted = [x.shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else axis + x.dim()]), -1)


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 0) % x.dim()
    rows = x.shape[axis]
    indices = indices.to(x.device, torch.int64)
    if indices.numel() and not -rows <= int(indices.min()) <= int(indices.max()) < rows:
        raise ValueError(f"an index is outside of the {rows} rows")
    _bounded(indices.numel(), x.numel() // max(rows, 1))
    taken = x.index_select(axis, (indices % rows).reshape(-1))
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = _numbers(node, "starts", starts) or [], _numbers(node, "ends", ends) or []
    along = _numbers(node, "axes", axes) or list(range(len(first)))
    by = _numbers(node, "steps", steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        if step == 1:
            size = x.shape[axis]
            start, end = (min(max(n + size if n < 0 else n, 0), size) for n in (start, end))
            x = x.narrow(axis, start, max(end - start, 0))
        else:
            kept = range(x.shape[axis])[slice(start, None if end < -x.shape[axis] else end, step)]
            x = x.index_select(axis, torch.tensor(kept, device=x.device, dtype=torch.int64))
    return x


def _concat(node: Node, *values: Tensor) -> Tensor:
    _bounded(sum(v.numel() for v in values))
    return torch.cat(values, node.attributes["axis"])


def _split(node: Node, x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, parts = node.attributes.get("axis", 0), len(node.outputs)
    sizes = _numbers(node, "split", split)
    return torch.split(x, sizes or -(-x.shape[axis] // parts), axis)


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.attributes.get("start", 0) : node.attributes.get("end")], dtype=torch.int64)


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    sizes = [int(n) for n in shape.tolist()]
    _bounded(*sizes)
    value = node.attributes.get("value")
    like = torch.zeros(1) if value is None else torch.from_numpy(value.copy())
    return like.reshape(()).expand(sizes)


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(_together(x.shape, [int(n) for n in shape.tolist()]))


def _cast(node: Node, x: Tensor) -> Tensor:
    if node.attributes["to"] not in _TYPES:
        raise ValueError("it casts to a type that can't be read")
    return x.to(_TYPES[node.attributes["to"]])


def _pointwise(function: Callable[[Tensor, Tensor], Tensor]) -> Meaning:
    def meaning(node: Node, a: Tensor, b: Tensor) -> Tensor:
        _together(a.shape, b.shape)
        return function(a, b)

    return meaning


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    _bounded(a.numel() // max(a.shape[-1], 1), b.numel() // max(b.shape[-2 if b.dim() > 1 else 0], 1))
    return a @ b


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if node.attributes.get("transA") else a
    b = b.T if node.attributes.get("transB") else b
    y: Tensor = node.attributes.get("alpha", 1.0) * _matmul(node, a, b)
    return y if c is None else y + node.attributes.get("beta", 1.0) * c


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Meaning:
    def meaning(node: Node, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return function(x, node.attributes.get("axis", -1))
        # over all the axes from this one on
        return function(x.flatten(node.attributes.get("axis", 1)), -1).reshape(x.shape)

    return meaning


MEANINGS: dict[str, Meaning] = {
    "Constant": _constant,
    # shapes
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "Shape": _shape,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    # what changes nothing when a model is in use
    "Identity": lambda node, x: x,
    "Dropout": lambda node, x, *rest: x,
    "Cast": _cast,
    # heads
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Add": _pointwise(torch.add),
    "Sub": _pointwise(torch.sub),
    "Mul": _pointwise(torch.mul),
    "Relu": lambda node, x: torch.relu(x),
    "Tanh": lambda node, x: torch.tanh(x),
    "Sigmoid": lambda node, x: torch.sigmoid(x),
    "Softmax": _softmax(functional.softmax),
    "LogSoftmax": _softmax(functional.log_softmax),
}

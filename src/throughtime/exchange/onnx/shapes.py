"""ONNX's operators that move, select or repeat elements, in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.exchange.onnx.bounds import Meaning, bounded, broadcast, integers
from throughtime.exchange.onnx.file import Node

# ONNX's type numbers that Cast supports.
_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}
_PADDING = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _constant(node: Node) -> Tensor:
    for name, value in node.attributes.items():
        if name == "value":
            return torch.from_numpy(value.copy())
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
    raise ValueError("the constant has no value")


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.attributes.get("perm") or tuple(reversed(range(x.dim()))))


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = integers(node, "axes", axes)
    if given is None:
        return x.squeeze()
    for axis in given:
        if x.shape[axis] != 1:
            raise ValueError(f"axis {axis} of shape {list(x.shape)} does not have size 1")
    return x.squeeze(tuple(given))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = integers(node, "axes", axes) or []
    rank = x.dim() + len(given)
    for axis in sorted(a % rank for a in given):
        x = x.unsqueeze(axis)
    return x


def _reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    wanted = integers(node, "shape", shape) or []
    if not node.attributes.get("allowzero"):
        wanted = [x.shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else axis + x.dim()]), -1)


def _indices(indices: Tensor, rows: int, device: torch.device) -> Tensor:
    """Convert negative indices along an axis to non-negative ones, and check that all are in range."""
    indices = indices.to(device, torch.int64)
    if indices.numel() and not -rows <= int(indices.min()) <= int(indices.max()) < rows:
        raise ValueError(f"an index is out of range for {rows} rows")
    return indices % rows if rows else indices


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 0) % x.dim()
    rows = x.shape[axis]
    indices = _indices(indices, rows, x.device)
    bounded(indices.numel(), x.numel() // max(rows, 1))
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 0) % x.dim()
    return x.gather(axis, _indices(indices, x.shape[axis], x.device))


def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    batch, depth = node.attributes.get("batch_dims", 0), indices.shape[-1]
    if batch < 0 or x.shape[:batch] != indices.shape[:batch] or batch + depth > x.dim():
        raise ValueError(f"indices of shape {list(indices.shape)} do not fit {list(x.shape)} with batch_dims {batch}")
    bounded(indices.numel() // max(depth, 1), *x.shape[batch + depth :])
    rows = torch.arange(math.prod(x.shape[:batch]), device=x.device)
    flat = indices.reshape(len(rows), -1, depth)
    where = [_indices(flat[..., k], x.shape[batch + k], x.device) for k in range(depth)]
    taken = x.reshape(len(rows), *x.shape[batch:])[(rows[:, None].expand(flat.shape[:2]), *where)]
    return taken.reshape(*indices.shape[:-1], *x.shape[batch + depth :])


def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = integers(node, "starts", starts) or [], integers(node, "ends", ends) or []
    along = integers(node, "axes", axes) or list(range(len(first)))
    by = integers(node, "steps", steps) or [1] * len(first)
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
    bounded(sum(v.numel() for v in values))
    return torch.cat(values, node.attributes["axis"])


def _split(node: Node, x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, parts = node.attributes.get("axis", 0), len(node.outputs)
    sizes = integers(node, "split", split)
    return torch.split(x, sizes or -(-x.shape[axis] // parts), axis)


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.attributes.get("start", 0) : node.attributes.get("end")], dtype=torch.int64)


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    sizes = [int(n) for n in shape.tolist()]
    bounded(*sizes)
    value = node.attributes.get("value")
    like = torch.zeros(1) if value is None else torch.from_numpy(value.copy())
    return like.reshape(()).expand(sizes)


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(broadcast(x.shape, [int(n) for n in shape.tolist()]))


def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    times = [int(n) for n in repeats.tolist()]
    if len(times) != x.dim() or min(times, default=0) < 0:
        raise ValueError(f"repeats {times} must have one number for each axis of {list(x.shape)}")
    bounded(x.numel(), *times)
    return x.repeat(times)


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    given = integers(node, "pads", pads) or []
    along = [a % x.dim() for a in (integers(node, "axes", axes) or range(x.dim()))]
    if len(given) != 2 * len(along):
        raise ValueError(f"expected {2 * len(along)} pads, got {len(given)}")
    before, after = ([0] * x.dim() for _ in range(2))
    for k, axis in enumerate(along):
        before[axis], after[axis] = given[k], given[k + len(along)]
    bounded(*(max(n + b + a, 0) for n, b, a in zip(x.shape, before, after, strict=True)))
    mode = node.attributes.get("mode", "constant")
    if mode not in _PADDING:
        raise ValueError(f"mode must be one of {', '.join(_PADDING)}, got {mode!r}")
    if mode == "constant":
        fill = node.attributes.get("value", 0.0) if value is None else value.item()
        pairs = [n for b, a in zip(reversed(before), reversed(after), strict=True) for n in (b, a)]
        return functional.pad(x, pairs, value=fill)
    for axis, (b, a) in enumerate(zip(before, after, strict=True)):  # torch supports these modes only for the last axes
        if b or a:
            rows = x.movedim(axis, -1)
            flat = functional.pad(rows.reshape(1, -1, rows.shape[-1]), (b, a), _PADDING[mode])
            x = flat.reshape(*rows.shape[:-1], -1).movedim(-1, axis)
    return x


def _cast(node: Node, x: Tensor) -> Tensor:
    if node.attributes["to"] not in _TYPES:
        raise ValueError(f"casts to ONNX's type {node.attributes['to']} are not supported")
    return x.to(_TYPES[node.attributes["to"]])


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = (t.item() for t in (start, limit, delta))
    count = max(math.ceil((last - first) / step), 0)
    bounded(count)
    return (torch.arange(count, device=start.device) * step + first).to(start.dtype)


def _one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    classes, axis = int(depth.item()), node.attributes.get("axis", -1)
    if classes < 1:
        raise ValueError(f"depth must be positive, got {classes}")
    bounded(indices.numel(), classes)
    indices = indices.to(torch.int64)
    wrapped = torch.where(indices < 0, indices + classes, indices)
    hot = wrapped.unsqueeze(-1) == torch.arange(classes, device=indices.device)
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


def _reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = node.attributes.get("time_axis", 0), node.attributes.get("batch_axis", 1)
    rows = x.movedim((batch, time), (0, 1))
    steps = torch.arange(rows.shape[1], device=x.device)
    ends = lengths.to(x.device, torch.int64).unsqueeze(1)
    if int(ends.min()) < 0 or int(ends.max()) > rows.shape[1]:
        raise ValueError(f"lengths must be from 0 to {rows.shape[1]}")
    source = torch.where(steps < ends, ends - 1 - steps, steps)
    taken = rows[torch.arange(len(rows), device=x.device).unsqueeze(1), source]
    return taken.movedim((0, 1), (batch, time))


def _trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return x.triu(diagonal) if node.attributes.get("upper", 1) else x.tril(diagonal)


def _dropout(node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> tuple[Tensor, ...]:
    if training is not None and bool(training):
        raise ValueError("the node is in training mode; export the model after model.eval()")
    return x, torch.ones_like(x, dtype=torch.bool)


SHAPES: dict[str, Meaning] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Shape": _shape,
    "Size": lambda node, x: torch.tensor(x.numel()),
    "Identity": lambda node, x: x,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": lambda node, x, like: x.to(like.dtype),
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Trilu": _trilu,
}

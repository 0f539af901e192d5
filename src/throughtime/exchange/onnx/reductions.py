"""ONNX's operators along axes, in torch: reductions, cumulative sums and softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.exchange.onnx.bounds import Meaning, bounded, integers
from throughtime.exchange.onnx.file import Node

Reduction = Callable[[Tensor, list[int]], Tensor]  # takes x and axes; reduced axes keep size 1


def _reduction(function: Reduction) -> Meaning:
    def meaning(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = integers(node, "axes", axes)
        if not given:
            if node.attributes.get("noop_with_empty_axes"):
                return x
            given = list(range(x.dim()))
        along = sorted({a % x.dim() for a in given}) if x.dim() else []
        if along:
            x = function(x, along)
        return x if node.attributes.get("keepdims", 1) else x.squeeze(tuple(along))

    return meaning


def _log_sum(x: Tensor, axes: list[int]) -> Tensor:
    return torch.log(_sum(x, axes))


def _sum(x: Tensor, axes: list[int]) -> Tensor:
    return x.sum(axes, keepdim=True, dtype=x.dtype)


def _product(x: Tensor, axes: list[int]) -> Tensor:
    return reduce(lambda y, axis: y.prod(axis, keepdim=True, dtype=x.dtype), axes, x)


def _arg(function: Callable[..., Tensor]) -> Meaning:
    def meaning(node: Node, x: Tensor) -> Tensor:
        axis = node.attributes.get("axis", 0)
        last = node.attributes.get("select_last_index")
        found = function(x.flip(axis) if last else x, axis, keepdim=True)
        found = x.shape[axis] - 1 - found if last else found
        return found if node.attributes.get("keepdims", 1) else found.squeeze(axis)

    return meaning


def _cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    along = int(axis.item())
    x = x.flip(along) if node.attributes.get("reverse") else x
    y = x.cumsum(along, dtype=x.dtype)
    y = y - x if node.attributes.get("exclusive") else y
    return y.flip(along) if node.attributes.get("reverse") else y


def _top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, ...]:
    count = int(node.attributes["k"] if k is None else k.item())
    axis, largest = node.attributes.get("axis", -1), bool(node.attributes.get("largest", 1))
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"k must be between 0 and {x.shape[axis]}, got {count}")
    values, indices = x.sort(
        dim=axis, descending=largest, stable=True
    )  # keeps the order of equal values, unlike torch.topk
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Meaning:
    def meaning(node: Node, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return function(x, node.attributes.get("axis", -1))
        # flatten the axes from `axis` on into one
        return function(x.flatten(node.attributes.get("axis", 1)), -1).reshape(x.shape)

    return meaning


def _hardmax(x: Tensor, axis: int) -> Tensor:
    bounded(x.numel())
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _normalized(node: Node, x: Tensor) -> Tensor:
    axis, p = node.attributes.get("axis", -1), node.attributes.get("p", 2)
    norm: Tensor = x.norm(p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


REDUCTIONS: dict[str, Meaning] = {
    "ReduceSum": _reduction(_sum),
    "ReduceMean": _reduction(lambda x, axes: x.mean(axes, keepdim=True)),
    "ReduceMax": _reduction(lambda x, axes: x.amax(axes, keepdim=True)),
    "ReduceMin": _reduction(lambda x, axes: x.amin(axes, keepdim=True)),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda x, axes: _sum(x.abs(), axes)),
    "ReduceL2": _reduction(lambda x, axes: _sum(x * x, axes).sqrt()),
    "ReduceSumSquare": _reduction(lambda x, axes: _sum(x * x, axes)),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(lambda x, axes: x.logsumexp(axes, keepdim=True)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": _cumulative_sum,
    "TopK": _top_k,
    "Softmax": _softmax(functional.softmax),
    "LogSoftmax": _softmax(functional.log_softmax),
    "Hardmax": _softmax(_hardmax),
    "LpNormalization": _normalized,
}

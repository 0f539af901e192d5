"""ONNX's feed-forward layers in torch: matrix products, convolution, pooling and normalization."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.exchange.onnx.bounds import Meaning, bounded
from throughtime.exchange.onnx.file import Node


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    bounded(a.numel() // max(a.shape[-1], 1), b.numel() // max(b.shape[-2 if b.dim() > 1 else 0], 1))
    return a @ b


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if node.attributes.get("transA") else a
    b = b.T if node.attributes.get("transB") else b
    y: Tensor = node.attributes.get("alpha", 1.0) * _matmul(node, a, b)
    return y if c is None else y + node.attributes.get("beta", 1.0) * c


# Windows that slide over all axes except the first two.


def _windowed(
    node: Node, x: Tensor, kernel: list[int], fill: float, channels: int
) -> tuple[Tensor, list[int], list[int]]:
    """Pad an input, and return it with the strides and dilations of a sliding window.

    Args:
        node: the node.
        x: `[B, channels, *sizes]`.
        kernel: the sizes of the window.
        fill: the value of the padding.
        channels: the number of channels of the result.
    """
    rank = x.dim() - 2
    if rank not in (1, 2, 3) or len(kernel) != rank:
        raise ValueError(f"a window of {kernel} does not fit shape {list(x.shape)}")
    strides = list(node.attributes.get("strides") or [1] * rank)
    dilations = list(node.attributes.get("dilations") or [1] * rank)
    if len(strides) != rank or len(dilations) != rank or min(kernel + strides + dilations) < 1:
        raise ValueError(f"strides {strides} and dilations {dilations} do not fit a window of {kernel}")
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads = _pads(node, list(x.shape[2:]), reach, strides)
    padded = [n + b + a for n, b, a in zip(x.shape[2:], pads[:rank], pads[rank:], strict=True)]
    bounded(*x.shape[:2], *padded)
    bounded(x.shape[0], channels, *(max(n - r, 0) // s + 1 for n, r, s in zip(padded, reach, strides, strict=True)))
    pairs = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[axis + rank])]
    return (functional.pad(x, pairs, value=fill) if any(pairs) else x), strides, dilations


def _pads(node: Node, sizes: list[int], reach: list[int], strides: list[int]) -> list[int]:
    """Return the padding before each axis, followed by the padding after each axis."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return [0] * (2 * len(sizes))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        extra = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in zip(sizes, reach, strides, strict=True)]
        less, more = [n // 2 for n in extra], [n - n // 2 for n in extra]
        return less + more if mode == "SAME_UPPER" else more + less
    pads = list(node.attributes.get("pads") or [0] * (2 * len(sizes)))
    if mode != "NOTSET" or len(pads) != 2 * len(sizes) or min(pads) < 0:
        raise ValueError(f"padding {pads} with auto_pad {mode!r} does not fit {len(sizes)} axes")
    return pads


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, strides, dilations = _windowed(node, x, list(weight.shape[2:]), 0.0, weight.shape[0])
    function: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.dim() - 3]
    found: Tensor = function(x, weight, bias, strides, 0, dilations, node.attributes.get("group", 1))
    return found


def _max_pool(node: Node, x: Tensor) -> Tensor:
    _require_floor(node)
    kernel = list(node.attributes["kernel_shape"])
    x, strides, dilations = _windowed(node, x, kernel, -math.inf, x.shape[1])
    function: Any = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
    found: Tensor = function(x, kernel, strides, 0, dilations)
    return found


def _average_pool(node: Node, x: Tensor) -> Tensor:
    _require_floor(node)
    kernel = list(node.attributes["kernel_shape"])
    padded, strides, dilations = _windowed(node, x, kernel, 0.0, x.shape[1])
    if set(dilations) != {1}:
        raise ValueError("dilations must be 1")
    function: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1]
    sums: Tensor = function(padded, kernel, strides)
    if node.attributes.get("count_include_pad") or padded is x:
        return sums
    counted, *_ = _windowed(node, torch.ones_like(x), kernel, 0.0, x.shape[1])
    found: Tensor = sums / function(counted, kernel, strides)
    return found


def _require_floor(node: Node) -> None:
    if node.attributes.get("ceil_mode") or len([name for name in node.outputs if name]) > 1:
        raise ValueError("ceil_mode and pooling indices are not supported")


def _over_sizes(function: Callable[[Tensor, list[int]], Tensor]) -> Meaning:
    return lambda node, x: function(x, list(range(2, x.dim())))


# Normalization.


def _of_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))


def _batch_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.attributes.get("training_mode"):
        raise ValueError("the node is in training mode; export the model after model.eval()")
    return functional.batch_norm(x, mean, variance, scale, bias, eps=node.attributes.get("epsilon", 1e-5))


def _instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    y = functional.instance_norm(x, eps=node.attributes.get("epsilon", 1e-5))
    return y * _of_channels(scale, x) + _of_channels(bias, x)


def _group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.attributes["num_groups"]
    y = functional.group_norm(x, groups, eps=node.attributes.get("epsilon", 1e-5))
    if scale.numel() != x.shape[1]:  # one per group before version 21
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return y * _of_channels(scale, x) + _of_channels(bias, x)


def _layer_normalization(
    node: Node, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, ...]:
    axes = list(range(node.attributes.get("axis", -1) % x.dim(), x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = ((x - mean).square().mean(axes, keepdim=True) + node.attributes.get("epsilon", 1e-5)).rsqrt()
    return _scaled((x - mean) * inverse, scale, bias), mean, inverse


def _rms_normalization(node: Node, x: Tensor, scale: Tensor | None = None) -> Tensor:
    axes = list(range(node.attributes.get("axis", -1) % x.dim(), x.dim()))
    inverse = (x.square().mean(axes, keepdim=True) + node.attributes.get("epsilon", 1e-5)).rsqrt()
    return _scaled(x * inverse, scale, None)


def _scaled(x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    for values in (scale, bias):
        if values is not None and torch.broadcast_shapes(x.shape, values.shape) != x.shape:  # type: ignore[no-untyped-call]
            raise ValueError(f"a scale or bias of shape {list(values.shape)} does not fit {list(x.shape)}")
    y = x if scale is None else x * scale
    return y if bias is None else y + bias


FEEDFORWARD: dict[str, Meaning] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalMaxPool": _over_sizes(lambda x, axes: x.amax(axes, keepdim=True)),
    "GlobalAveragePool": _over_sizes(lambda x, axes: x.mean(axes, keepdim=True)),
    "BatchNormalization": _batch_normalization,
    "InstanceNormalization": _instance_normalization,
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
}

# Operator inputs that are statistics, not weights; training must not change them.
STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}

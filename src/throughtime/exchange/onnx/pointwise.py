"""ONNX's pointwise operators, in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.exchange.onnx.bounds import Meaning, broadcast
from throughtime.exchange.onnx.file import Node


def _of_one(function: Callable[[Tensor], Tensor]) -> Meaning:
    return lambda node, x: function(x)


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Meaning:
    def meaning(node: Node, a: Tensor, b: Tensor) -> Tensor:
        broadcast(a.shape, b.shape)
        return function(a, b)

    return meaning


def _of_any(function: Callable[[Tensor, Tensor], Tensor]) -> Meaning:
    def meaning(node: Node, *values: Tensor) -> Tensor:
        broadcast(*(v.shape for v in values))
        return reduce(function, values)

    return meaning


def _with_alpha(function: Callable[[Tensor, float], Tensor], default: float) -> Meaning:
    return lambda node, x: function(x, node.attributes.get("alpha", default))


def _divided(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    broadcast(a.shape, b.shape)
    return torch.fmod(a, b) if node.attributes.get("fmod") else torch.remainder(a, b)


def _mean(node: Node, *values: Tensor) -> Tensor:
    broadcast(*(v.shape for v in values))
    return reduce(torch.add, values) / len(values)


def _where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    broadcast(condition.shape, a.shape, b.shape)
    return torch.where(condition, a, b)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    minimum = node.attributes.get("min", -math.inf) if low is None else low.item()
    maximum = node.attributes.get("max", math.inf) if high is None else high.item()
    if minimum == -math.inf and maximum == math.inf:
        return x
    return x.clamp(None if minimum == -math.inf else minimum, None if maximum == math.inf else maximum)


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    broadcast(x.shape, slope.shape)
    return torch.where(x < 0, slope * x, x)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.attributes.get("approximate", "none"))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = (float(node.attributes.get(n, default)) for n, default in (("alpha", 0.2), ("beta", 0.5)))
    return (x * alpha + beta).clamp(0, 1)


def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = (
        float(node.attributes.get(n, default)) for n, default in (("alpha", 1.6732632), ("gamma", 1.050701))
    )
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(float(node.attributes.get("alpha", 1.0)) * x)


POINTWISE: dict[str, Meaning] = {
    "Add": _of_two(torch.add),
    "Sub": _of_two(torch.sub),
    "Mul": _of_two(torch.mul),
    "Div": _of_two(_divided),
    "Pow": _of_two(lambda a, b: torch.pow(a, b).to(a.dtype)),
    "Mod": _mod,
    "Sum": _of_any(torch.add),
    "Mean": _mean,
    "Min": _of_any(torch.minimum),
    "Max": _of_any(torch.maximum),
    "Neg": _of_one(torch.neg),
    "Abs": _of_one(torch.abs),
    "Sign": _of_one(torch.sign),
    "Sqrt": _of_one(torch.sqrt),
    "Reciprocal": _of_one(torch.reciprocal),
    "Exp": _of_one(torch.exp),
    "Log": _of_one(torch.log),
    "Erf": _of_one(torch.erf),
    "Sin": _of_one(torch.sin),
    "Cos": _of_one(torch.cos),
    "Floor": _of_one(torch.floor),
    "Ceil": _of_one(torch.ceil),
    "Round": _of_one(torch.round),
    "Clip": _clip,
    "Relu": _of_one(torch.relu),
    "LeakyRelu": _with_alpha(functional.leaky_relu, 0.01),
    "PRelu": _prelu,
    "Elu": _with_alpha(functional.elu, 1.0),
    "Celu": _with_alpha(functional.celu, 1.0),
    "Selu": _selu,
    "Gelu": _gelu,
    "Mish": _of_one(functional.mish),
    "Swish": _swish,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of_one(lambda x: x * (x / 6 + 0.5).clamp(0, 1)),
    "ThresholdedRelu": _with_alpha(lambda x, alpha: torch.where(x > alpha, x, torch.zeros_like(x)), 1.0),
    "Softplus": _of_one(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "Softsign": _of_one(functional.softsign),
    "Sigmoid": _of_one(torch.sigmoid),
    "Tanh": _of_one(torch.tanh),
    "Equal": _of_two(torch.eq),
    "Less": _of_two(torch.lt),
    "LessOrEqual": _of_two(torch.le),
    "Greater": _of_two(torch.gt),
    "GreaterOrEqual": _of_two(torch.ge),
    "Not": _of_one(torch.logical_not),
    "And": _of_two(torch.logical_and),
    "Or": _of_two(torch.logical_or),
    "Xor": _of_two(torch.logical_xor),
    "Where": _where,
}

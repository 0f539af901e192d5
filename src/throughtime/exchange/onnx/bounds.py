"""Limit the size of results, so that a hostile file can't exhaust the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from throughtime.exchange.onnx.file import Node

Meaning = Callable[..., Tensor | tuple[Tensor, ...]]

# How many elements a result may have. In a chain of layers no result is larger than the model's input times its
# weights; a file in which one is was made to exhaust the memory.
size_limit: ContextVar[int] = ContextVar("size limit")


def bounded(*shape: int) -> None:
    """Refuse a shape that is too large."""
    if math.prod(shape) > size_limit.get():
        raise ValueError(f"a result of the shape {list(shape)} is too large")


def broadcast(*shapes: Sequence[int]) -> Sequence[int]:
    """The shape that these broadcast to, if it is not too large."""
    shape: Sequence[int] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    bounded(*shape)
    return shape


def integers(node: Node, name: str, given: Tensor | None) -> list[int] | None:
    """Integers that are an attribute in old versions of an operator and an input in new ones."""
    if given is not None:
        return [int(n) for n in given.reshape(-1).tolist()]
    found = node.attributes.get(name)
    return None if found is None else list(found)

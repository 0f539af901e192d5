"""Limit the size of results, so that a malicious file can't exhaust memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from throughtime.exchange.onnx.file import Node

Meaning = Callable[..., Tensor | tuple[Tensor, ...]]

# The maximum number of elements of a result. In a chain of layers, no result is larger than the model's input times
# its weights; larger results indicate a malicious file.
size_limit: ContextVar[int] = ContextVar("size limit")


def bounded(*shape: int) -> None:
    """Raise ValueError if a shape is too large."""
    if math.prod(shape) > size_limit.get():
        raise ValueError(f"a result of shape {list(shape)} is too large")


def broadcast(*shapes: Sequence[int]) -> Sequence[int]:
    """Return the shape that the given shapes broadcast to; raise ValueError if it is too large."""
    shape: Sequence[int] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    bounded(*shape)
    return shape


def integers(node: Node, name: str, given: Tensor | None) -> list[int] | None:
    """Read integers that are an attribute in old versions of an operator and an input in new ones."""
    if given is not None:
        return [int(n) for n in given.reshape(-1).tolist()]
    found = node.attributes.get(name)
    return None if found is None else list(found)

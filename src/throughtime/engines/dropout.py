"""Dropout on the native engine; a seed determines the mask, so no mask is saved for backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from throughtime.engines.capture import is_plain
from throughtime.engines.native import dropout as native_dropout
from throughtime.engines.operator import library


def scale_of(dropout: float) -> float:
    """Return the factor for elements that are not dropped, which preserves the mean."""
    return 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0


class SeededDropout(torch.autograd.Function):
    """Dropout with a mask determined by a seed. The map is linear and diagonal, so it is its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: int, dropout: float) -> Tensor:
        """Drop elements of x with probability `dropout` and scale the others."""
        ctx.settings, ctx.shape = (seed, dropout), x.shape
        return _dropout(x, seed, dropout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Drop the same elements of the gradient."""
        if not is_plain(gradient):  # for example batched; the engine can't read it
            return gradient * _dropout(torch.ones(ctx.shape, dtype=gradient.dtype), *ctx.settings), None, None
        return SeededDropout.apply(gradient, *ctx.settings), None, None  # type: ignore[no-untyped-call]


def _dropout(x: Tensor, seed: Tensor | int, dropout: float) -> Tensor:
    found: Tensor = native_dropout(x, 1.0 - dropout, scale_of(dropout), int(seed))
    return found


# The same as an operator for captured graphs, in which the seed is drawn when the graph runs.


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    _, seed, ctx.dropout = inputs
    ctx.save_for_backward(seed)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (seed,) = ctx.saved_tensors
    return torch.ops.throughtime.dropout(gradient, seed, ctx.dropout), None, None


library.define("dropout(Tensor x, Tensor seed, float dropout) -> Tensor", tags=[torch.Tag.pt2_compliant_tag])  # type: ignore[no-untyped-call]
library.impl("dropout", _dropout, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("throughtime::dropout", lambda x, seed, dropout: x.new_empty(x.shape), lib=library)
torch.library.register_autograd("throughtime::dropout", _backward, setup_context=_keep, lib=library)

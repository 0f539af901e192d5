"""Dropout as the native engine does it: a seed tells what is kept, so nothing is put by for backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from throughtime.engines.capture import is_plain
from throughtime.engines.native import thinned
from throughtime.engines.operator import library


def scale_of(dropout: float) -> float:
    """What is not dropped is multiplied by this, which keeps the mean."""
    return 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0


class Thinned(torch.autograd.Function):
    """Dropout by a seed; its derivatives of every order are itself, as that of a diagonal matrix is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: int, dropout: float) -> Tensor:
        """Drops elements of x with the probability `dropout`, and scales the others."""
        ctx.told, ctx.shape = (seed, dropout), x.shape
        return _thinned(x, seed, dropout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Drops the same elements of the gradient."""
        if not is_plain(gradient):  # batched, say: the engine has no memory to read
            return gradient * _thinned(torch.ones(ctx.shape, dtype=gradient.dtype), *ctx.told), None, None
        return Thinned.apply(gradient, *ctx.told), None, None  # type: ignore[no-untyped-call]


def _thinned(x: Tensor, seed: Tensor | int, dropout: float) -> Tensor:
    found: Tensor = thinned(x, 1.0 - dropout, scale_of(dropout), int(seed))
    return found


# The same for a graph that is being captured, in which the seed is drawn when it runs.


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    _, seed, ctx.dropout = inputs
    ctx.save_for_backward(seed)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (seed,) = ctx.saved_tensors
    return torch.ops.throughtime.thinned(gradient, seed, ctx.dropout), None, None


library.define("thinned(Tensor x, Tensor seed, float dropout) -> Tensor", tags=[torch.Tag.pt2_compliant_tag])  # type: ignore[no-untyped-call]
library.impl("thinned", _thinned, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("throughtime::thinned", lambda x, seed, dropout: x.new_empty(x.shape), lib=library)
torch.library.register_autograd("throughtime::thinned", _backward, setup_context=_keep, lib=library)

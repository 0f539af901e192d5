"""Support batched cotangents (`is_grads_batched`, `jacobian(vectorize=True)`), with a gradient run for each element."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_Optional = Sequence[Tensor | None]


def is_batched(cotangents: _Optional) -> bool:
    """Return whether a cotangent is batched by `torch.autograd.grad(..., is_grads_batched=True)`."""
    return any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in cotangents)


def one_by_one(backward: Callable[[_Optional], _Optional], cotangents: _Optional) -> list[Tensor | None]:
    """Run a backward function once for each element of a batch of cotangents.

    Args:
        backward: the backward function, from plain cotangents to gradients.
        cotangents: the cotangents, at least one of them batched.

    Returns:
        The batched gradients.
    """
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    plain = [None if g is None else torch._remove_batch_dim(g, level, 1, 0) for g in cotangents]
    count = max(len(g) for g in plain if g is not None)
    found = [backward([None if g is None else g[k if len(g) > 1 else 0] for g in plain]) for k in range(count)]
    gradients: list[Tensor | None] = []
    for of_each in zip(*found, strict=True):
        there = [g for g in of_each if g is not None]  # all or none, as every run computes the same gradients
        gradients.append(torch._add_batch_dim(torch.stack(there), 0, level) if there else None)
    return gradients

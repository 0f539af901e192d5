"""A fused softmax layer and cross-entropy loss that never stores the probabilities of all steps at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.engines.capture import needs_traceable

# A chunk's logits fit in the CPU's last-level cache; larger chunks only use more memory.
CHUNK_ELEMENTS = 1 << 20


def softmax_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Compute the summed cross-entropy between softmax(weight @ hidden + bias) and the targets.

    The gradients of `hidden`, `weight` and `bias` are computed in the same pass, one chunk of rows at a time, so
    memory grows with the number of rows and the vocabulary size, but not with their product.

    Args:
        hidden: `[rows, width]`.
        weight: `[vocabulary, width]`.
        bias: `[vocabulary]`.
        targets: `[rows]`, ids below the vocabulary size.

    Returns:
        The sum, a scalar, in nats.
    """
    kind = hidden.device.type
    # A sum of thousands of terms would lose all precision in half precision.
    half = hidden.dtype in (torch.float16, torch.bfloat16)
    if half or torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return softmax_loss(hidden.float(), weight.float(), bias.float(), targets)
    if needs_traceable((hidden, weight, bias)):
        return _plain_loss(hidden, weight, bias, targets)
    total: Tensor = _SoftmaxLoss.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return total


def _plain_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(hidden, weight, bias), targets, reduction="sum")


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        total = hidden.new_zeros(())
        d_hidden = torch.empty_like(hidden) if wanted[0] else None  # each row is written once
        d_weight, d_bias = (
            torch.zeros_like(t) if want else None for t, want in ((weight, wanted[1]), (bias, wanted[2]))
        )
        for start in range(0, len(hidden), rows := max(1, CHUNK_ELEMENTS // len(weight))):
            x, y = hidden[start : start + rows], targets[start : start + rows]
            log_probabilities = torch.log_softmax(torch.addmm(bias, x, weight.T), -1)
            of_targets = log_probabilities.gather(1, y[:, None])
            total -= of_targets.sum()
            if not any(wanted):
                continue
            # softmax minus the one-hot target. Calling exp instead would be slow on denormal results.
            d_logits = torch.softmax(log_probabilities, -1)
            d_logits.scatter_add_(1, y[:, None], -torch.ones_like(of_targets))
            if d_hidden is not None:
                torch.mm(d_logits, weight, out=d_hidden[start : start + rows])
            if d_weight is not None:
                d_weight.addmm_(d_logits.T, x)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.gradients = d_hidden, d_weight, d_bias
        return total

    @staticmethod
    def backward(ctx: Any, *of_total: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = of_total
        if torch.is_grad_enabled():  # double backward: the stored gradients have no graph
            hidden, weight, bias, targets = ctx.saved_tensors
            loss = _plain_loss(hidden, weight, bias, targets)
            leaves = [t for t, want in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False) if want]
            found = iter(torch.autograd.grad(loss * scale, leaves, create_graph=True))
            return (*(next(found) if want else None for want in ctx.needs_input_grad[:3]), None)
        return (*(None if g is None else g * scale for g in ctx.gradients), None)

"""Random masks, drawn from torch's generator several times faster than torch's own draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from throughtime.engines.capture import needs_traceable
from throughtime.engines.dropout import SeededDropout, scale_of
from throughtime.engines.native import BUILT

# A probability has 16 bits, so one 64-bit draw serves four elements.
_BITS = 16
_PER_DRAW = 64 // _BITS
_LARGEST = (1 << 63) - 1


def mask(like: Tensor, shape: Sequence[int], probability: float, value: float = 1.0) -> Tensor:
    """Draw a mask of independent elements that are `value` with the given probability, otherwise 0.

    Args:
        like: a tensor with the mask's dtype and device.
        shape: the mask's shape.
        probability: the probability of `value`, from 0 to 1; rounded to 1/65,536.
        value: the value of the elements that are not 0.
    """
    count = 1
    for size in shape:
        count *= size
    draws = torch.randint(-_LARGEST - 1, _LARGEST, ((count + _PER_DRAW - 1) // _PER_DRAW,), device=like.device)
    bits = draws.view(torch.int16)[:count]
    # Comparing and scaling in place in floating point is several times faster than using a boolean mask.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    threshold = (1 << (_BITS - 1)) - round(probability * (1 << _BITS))
    return bits.to(dtype).ge_(threshold).mul_(value).to(like.dtype).view(*shape)


def scaled_mask(like: Tensor, shape: Sequence[int], dropout: float) -> Tensor:
    """Draw a dropout mask: 0 with probability `dropout`, otherwise the value that keeps the mean at 1."""
    return mask(like, shape, 1.0 - dropout, scale_of(dropout))


def dropped(x: Tensor, dropout: float) -> Tensor:
    """Apply dropout (Srivastava et al. 2014): zero elements at random and scale the others up to keep the mean.

    Args:
        x: the input; differentiable.
        dropout: the probability of zeroing an element; x is returned unchanged if 0.
    """
    if dropout == 0:
        return x
    fits = BUILT and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    compiling = torch.compiler.is_compiling()
    if not fits or (not compiling and needs_traceable((x,))):
        return x * scaled_mask(x, x.shape, dropout)
    seed = torch.randint(_LARGEST, ())
    of = torch.ops.throughtime.dropout(x, seed, dropout) if compiling else SeededDropout.apply(x, int(seed), dropout)  # type: ignore[no-untyped-call]
    result: Tensor = of
    return result

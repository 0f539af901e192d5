"""Random masks, drawn from torch's generator at a small part of what its own draws cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from throughtime.engines.capture import needs_traceable
from throughtime.engines.dropout import Thinned, scale_of
from throughtime.engines.native import BUILT

# An element's chance is told by 16 bits, of which one number from the generator gives four.
_BITS = 16
_PER_DRAW = 64 // _BITS
_LARGEST = (1 << 63) - 1


def mask(like: Tensor, shape: Sequence[int], chance: float, value: float = 1.0) -> Tensor:
    """Elements that are `value` with a probability, to 1 in 65536, else 0; each is drawn on its own.

    Args:
        like: a tensor whose type and device the mask has.
        shape: of the mask.
        chance: the probability, 0 to 1.
        value: what is not 0.
    """
    count = 1
    for size in shape:
        count *= size
    draws = torch.randint(-_LARGEST - 1, _LARGEST, ((count + _PER_DRAW - 1) // _PER_DRAW,), device=like.device)
    bits = draws.view(torch.int16)[:count]
    # Comparing and scaling in place, in floating point, is several times quicker than by way of truth values.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    threshold = (1 << (_BITS - 1)) - round(chance * (1 << _BITS))
    return bits.to(dtype).ge_(threshold).mul_(value).to(like.dtype).view(*shape)


def scaled_mask(like: Tensor, shape: Sequence[int], dropout: float) -> Tensor:
    """The mask of a dropout: 0 with that probability, else what keeps the mean at 1."""
    return mask(like, shape, 1.0 - dropout, scale_of(dropout))


def dropped(x: Tensor, dropout: float) -> Tensor:
    """Dropout (Srivastava et al. 2014): elements are 0 with a probability, the others larger by as much.

    Args:
        x: what is thinned out; differentiable.
        dropout: the probability; x itself if 0.
    """
    if dropout == 0:
        return x
    fits = BUILT and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    compiling = torch.compiler.is_compiling()
    if not fits or (not compiling and needs_traceable((x,))):
        return x * scaled_mask(x, x.shape, dropout)
    seed = torch.randint(_LARGEST, ())
    of = torch.ops.throughtime.thinned(x, seed, dropout) if compiling else Thinned.apply(x, int(seed), dropout)  # type: ignore[no-untyped-call]
    result: Tensor = of
    return result

"""Determine how far back a gradient reaches, given its mean norm by lag."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from throughtime.errors import UserError
from throughtime.sight.arrays import Array, as_array
from throughtime.spelling import counted

FALLEN = 0.01  # fraction of the value at lag 0


class Horizon(NamedTuple):
    """The lag at which the gradient has fallen to a fraction, if any.

    Attributes:
        lag: the first lag at which the mean is at most the fraction of its value at lag 0; None if there is none in the
            window.
        window: the largest lag examined.
        fraction: the fraction of the value at lag 0.
        largest: the largest mean relative to lag 0, and `largest_lag`, its lag.
        rate: the factor by which the mean changes per lag, fitted over the lags up to the horizon, or over the second
            half of the window if there is none.
    """

    lag: int | None
    window: int
    fraction: float
    largest: float
    largest_lag: int
    rate: float

    @property
    def grows(self) -> bool:
        """Whether the gradient at the window's end exceeds that at lag 0 and is still growing."""
        return self.lag is None and self.rate > 1 and self.largest > 1

    def __str__(self) -> str:
        if self.lag is not None:
            return counted(self.lag, "step")
        if self.grows:
            return f"grows {self.largest:.3g}-fold by lag {self.largest_lag}"
        return f"more than {counted(self.window, 'step')}"


def horizon(by_lag: Array, fraction: float = FALLEN) -> Horizon:
    """Find the lag at which a gradient has fallen to a fraction of its value at lag 0.

    Hochreiter (1991; also Bengio et al. 1994; Pascanu et al. 2013, arXiv:1211.5063) showed that gradients shrink or
    grow exponentially with the lag.

    Args:
        by_lag: the mean norm of the gradient at each lag from 0 on, `[window + 1]`; NaN where unknown. If it is 0 at
            lag 0, the first nonzero lag is used instead.
        fraction: the fraction left at the horizon.

    Raises:
        UserError: if `by_lag` is empty, all zero or has negative numbers, or `fraction` is not between 0 and 1.
    """
    given = np.asarray(by_lag, np.float64)
    unknown = np.isnan(given)
    # Clip infinities to the largest finite number.
    sizes = as_array(np.where(unknown, 0.0, np.minimum(given, np.finfo(np.float64).max)), "the gradient by lag", "lags")
    if not 0 < fraction < 1:
        raise UserError(f"fraction must be between 0 and 1, got {fraction!r}")
    if (sizes < 0).any() or not (sizes > 0).any():
        raise UserError("the gradient by lag must be nonnegative and not all zero; no gradient reaches the loss here")
    sizes = np.where(unknown, np.nan, sizes)[: int(np.flatnonzero(~unknown)[-1]) + 1]
    first = int(np.argmax(sizes > 0))
    with np.errstate(over="ignore"):
        relative = sizes / sizes[first]
    below = np.flatnonzero(relative[first:] <= fraction)
    lag = int(below[0]) + first if len(below) else None
    top = int(np.nanargmax(relative))
    fitted = np.arange(first, lag + 1) if lag is not None else np.arange(len(sizes) // 2, len(sizes))
    return Horizon(lag, len(sizes) - 1, fraction, float(relative[top]), top, _rate(fitted, sizes[fitted]))


def _rate(lags: Array, sizes: Array) -> float:
    lags, sizes = lags[sizes > 0], sizes[sizes > 0]
    if len(lags) < 2:
        return 0.0 if len(lags) else 1.0
    return float(np.exp(np.polyfit(lags, np.log(sizes), 1)[0]))

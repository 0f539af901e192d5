"""How far back a gradient reaches, from its mean size by lag."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from throughtime.errors import UserError
from throughtime.sight.arrays import Array, as_array

FALLEN = 0.01  # of lag 0


class Horizon(NamedTuple):
    """Where the gradient by lag has fallen, or that it has not.

    Attributes:
        lag: the first lag at which the mean is no more than the fraction of lag 0; None if it is nowhere in the window.
        window: the largest lag that was looked at.
        fraction: of lag 0.
        largest: the largest mean over the one at lag 0, and `largest_lag`, where it is.
        rate: the factor by which the mean changes from one lag to the next, fitted over the lags up to the horizon, or
            over the second half of the window where there is none.
    """

    lag: int | None
    window: int
    fraction: float
    largest: float
    largest_lag: int
    rate: float

    @property
    def grows(self) -> bool:
        """Whether the gradient is larger at the window's end than at lag 0, and still grows there."""
        return self.lag is None and self.rate > 1 and self.largest > 1

    def __str__(self) -> str:
        if self.lag is not None:
            return f"{self.lag} step{'s' if self.lag != 1 else ''}"
        if self.grows:
            return f"grows {self.largest:.3g}-fold by lag {self.largest_lag}"
        return f"more than {self.window} steps"


def horizon(by_lag: Array, fraction: float = FALLEN) -> Horizon:
    """The lag at which a gradient has fallen to a fraction of what it is at lag 0.

    That a gradient falls or grows like a power of the lag is Hochreiter's analysis (1991; Bengio et al. 1994; Pascanu
    et al. 2013, arXiv:1211.5063).

    Args:
        by_lag: the mean size of the gradient at each lag from 0 on, `[window + 1]`; NaN where it is not known. Where it
            is 0 at lag 0, the first lag at which it is not stands for that.
        fraction: what is left at the horizon.

    Raises:
        UserError: if there are no numbers, a negative one, none above 0, or the fraction is not between 0 and 1.
    """
    given = np.asarray(by_lag, np.float64)
    unknown = np.isnan(given)
    # What is larger than any number is taken as the largest.
    sizes = as_array(np.where(unknown, 0.0, np.minimum(given, np.finfo(np.float64).max)), "the gradient by lag", "lags")
    if not 0 < fraction < 1:
        raise UserError(f"the fraction that is left at the horizon is between 0 and 1; given {fraction!r}.")
    if (sizes < 0).any() or not (sizes > 0).any():
        raise UserError("the gradient by lag must be sizes, 0 or more and not all 0: nothing reaches the loss here.")
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

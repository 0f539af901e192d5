"""Detect the season of time series, and measure the error of the seasonal naive forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 1_000_000
"""The number of rows to process at a time."""

SEASONED = 20_000
"""The maximum number of rows, at the end of a series, to search for a season."""

_REPEATS = 0.7  # the maximum ratio of the difference at a season to the difference at half of it
_ABOUT_AS_GOOD = 0.1  # the difference of two such ratios that may be due to noise


def found_season(parts: Sequence[Array], candidates: Sequence[int]) -> int:
    """Return the lag at which values repeat best, among candidates or, if there are none, among lags from 2 to 400.

    Args:
        parts: the values of each series; NaN is ignored.
        candidates: likely lags.

    Returns:
        The lag; without candidates, the shortest of those at which values repeat about equally well. It is 1 if no
        candidate fits into the series or, without candidates, if the difference at the best lag is not at least 30%
        smaller than the difference at half that lag.
    """
    lags = list(candidates) or list(range(2, 401))
    errors, sizes = np.zeros(len(lags)), np.zeros(len(lags))
    for part in parts[:: max(1, len(parts) // 50)]:  # about fifty series are enough
        part = part[-SEASONED:]
        for k, lag in enumerate(lags):
            if len(part) < 3 * lag:
                break
            whole, half = _apart(part, lag), _apart(part, max(1, lag // 2))
            if np.isfinite(whole) and np.isfinite(half):
                errors[k] += whole
                sizes[k] += 1.0 if candidates else half
    ratios = np.divide(errors, sizes, out=np.full(len(lags), np.inf), where=sizes > 0)
    best = int(ratios.argmin())
    if ratios[best] >= (np.inf if candidates else _REPEATS):
        return 1
    if not candidates:
        # Values also repeat after several seasons: take the first of the lags that are about as good as the best.
        first = int((ratios <= min(ratios[best] + _ABOUT_AS_GOOD, _REPEATS)).argmax())
        best = first + int(ratios[first : first + lags[first] // 3 + 1].argmin())
    return lags[best]


def _apart(values: Array, lag: int) -> float:
    """Return the mean absolute difference of values `lag` steps apart, or NaN if there are none."""
    return block_mean(lambda later, earlier: np.abs(later - earlier), values[lag:], values[:-lag])


def block_mean(of: Callable[..., Array], *arrays: Array) -> float:
    """Return the mean of a function of arrays, block by block in double precision; NaN is ignored."""
    total, count = 0.0, 0
    for start in range(0, len(arrays[0]), BLOCK):
        found = of(*(array[start : start + BLOCK].astype(np.float64) for array in arrays))
        present = ~np.isnan(found)
        total += float(found[present].sum())
        count += int(present.sum())
    return total / count if count else np.nan


def seasonal_error(part: Array, season: int, factor: float = 1.0) -> float:
    """Return the mean absolute difference of values a season apart, divided by a factor.

    NaN is ignored. The result is 1 if all differences are 0 or there are none.
    """
    found = _apart(part, season) / factor
    return found if found > 0 else 1.0  # NaN > 0 is False

"""Detect whether other processes or virtual machines are using the processors."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

_PEAK = 0.01  # seconds of arithmetic
_FIRST = 30  # initial measurements, the best of which is the reference
MIN_PEAK, MAX_HANDOVER = 0.9, 2.0  # relative to the best seen


class Look(NamedTuple):
    """The state of the processors at one moment.

    Attributes:
        peak: the arithmetic rate without memory access, in FLOP/s.
        handover: seconds until one thread sees a value that another has written; longer if a host has moved them apart.
    """

    peak: float
    handover: float


class Quiet:
    """Detect whether other processes or virtual machines currently use the processors.

    Args:
        threads: the number of threads that the measurements use.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.best = Look(0.0, math.inf)
        for _ in range(_FIRST):
            self.look()

    def look(self) -> Look:
        """Measure the current state of the processors."""
        now, best = self._measured(), self.best
        # Two threads that share a core have a short handover but low arithmetic rates: ignore their handover.
        if best.peak < MIN_PEAK * now.peak:
            self.best = now
        elif now.peak >= MIN_PEAK * best.peak:
            self.best = Look(max(now.peak, best.peak), min(now.handover, best.handover))
        return now

    def held(self, look: Look) -> bool:
        """Return whether the processors were nearly as fast as in the best measurement so far."""
        return look.peak >= MIN_PEAK * self.best.peak and look.handover <= MAX_HANDOVER * self.best.handover

    def _measured(self) -> Look:
        from throughtime import _native

        return Look(
            _native.fma_peak(self._threads, _PEAK), _native.core_to_core_latency() if self._threads > 1 else 0.0
        )


@cache
def quiet(threads: int) -> Quiet:
    """Return the `Quiet` for this number of threads, which all measurements of the process share."""
    return Quiet(threads)

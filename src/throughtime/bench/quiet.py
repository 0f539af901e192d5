"""Whether the processors are this process's own: on a shared host others take turns on them."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

_PEAK = 0.01  # seconds of multiplying and adding
_FIRST = 30  # looks, before anything is measured, at what the machine can do
LEAST_PEAK, MOST_HANDOVER = 0.9, 2.0  # beside the best that was seen


class Look(NamedTuple):
    """How the processors did at one moment.

    Attributes:
        peak: FLOP a second without touching memory.
        handover: seconds until one thread sees what another has written; more where a host has moved them apart.
    """

    peak: float
    handover: float


class Quiet:
    """Tells the moments in which nobody else took the processors.

    Args:
        threads: how many are to be used.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.best = Look(0.0, math.inf)
        for _ in range(_FIRST):
            self.look()

    def look(self) -> Look:
        """How the processors do now."""
        now, best = self._measured(), self.best
        # Two threads that share a core are close, and slow: what they take is no measure.
        if best.peak < LEAST_PEAK * now.peak:
            self.best = now
        elif now.peak >= LEAST_PEAK * best.peak:
            self.best = Look(max(now.peak, best.peak), min(now.handover, best.handover))
        return now

    def held(self, look: Look) -> bool:
        """Whether the processors did about as well as the best that was seen."""
        return look.peak >= LEAST_PEAK * self.best.peak and look.handover <= MOST_HANDOVER * self.best.handover

    def _measured(self) -> Look:
        from throughtime import _native

        return Look(
            _native.fma_peak(self._threads, _PEAK), _native.core_to_core_latency() if self._threads > 1 else 0.0
        )


@cache
def quiet(threads: int) -> Quiet:
    """The same for all that one process measures."""
    return Quiet(threads)

"""How the threads of torch's own operations wait for work."""

from __future__ import annotations

import os
import sys

# libgomp's own value for programs with more threads than processors; it is 300,000 for others.
_SPINS = "1000"


def sleep_when_idle() -> None:
    """Let idle threads of libgomp, torch's OpenMP library, sleep almost at once instead of spinning for milliseconds.

    On a machine that other programs use too, spinning threads keep the threads that have work off the processors, and a
    training with two threads becomes many times slower. `GOMP_SPINCOUNT` in the environment takes precedence. libgomp
    reads it when torch is loaded, so this has no effect later.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)

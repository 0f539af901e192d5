"""Time the native engine under adverse conditions: threads that share a processor, and denormal numbers.

    python benchmarks/threads.py

prints two slowdowns, each from the fastest of several runs: four threads on one processor against one thread on it
(about 100 if all threads wait at every barrier), and denormal numbers against normal ones (10 or more if denormals
aren't flushed to 0).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from throughtime.cells import gru, lstm
from throughtime.engines.base import Layout, Operands
from throughtime.engines.native import NativeEngine
from throughtime.program.core import Program

ROUNDS = 7


def operands(program: Program, steps: int, rows: int, scale: float = 0.1) -> Operands:
    """Return random operands with standard deviation `scale`."""

    def normal(*shapes: Sequence[int]) -> list[torch.Tensor]:
        return [scale * torch.randn(*shape) for shape in shapes]

    return Operands(
        normal(*((steps, rows, i.width) for i in program.inputs)),
        normal(*((rows, s.width) for s in program.states)),
        normal(*(p.shape for p in program.parameters)),
    )


def seconds(engine: NativeEngine, program: Program, given: Operands, layout: Layout) -> float:
    """Return the time of the fastest run in seconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        engine.run(program, given, layout)
        times.append(time.perf_counter() - start)
    return min(times)


def crowded() -> float:
    """Return the time of four threads on one processor, as a multiple of one thread's."""
    processors = os.sched_getaffinity(0)
    program, layout = gru.program(16, 256), Layout(1000, 1)
    given = operands(program, 1000, 1)
    os.sched_setaffinity(0, {min(processors)})
    try:
        one, four = (seconds(NativeEngine(threads), program, given, layout) for threads in (1, 4))
    finally:
        os.sched_setaffinity(0, processors)
    return four / one


def denormal() -> float:
    """Return the time of a run whose products are denormal, as a multiple of a normal run's."""
    program, layout = lstm.program(64, 64), Layout(50, 16)
    tiny, usual = (
        seconds(NativeEngine(1), program, operands(program, 50, 16, scale), layout) for scale in (1e-22, 0.1)
    )
    return tiny / usual


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"four threads on one processor: {crowded():.2f} times as long as one thread")
    print(f"denormal numbers: {denormal():.2f} times as long as normal numbers")

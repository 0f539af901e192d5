"""Time single steps against torch's modules: cell modules, and layers called with one step.

    python benchmarks/single_steps.py

prints the ratio of torch's time to throughtime's, the median over interleaved rounds, for each module, size, batch size
and number of threads, with and without gradients.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import throughtime

KINDS = ("RNNCell", "LSTMCell", "GRUCell", "RNN", "LSTM", "GRU")
SIZES = (8, 64, 256, 1024)
BATCHES = (1, 16, 64)
ROUNDS, SECONDS = 9, 0.01  # seconds per module and round


def timed(call: Callable[[], Any], count: int) -> float:
    """Return the seconds per call."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def step_of(module: nn.Module, x: torch.Tensor, *, gradients: bool) -> Callable[[], Any]:
    """Return a function that calls a module once, with or without the backward pass."""

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def both() -> None:
        result = module(x)
        output = result[0] if isinstance(result, tuple) else result
        output.sum().backward()

    return both if gradients else forward


def ratio(kind: str, size: int, batch: int, *, gradients: bool) -> float:
    """Return the ratio of torch's time to throughtime's."""
    theirs, ours = (getattr(package, kind)(size, size) for package in (nn, throughtime))
    x = torch.randn(batch, size) if kind.endswith("Cell") else torch.randn(1, batch, size)
    calls = [step_of(module, x, gradients=gradients) for module in (theirs, ours)]
    counts = [max(1, int(SECONDS / max(timed(call, 5), 1e-7))) for call in calls]
    pairs = [[timed(call, count) for call, count in zip(calls, counts, strict=True)] for _ in range(ROUNDS)]
    return statistics.median(theirs / ours for theirs, ours in pairs)


def main() -> None:
    print("| module | threads | gradients | " + " | ".join(f"{h} x {b}" for h in SIZES for b in BATCHES) + " |")
    print("|---|---|---|" + "---|" * len(SIZES) * len(BATCHES))
    for threads in (1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        for kind in KINDS:
            for gradients in (False, True):
                found = [ratio(kind, h, b, gradients=gradients) for h in SIZES for b in BATCHES]
                shown = " | ".join(f"{r:.2f}" for r in found)
                print(f"| {kind} | {threads} | {'yes' if gradients else 'no'} | {shown} |", flush=True)


if __name__ == "__main__":
    main()

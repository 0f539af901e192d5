"""Time single steps against torch's modules: cell modules, and layers called with one step.

    python benchmarks/single_steps.py [MODULE ...]

prints torch's time divided by ours for each module, size, batch and number of threads: without gradients, with frozen
weights, and with gradients. Each time is the minimum over interleaved rounds. Every call passes a state, which needs no
gradient. By default, all modules run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import throughtime

KINDS = ("RNNCell", "LSTMCell", "GRUCell", "RNN", "LSTM", "GRU")
SIZES = (8, 64, 256, 1024)
BATCHES = (1, 16, 64)
MODES = ("no gradients", "frozen", "gradients")
ROUNDS, SECONDS = 60, 0.001  # per round and module; short, so that other programs seldom interrupt a round


def timed(call: Callable[[], Any], count: int) -> float:
    """Return the seconds per call."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def step_of(module: nn.Module, x: torch.Tensor, state: Any, *, gradients: bool) -> Callable[[], Any]:
    """Return a function that calls a module once, with or without a backward pass."""

    def forward() -> None:
        with torch.no_grad():
            module(x, state)

    def both() -> None:
        result = module(x, state)
        output = result[0] if isinstance(result, tuple) else result
        output.sum().backward()

    return both if gradients else forward


def ratio(kind: str, size: int, batch: int, mode: str) -> float:
    """Return torch's time divided by ours."""
    theirs, ours = (getattr(package, kind)(size, size) for package in (nn, throughtime))
    if mode == "frozen":
        throughtime.freeze(ours)
    x = torch.randn(batch, size) if kind.endswith("Cell") else torch.randn(1, batch, size)
    state = (x, x) if kind.startswith("LSTM") else x
    calls = [step_of(module, x, state, gradients=mode == "gradients") for module in (theirs, ours)]
    counts = [max(1, int(SECONDS / max(timed(call, 5), 1e-7))) for call in calls]
    rounds = [[timed(call, count) for call, count in zip(calls, counts, strict=True)] for _ in range(ROUNDS)]
    torchs, own = map(min, zip(*rounds, strict=True))
    return torchs / own


def main() -> None:
    print("| module | threads | mode | " + " | ".join(f"{h} x {b}" for h in SIZES for b in BATCHES) + " |")
    print("|---|---|---|" + "---|" * len(SIZES) * len(BATCHES))
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for kind in sys.argv[1:] or KINDS:
            for mode in MODES:
                found = [ratio(kind, h, b, mode) for h in SIZES for b in BATCHES]
                shown = " | ".join(f"{r:.2f}" for r in found)
                print(f"| {kind} | {threads} | {mode} | {shown} |", flush=True)


if __name__ == "__main__":
    main()

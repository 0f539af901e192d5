"""Measure a call's memory in a separate process, unaffected by memory that other calls have left."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from mmap import PAGESIZE
from multiprocessing import get_context
from pathlib import Path

import torch

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import Case
from throughtime.bench.contestant import Contestant

_PROCESS = Path("/proc/self")
_MIN_STEPS = 20  # in the warm-up call


def peak_memory(contestant: Contestant, case: Case, threads: int) -> int:
    """Return the peak memory of a call in bytes, excluding its inputs and results."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_peak_in_this_process, contestant, case, threads).result()


def _peak_in_this_process(contestant: Contestant, case: Case, threads: int) -> int:
    torch.set_num_threads(threads)
    # Load everything that is initialized once, with a call so short that it leaves almost no memory behind.
    short = replace(case, steps=min(case.steps, _MIN_STEPS))
    contestant.prepare(short, Arguments.of(short), threads).call()
    call, results, _ = contestant.prepare(case, Arguments.of(case), threads)
    assert results is not None
    before = _resident("VmRSS")
    (_PROCESS / "clear_refs").write_text("5")  # reset the peak
    given = call()
    at_peak = _resident("VmHWM")
    returned = sum(array.nbytes for array in results(given).values())
    return max(at_peak - before - returned, PAGESIZE)


def _resident(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024

"""The memory that a call takes, in a process of its own: no other call has left it any."""

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
_LEAST_STEPS = 20  # of the call that comes first


def peak_memory(contestant: Contestant, case: Case, threads: int) -> int:
    """Bytes that a call takes at its peak besides what it is given and what it returns."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_peak_here, contestant, case, threads).result()


def _peak_here(contestant: Contestant, case: Case, threads: int) -> int:
    torch.set_num_threads(threads)
    # What is loaded and begun once is no memory of a call. It is so short that it leaves next to none.
    short = replace(case, steps=min(case.steps, _LEAST_STEPS))
    contestant.prepare(short, Arguments.of(short), threads).call()
    call, results, _ = contestant.prepare(case, Arguments.of(case), threads)
    assert results is not None
    before = _resident("VmRSS")
    (_PROCESS / "clear_refs").write_text("5")  # the peak begins anew
    given = call()
    at_peak = _resident("VmHWM")
    returned = sum(array.nbytes for array in results(given).values())
    return max(at_peak - before - returned, PAGESIZE)


def _resident(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024

"""Memory of large results is reused, but never while it is referenced, and the pool is bounded."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
import torch
from helpers import flat, random_arguments, run_on

import throughtime
from throughtime import cells
from throughtime.engines.base import Result
from throughtime.engines.native import NativeEngine

STEPS, ROWS = 40, 32  # a result has 327,680 bytes


def results(seed: int = 0) -> tuple[Result, list[torch.Tensor]]:
    """Return the result of a run, and a copy of the expected tensors."""
    program = cells.get("lstm").program(8, 64)
    torch.manual_seed(seed)
    arguments = random_arguments(program, STEPS, ROWS).map(lambda t: t.float())
    found = run_on(NativeEngine(1), program, STEPS, *arguments)
    again = run_on(NativeEngine(1), program, STEPS, *arguments)
    return found, [t.clone() for t in flat(again)]


def test_unreferenced_memory_is_reused() -> None:
    first, _ = results()
    place = first.outputs[0].data_ptr()
    part = first.outputs[0][3:5]
    del first
    gc.collect()
    others = [results()[0].outputs[0] for _ in range(8)]
    assert place not in {y.data_ptr() for y in others}  # a view still references it
    del part, others
    gc.collect()
    assert place in {y.data_ptr() for y in [results()[0].outputs[0] for _ in range(20)]}


def test_results_are_not_overwritten_while_other_threads_run() -> None:
    kept: list[tuple[Result, list[torch.Tensor]]] = []

    def work(seed: int) -> None:
        for k in range(20):
            found = results(seed + k)
            if k % 4 == 0:
                kept.append(found)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 20
    for found, wanted in kept:
        assert all(torch.equal(f, w) for f, w in zip(flat(found), wanted, strict=True))


def test_tensors_in_pooled_memory_behave_like_any_other() -> None:
    found, wanted = results()
    y = found.outputs[0]
    assert (y.is_contiguous(), y.storage_offset(), y.untyped_storage().nbytes()) == (True, 0, 4 * y.numel())
    y += 1
    y.share_memory_()
    assert torch.equal(y, wanted[0] + 1)


@pytest.mark.slow
def test_the_memory_pool_is_bounded() -> None:
    def resident() -> int:
        (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmRSS:"))
        return int(line.split()[1]) << 10

    program = cells.get("rnn").program(1, 256)
    x, h = torch.zeros(5000, 8, 1), torch.zeros(8, 256)
    parameters = [torch.zeros(p.shape) for p in program.parameters]
    gc.collect()
    throughtime.release_memory()  # of earlier tests
    before = resident()
    held = [run_on(NativeEngine(1), program, len(x), [x], [h], parameters) for _ in range(16)]  # 40 MB each
    assert resident() - before > 400 << 20  # less than was allocated, as memory that earlier tests freed is reused
    del held
    gc.collect()
    assert resident() - before < 300 << 20  # the pool's 256 MiB, plus memory of the runs themselves


def test_pooled_memory_is_released_on_request() -> None:
    kept, wanted = results()
    del kept.outputs[1:]  # a result that is still in use keeps its memory
    throughtime.release_memory()
    results()
    gc.collect()
    assert throughtime.release_memory() >= STEPS * ROWS * 64 * 4
    assert throughtime.release_memory() == 0
    assert torch.equal(kept.outputs[0], wanted[0])

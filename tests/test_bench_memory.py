"""The benchmark's memory measurement, and the memory of a run over a long sequence."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

from throughtime.bench.cases import LONG, Case
from throughtime.bench.contestant import Ready
from throughtime.bench.measuring import present
from throughtime.bench.memory import peak_memory

MEGABYTE, OTHERS = 2**20, 40


class Filling:
    """A contestant that returns 1 MB per thousand steps, and fills other memory in the process."""

    name, packages, is_ours = "filling", (), False

    def prepare(self, case, arguments, threads):
        def call():
            kept = np.ones(case.steps * MEGABYTE // 1000, np.uint8)
            before = [np.ones(MEGABYTE, np.uint8) for _ in range(OTHERS)]
            del before
            between = [np.ones(MEGABYTE, np.uint8) for _ in range(OTHERS // 2)]
            return kept, len(between)

        return Ready(call, lambda given: {"output": given[0]})


@pytest.mark.slow
def test_peak_excludes_inputs_and_results() -> None:
    found = peak_memory(Filling(), Case(LONG, "lstm", 1, 64, 50_000), threads=1)
    assert abs(found / MEGABYTE - OTHERS) < 2  # what Python itself allocates in a call


@pytest.mark.slow
def test_long_sequence_takes_less_memory_than_one_value_per_unit_and_step() -> None:
    case = Case(LONG, "gru", 1, 64, 100_000)
    assert peak_memory(present(case)[0], case, threads=1) < 0.5 * case.steps * case.hidden * 4

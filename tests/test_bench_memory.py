"""The memory that the bench tells of a call, and what a long sequence takes."""

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
    """Returns a megabyte for every thousand steps, and fills some others on its way."""

    name, packages, is_ours = "filling", (), False

    def prepare(self, case, arguments, threads):
        def call():
            kept = np.ones(case.steps * MEGABYTE // 1000, np.uint8)
            before = [np.ones(MEGABYTE, np.uint8) for _ in range(OTHERS)]
            del before
            between = [np.ones(MEGABYTE, np.uint8) for _ in range(OTHERS // 2)]
            return kept, len(between)

        return Ready(call, lambda given: {"output": given[0]})


def test_the_peak_counts_neither_what_was_there_nor_what_is_returned() -> None:
    found = peak_memory(Filling(), Case(LONG, "lstm", 1, 64, 50_000), threads=1)
    assert abs(found / MEGABYTE - OTHERS) < 2  # what Python itself begins to use in a call


def test_a_long_sequence_takes_less_than_a_value_of_each_unit_and_step() -> None:
    case = Case(LONG, "gru", 1, 64, 100_000)
    assert peak_memory(present(case)[0], case, threads=1) < 0.5 * case.steps * case.hidden * 4

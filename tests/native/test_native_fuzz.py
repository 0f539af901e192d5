"""Mutated programs and mismatched arrays raise a clear error or match the reference engine."""

from __future__ import annotations

import pytest
from fuzz import fuzz, told


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_cases_are_rejected_or_run_correctly(seed: int) -> None:
    came = fuzz(seed, cases=120)
    assert came["findings"] == 0, told(came)  # each is printed
    assert came["right"] > 30, told(came)
    assert came["refused"] > 30, told(came)

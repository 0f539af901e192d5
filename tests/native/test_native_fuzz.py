"""Damaged programs and arrays that may not fit: a clear error, or what the reference engine gives."""

from __future__ import annotations

import pytest
from fuzz import fuzz, told


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_damaged_is_refused_or_run_right(seed: int) -> None:
    came = fuzz(seed, cases=120)
    assert came["findings"] == 0, told(came)  # each is printed
    assert came["right"] > 30, told(came)
    assert came["refused"] > 30, told(came)

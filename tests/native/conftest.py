"""Fixtures for the native engine's tests, which need its extension module and run on all available instruction sets."""

import pytest

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

from throughtime.engines.native import NativeEngine, instruction_sets


@pytest.fixture(params=instruction_sets())
def engine(request: pytest.FixtureRequest) -> NativeEngine:
    """The engine with two threads, once per instruction set."""
    return NativeEngine(threads=2, instruction_set=request.param)

"""The native engine's tests need its extension module; they run with every instruction set that the machine has."""

import pytest

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

from throughtime.engines.native import NativeEngine, instruction_sets


@pytest.fixture(params=instruction_sets())
def engine(request: pytest.FixtureRequest) -> NativeEngine:
    """The engine on two threads, once for each instruction set."""
    return NativeEngine(threads=2, instruction_set=request.param)

"""The type stub of the extension module is up to date with nanobind's."""

from __future__ import annotations

from pathlib import Path

import pytest

import throughtime
from throughtime import _native

STUB = Path(throughtime.__file__).parent / "_native.pyi"


def test_the_stub_matches_the_module() -> None:
    stubgen = pytest.importorskip("nanobind.stubgen", reason="nanobind is not installed")
    generator = stubgen.StubGen(_native)
    generator.put(_native)
    wanted = f"python -m nanobind.stubgen -m throughtime._native -o {STUB.name}"
    assert STUB.read_text() == generator.get(), f"to accept the change, in src/throughtime: {wanted}"

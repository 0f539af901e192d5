"""The extension module leaks no objects when the interpreter exits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Runs, gradients, frozen parameters, dropout and streams, which all keep references to objects of the extension module.
EVERYTHING = """
import numpy as np, torch, throughtime
layer = throughtime.Recurrent("lstm", 4, 8, num_layers=2, dropout=0.5)
y, _ = layer(torch.ones(3, 2, 4))
y.sum().backward()
layer.eval()
throughtime.freeze(layer)(torch.ones(3, 2, 4))
throughtime.Stream(layer).step(np.ones((1, 4), np.float32))
"""


def output_of(source: str) -> str:
    environment = os.environ | {"THROUGHTIME_LEAK_WARNINGS": "1"}
    run = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True)
    return run.stdout + run.stderr


@pytest.mark.slow
def test_nothing_is_leaked() -> None:
    assert output_of(EVERYTHING) == ""


@pytest.mark.slow
def test_a_leak_is_reported() -> None:
    leak = """
import ctypes
from throughtime import _native
plan = _native.Plan([1], [1], [], [], [], False, [], [])
ctypes.pythonapi.Py_IncRef(ctypes.py_object(plan))
"""
    assert "leaked" in output_of(EVERYTHING + leak)

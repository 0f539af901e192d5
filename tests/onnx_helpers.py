"""Shared helpers for the ONNX tests, which use ONNX Runtime as the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import throughtime

onnxruntime = pytest.importorskip("onnxruntime")

Arrays = dict[str, np.ndarray]
# Float32 sums of a dozen products in another order, and different approximations of functions, over a few steps.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def by_onnx_runtime(model: bytes | Any, given: Arrays) -> list[np.ndarray]:
    """Run a model with ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


def by_us(model: bytes, given: Arrays) -> list[np.ndarray]:
    """Import a model with `from_onnx` and run the module."""
    with torch.no_grad():
        found = throughtime.from_onnx(model)(**{name: torch.from_numpy(array) for name, array in given.items()})
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def assert_alike(found: list[np.ndarray], wanted: list[np.ndarray], **tolerance: float) -> None:
    """Assert that all arrays agree up to rounding."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, **(CLOSE | tolerance))

"""What the tests of ONNX share: ONNX Runtime as the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import throughtime

onnxruntime = pytest.importorskip("onnxruntime")

Arrays = dict[str, np.ndarray]
# Sums of a dozen float32 products, in another order and with other approximations of the functions, over a few steps.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def by_onnx_runtime(model: bytes | Any, given: Arrays) -> list[np.ndarray]:
    """What ONNX Runtime gives."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


def by_us(model: bytes, given: Arrays) -> list[np.ndarray]:
    """What the module gives that a model becomes."""
    with torch.no_grad():
        found = throughtime.from_onnx(model)(**{name: torch.from_numpy(array) for name, array in given.items()})
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def assert_alike(found: list[np.ndarray], wanted: list[np.ndarray], **tolerance: float) -> None:
    """All numbers are the same but for rounding."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, **(CLOSE | tolerance))

"""Build Keras layers with random weights and compare them with their imported modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

INPUT, HIDDEN, STEPS, ROWS = 3, 4, 5, 2
# Rounding of float32 sums of a dozen products in a different order, over five steps of up to three layers.
CLOSE = {"rtol": 0.0, "atol": 2e-6}


def randomized(layer: Any, seed: int = 0) -> Any:
    """Set random weights, so that a swap of gates is noticed."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape).astype(w.dtype) * 0.5 for w in layer.get_weights()])
    return layer


def built(layer: Any) -> Any:
    layer.build((None, None, INPUT))
    return randomized(layer)


def some_input() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, STEPS, INPUT)).astype(np.float32)


def by_keras(layer: Any, x: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        found = layer(x)
    return [np.asarray(y.detach()) for y in (found if isinstance(found, list | tuple) else [found])]


def by_us(module: torch.nn.Module, x: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        found, _ = module.eval()(torch.from_numpy(x))
    return [y.numpy() for y in (found if isinstance(found, tuple) else [found])]


def assert_alike(module: torch.nn.Module, layer: Any) -> None:
    x = some_input()
    for ours, theirs in zip(by_us(module, x), by_keras(layer, x), strict=True):
        assert np.isfinite(theirs).all()  # a NaN that matches a NaN would prove nothing
        np.testing.assert_allclose(ours, theirs, **CLOSE)

"""Baselines for audio: linear predictors whose error distribution is integrated over the levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.linear_prediction import Mixture, fit_predictor, lagged
from throughtime.data.sound import BLOCK
from throughtime.data.waveform import Quantization

_ORDERS = (2, 16)  # the orders of the linear predictors
_FITTED = 64  # the maximum number of training excerpts to fit baselines to
_EXCERPT = 1 << 14  # the length of an excerpt in samples
_MAX_ERRORS = 200_000  # the maximum number of errors to fit a distribution to


def fit_baselines(codec: Quantization, ids: NDArray[Any]) -> dict[str, Any]:
    """Fit the predictors and the distributions of their errors.

    Args:
        codec: the quantization.
        ids: level ids `[n]`.

    Returns:
        The fitted predictors by name, as plain data.
    """
    starts = np.unique(np.linspace(0, max(0, len(ids) - _EXCERPT), _FITTED).astype(np.int64))
    if len(ids) <= _FITTED * _EXCERPT:
        starts = np.arange(0, len(ids) - 1, _EXCERPT)
    excerpts = [ids[start : start + _EXCERPT] for start in starts.tolist() if start < len(ids) - 1]

    def signals() -> list[NDArray[np.float64]]:
        return [signal_of(codec, excerpt) for excerpt in excerpts]

    # Channels are interleaved, so the previous sample of the same channel is `channels` steps back.
    last = np.eye(codec.waveform.channels)[-1]
    predictors = {"last sample": last} | {
        f"linear predictor of order {order}": fit_predictor(signals, order) for order in _ORDERS
    }
    fitted = {}
    for name, coefficients in predictors.items():
        bounds = [_error_bounds(codec, excerpt, coefficients) for excerpt in excerpts]
        every = max(1, sum(len(low) for low, _ in bounds) // _MAX_ERRORS)
        low, high = (np.concatenate(side)[::every] for side in zip(*bounds, strict=True))
        mixture = Mixture.fit(low, high)
        fitted[name] = {
            "coefficients": coefficients.tolist(),
            "scales": mixture.scales.tolist(),
            "weights": mixture.weights.tolist(),
        }
    return fitted


def baseline_nats(fit: Mapping[str, Any], codec: Quantization, ids: NDArray[Any]) -> float:
    """Return the total cost in nats of all levels `[n]` except the first, under a predictor from `fit_baselines`."""
    coefficients = np.asarray(fit["coefficients"], float)
    mixture = Mixture(fit["scales"], fit["weights"])
    nats, context = 0.0, len(coefficients)
    for start in range(0, len(ids) - 1, BLOCK):
        before = min(start, context)
        low, high = _error_bounds(codec, ids[start - before : start + BLOCK + 1], coefficients)
        nats += mixture.nats(low[before:], high[before:])
    return nats


def signal_of(codec: Quantization, ids: NDArray[Any]) -> NDArray[np.float64]:
    """Decode level ids `[n]` to samples `[n]` with interleaved channels."""
    return codec.decode(ids).reshape(-1).astype(np.float64)


def _error_bounds(
    codec: Quantization, ids: NDArray[Any], coefficients: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and upper prediction error of each level except the first."""
    past, _ = lagged(signal_of(codec, ids), len(coefficients))
    predicted, edges, levels = past @ coefficients, codec.edges, ids[1:].astype(np.int64)
    return edges[levels] - predicted, edges[levels + 1] - predicted

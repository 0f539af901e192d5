"""Linear predictors with a fitted error distribution: baselines for networks that predict samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CHUNK = 1 << 14  # samples to process at a time
_RIDGE = 1e-9  # relative to the energy; keeps the equations solvable for silence and pure tones


def fit_predictor(blocks: Callable[[], Sequence[Array]], order: int) -> Array:
    """Fit a least-squares predictor of a sample from the samples before it.

    Args:
        blocks: a function that returns independent excerpts of the signal, each `[n]`.
        order: the number of samples to predict from.

    Returns:
        The coefficients `[order]`, starting with that of the latest sample.
    """
    gram, cross = np.zeros((order, order)), np.zeros(order)
    for block in blocks():
        past, target = lagged(block, order)
        gram += past.T @ past
        cross += past.T @ target
    gram += (_RIDGE * np.trace(gram) / order + 1e-12) * np.eye(order)
    return np.asarray(np.linalg.solve(gram, cross))


def lagged(signal: Array, order: int) -> tuple[Array, Array]:
    """Return a linear predictor's inputs, the `order` previous samples `[n - 1, order]`, and its targets `[n - 1]`.

    Each row of inputs starts with the latest sample. The signal is padded with silence at the start, and its first
    sample is not a target.
    """
    padded = np.concatenate([np.zeros(order - 1), signal])
    past = np.lib.stride_tricks.sliding_window_view(padded[:-1], order)[:, ::-1]
    return past, signal[1:]


class Mixture:
    """A mixture of logistic distributions with several scales around a prediction, for peaked, heavy-tailed errors.

    The logistic distribution has a closed form for the probability of an interval.

    Args:
        scales: the scales of the components.
        weights: the weights of the components; they sum to 1.
    """

    def __init__(self, scales: Sequence[float], weights: Sequence[float]) -> None:
        self.scales, self.weights = np.asarray(scales, float), np.asarray(weights, float)

    @classmethod
    def fit(cls, low: Array, high: Array, components: int = 16) -> Mixture:
        """Fit the weights of fixed scales to intervals.

        Args:
            low: the lower bounds of the errors `[n]`.
            high: the upper bounds `[n]`.
            components: the number of scales, which are spaced by a factor of about 1.6.
        """
        scales = np.geomspace(2e-4, 0.3, components)
        weights = np.full(components, 1 / components)
        table = _intervals(low, high, scales)
        for _ in range(60):
            share = table * weights
            share /= share.sum(1, keepdims=True)
            weights = share.mean(0)
        return cls(scales.tolist(), weights.tolist())

    def nats(self, low: Array, high: Array) -> float:
        """Return the sum of the negative log probabilities of error intervals."""
        found = 0.0
        for start in range(0, len(low), _CHUNK):
            table = _intervals(low[start : start + _CHUNK], high[start : start + _CHUNK], self.scales)
            # Mix in one millionth of a uniform distribution over 16 bits, so that no sample is impossible.
            found -= float(np.log((table @ self.weights) * (1 - 1e-6) + 1e-6 / (1 << 16)).sum())
        return found


def _intervals(low: Array, high: Array, scales: Array) -> Array:
    """Return the probability of each interval under each scale, `[n, components]`."""

    def cumulative(bounds: Array) -> Array:
        return np.asarray(0.5 * (1 + np.tanh(bounds[:, None] / (2 * scales))))

    # Mirror intervals above 0, because the lower tail is computed more accurately.
    flip = low > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    return np.maximum(cumulative(high) - cumulative(low), 1e-300)

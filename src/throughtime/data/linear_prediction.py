"""Linear predictors, whose errors follow a fitted distribution: the baselines of networks that predict samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CHUNK = 1 << 14  # samples whose bounds are held at a time
_RIDGE = 1e-9  # of the energy, so that silence and pure tones have a solution


def fit_predictor(blocks: Callable[[], Sequence[Array]], order: int) -> Array:
    """Return the coefficients of the least-squares prediction of a sample from those before it.

    Args:
        blocks: called for the signal in stretches, each `[n]`, which are independent of one another.
        order: how many samples to predict from.

    Returns:
        `[order]`, that of the sample just before first.
    """
    gram, cross = np.zeros((order, order)), np.zeros(order)
    for block in blocks():
        past, target = lagged(block, order)
        gram += past.T @ past
        cross += past.T @ target
    gram += (_RIDGE * np.trace(gram) / order + 1e-12) * np.eye(order)
    return np.asarray(np.linalg.solve(gram, cross))


def lagged(signal: Array, order: int) -> tuple[Array, Array]:
    """Return the samples before each sample but the first, `[n - 1, order]` from the nearest on, and these samples.

    Before the signal there is silence.
    """
    padded = np.concatenate([np.zeros(order - 1), signal])
    past = np.lib.stride_tricks.sliding_window_view(padded[:-1], order)[:, ::-1]
    return past, signal[1:]


class Mixture:
    """A mixture of logistic distributions of several scales around a prediction, for peaked and heavy-tailed errors.

    The logistic distribution has a closed form for the probability of an interval.

    Args:
        scales: of the components.
        weights: of the components; they sum to 1.
    """

    def __init__(self, scales: Sequence[float], weights: Sequence[float]) -> None:
        self.scales, self.weights = np.asarray(scales, float), np.asarray(weights, float)

    @classmethod
    def fit(cls, low: Array, high: Array, components: int = 16) -> Mixture:
        """Fit the weights of fixed scales to intervals.

        Args:
            low: the lower bounds of the errors `[n]`.
            high: the upper bounds `[n]`.
            components: how many scales, a factor of about 1.6 apart.
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
        """Return the sum of minus the logarithms of the probabilities of intervals of errors."""
        found = 0.0
        for start in range(0, len(low), _CHUNK):
            table = _intervals(low[start : start + _CHUNK], high[start : start + _CHUNK], self.scales)
            # One millionth of a uniform distribution over 16 bits, so that no sample is impossible.
            found -= float(np.log((table @ self.weights) * (1 - 1e-6) + 1e-6 / (1 << 16)).sum())
        return found


def _intervals(low: Array, high: Array, scales: Array) -> Array:
    """The probability of each interval under each scale, `[n, components]`."""

    def cumulative(bounds: Array) -> Array:
        return np.asarray(0.5 * (1 + np.tanh(bounds[:, None] / (2 * scales))))

    # The upper tail is as exact as the lower one when both bounds are mirrored.
    flip = low > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    return np.maximum(cumulative(high) - cumulative(low), 1e-300)

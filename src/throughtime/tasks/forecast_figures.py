"""Forecast metrics, and simple forecasts to compare with."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.timeline import Integers
from throughtime.data.windows import Windows
from throughtime.outputs import Normal, Output, Quantiles, StudentT

Array = NDArray[Any]
Figures = dict[str, float]

LEVELS = (0.1, 0.5, 0.9)
"""The quantile levels of the weighted quantile loss."""

_RIDGE = 1e-3  # the ridge penalty, relative to the mean variance of the inputs


class Forecast(NamedTuple):
    """Forecasts of windows at the common scale.

    Attributes:
        point: the forecast values `[B, horizon]`.
        low, high: the bounds of the interval `[B, horizon]`; equal to `point` without a distribution.
        quantiles: the quantiles at `LEVELS` `[B, horizon, 3]`; None without a distribution.
    """

    point: Array
    low: Array
    high: Array
    quantiles: Array | None = None

    def widened(self, margins: Array) -> Forecast:
        """Return the forecast with `margins` `[B, horizon]` added on both sides of its intervals."""
        low, high = self.low - margins, self.high + margins
        middle = (low + high) / 2  # a negative margin may have swapped the bounds
        return self._replace(low=np.minimum(low, middle), high=np.maximum(high, middle))


def forecast_of(output: Output, raw: Array, share: float) -> Forecast:
    """Convert raw outputs `[B, m, width]` to a forecast, concatenating the rows of the m segments.

    Args:
        output: the output type.
        raw: the raw outputs.
        share: the fraction of values that intervals should contain.
    """
    flat = (len(raw), -1)
    if isinstance(output, Quantiles):
        quantiles = output.predict(raw)
        quantiles = quantiles.reshape(len(raw), -1, quantiles.shape[-1])
        positions = np.interp(LEVELS, output.levels, np.arange(len(output.levels)))
        below = np.floor(positions).astype(int)
        above = np.ceil(positions).astype(int)
        at = quantiles[..., below] + (positions - below) * (quantiles[..., above] - quantiles[..., below])
        return Forecast(at[..., 1], quantiles[..., 0], quantiles[..., -1], at)
    point = output.predict(raw).reshape(flat)
    if not isinstance(output, Normal | StudentT):
        return Forecast(point, point, point)
    from scipy import stats

    *degrees, _, scale = (numbers.reshape(flat) for numbers in output.parameters(raw))

    def quantile(level: float) -> Array:
        unit = stats.t.ppf(level, degrees[0]) if degrees else stats.norm.ppf(level)
        return np.asarray(point + scale * unit)

    tail = (1 - share) / 2
    return Forecast(point, quantile(tail), quantile(1 - tail), np.stack([quantile(level) for level in LEVELS], -1))


class Measures:
    """Accumulate forecast errors.

    MSE, MAE and MASE are means at the common scale; sMAPE (%), the weighted quantile loss (the sum of pinball losses
    over the sum of absolute values, averaged over `LEVELS`) and coverage are computed at the original scale. MASE
    divides by the mean absolute error of the seasonal naive forecast in training. A single series also has an unscaled
    MAE, in its own units.

    Args:
        windows: the windows to forecast.
        intervals: whether forecasts have intervals.
    """

    def __init__(self, windows: Windows, intervals: bool = False) -> None:
        self._windows, self._intervals = windows, intervals
        self._sums: dict[str, float] = {}
        self._count = 0
        scales = windows.data.scales
        self._shifts = np.array([scale.shift for scale in scales])
        self._factors = np.array([scale.factor for scale in scales])

    def add(self, chosen: Integers, forecast: Forecast) -> None:
        """Add the forecasts of windows."""
        series, _ = self._windows.where(chosen)
        values, observed = self._windows.targets(chosen)
        shift, factor = (each[series][:, None] for each in (self._shifts, self._factors))
        true, point = values.astype(np.float64), forecast.point.astype(np.float64)
        error = point - true
        own, found = true * factor + shift, point * factor + shift
        size = np.abs(own) + np.abs(found)
        each = {
            "mse": error**2,
            "mae": np.abs(error),
            "mase": np.abs(error) / self._windows.data.errors[series][:, None],
            "smape": 200 * np.divide(np.abs(found - own), size, out=np.zeros_like(size), where=size > 0),
            "size": np.abs(own),
        }
        if forecast.quantiles is not None:
            above = (true[..., None] - forecast.quantiles) * factor[..., None]
            levels = np.array(LEVELS)
            each["pinball"] = 2 * np.maximum(levels * above, (levels - 1) * above).mean(-1)
        if self._intervals:
            each["coverage"] = ((true >= forecast.low) & (true <= forecast.high)).astype(float)
        for name, numbers in each.items():
            self._sums[name] = self._sums.get(name, 0.0) + float((numbers * observed).sum())
        self._count += int(observed.sum())

    @property
    def figures(self) -> Figures:
        """The metrics so far."""
        count = max(1, self._count)
        found = {name: total / count for name, total in self._sums.items() if name not in ("size", "pinball")}
        if len(self._factors) == 1 and "mae" in found:
            found["unscaled_mae"] = found["mae"] * float(self._factors[0])
        if "pinball" in self._sums:
            found["weighted_quantile_loss"] = self._sums["pinball"] / max(self._sums["size"], 1e-300)
        return found


def measured(windows: Windows, forecast: Callable[[Integers], Forecast]) -> Figures:
    """Return the metrics of forecasts without intervals.

    Args:
        windows: the windows to forecast.
        forecast: a function that forecasts windows.
    """
    measures = Measures(windows)
    for chunk in windows.chunks():
        measures.add(chunk, forecast(chunk))
    return measures.figures


def point_forecast(values: Array) -> Forecast:
    """Return a forecast without a distribution."""
    return Forecast(values, values, values)


def last_value(windows: Windows, chosen: Integers) -> Array:
    """Repeat the last value before the origin."""
    return np.repeat(windows.contexts(chosen, windows.codec.context)[:, -1:], windows.horizon, 1)


def seasonal_naive(windows: Windows, chosen: Integers) -> Array:
    """Repeat the values of the last season before the origin."""
    season = windows.codec.season
    last = windows.contexts(chosen, season)
    return np.tile(last, (1, -(-windows.horizon // season)))[:, : windows.horizon]


def fit_ridge(windows: Windows, max_windows: int = 200_000) -> dict[str, Any]:
    """Fit a ridge regression from context to horizon, with the last value subtracted.

    Args:
        windows: the training windows.
        max_windows: the maximum number of windows to fit to, evenly spaced.

    Returns:
        The weights as plain data.
    """
    context, horizon = windows.codec.context, windows.horizon
    gram, cross = np.zeros((context, context)), np.zeros((context, horizon))
    windows = windows.evenly_spaced(max_windows)
    for chunk in windows.chunks():
        values, observed = windows.targets(chunk)
        whole = observed.all(1)
        inputs = windows.contexts(chunk, context)[whole].astype(np.float64)
        last = inputs[:, -1:].copy()
        inputs[:, :-1] -= last
        inputs[:, -1] = 1.0  # the last value minus itself is 0; use its place for the intercept
        gram += inputs.T @ inputs
        cross += inputs.T @ (values[whole] - last)
    penalty = _RIDGE * max(np.trace(gram[:-1, :-1]), 1e-12) / max(1, context - 1)
    ridge = np.full(context, penalty)
    ridge[-1] = 1e-9 * max(gram[-1, -1], 1.0)
    weights = np.linalg.solve(gram + np.diag(ridge), cross).astype("<f4")
    return {"shape": [context, horizon], "float32": base64.b64encode(weights.tobytes()).decode()}


def ridge_forecast(fitted: Mapping[str, Any], windows: Windows, chosen: Integers) -> Array:
    """Forecast with a regression from `fit_ridge`."""
    weights = np.frombuffer(base64.b64decode(fitted["float32"]), "<f4").reshape(fitted["shape"])
    inputs = windows.contexts(chosen, windows.codec.context)
    last = inputs[:, -1:].copy()
    inputs = inputs - last
    inputs[:, -1] = 1.0
    return np.asarray(inputs @ weights + last)


def baseline_forecasts(windows: Windows, fitted: Mapping[str, Any]) -> dict[str, Callable[[Integers], Forecast]]:
    """Return the baseline forecasts of windows, by name.

    Args:
        windows: the windows to forecast.
        fitted: a mapping with the regression from `fit_ridge` as "ridge".
    """
    values: dict[str, Callable[[Windows, Integers], Array]] = {"last value": last_value}
    season = windows.codec.season
    if season > 1:
        values[f"seasonal naive ({season} rows)"] = seasonal_naive
    if "ridge" in fitted:
        values["ridge"] = partial(ridge_forecast, fitted["ridge"])

    def made(of: Callable[[Windows, Integers], Array]) -> Callable[[Integers], Forecast]:
        return lambda chosen: point_forecast(of(windows, chosen))

    return {name: made(of) for name, of in values.items()}


def conformal_margins(scores: Array, observed: Array, share: float) -> Array:
    """Return the margins that make intervals contain a given fraction of values (split conformal prediction).

    Args:
        scores: the distance of each value outside its interval `[N, horizon]`, negative inside (Romano et al. 2019,
            arXiv:1905.03222).
        observed: whether each value is observed `[N, horizon]`.
        share: the fraction of values that intervals should contain.
    """
    margins = np.zeros(scores.shape[1])
    for k in range(scores.shape[1]):
        found = np.sort(scores[observed[:, k], k])
        if len(found):
            margins[k] = found[min(len(found), int(np.ceil((len(found) + 1) * share))) - 1]
    return margins

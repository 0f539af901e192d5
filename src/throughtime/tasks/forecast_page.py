"""The forecast section of a report: windows, errors by horizon step and series, and how far back forecasts look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from throughtime.data.timeline import Integers
from throughtime.data.windows import Windows
from throughtime.tasks.forecast_decoding import forecasts
from throughtime.tasks.forecast_figures import Array, baseline_forecasts

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.data import Curve, ForecastWindow, Table
    from throughtime.sight.report.passage import Item

_MEASURED = 2_000  # windows to measure errors on
_SHOWN = 6  # windows of each kind to show
_CONTEXT = 3  # the maximum context to draw, in horizons
_SERIES = 50  # the maximum number of rows of the table
_LOOKBACK_WINDOWS = 16  # windows to compute gradients for


def outcome(
    model: SequenceModel, part: Windows, share: float, fitted: Mapping[str, Any], measured: int = _MEASURED
) -> dict[str, Any]:
    """Evaluate forecasts of a part of the data and return them as fields of `ReportData`.

    Args:
        model: the trained network.
        part: the windows.
        share: the fraction of values that intervals should contain.
        fitted: the fitted baselines.
        measured: the maximum number of windows to measure errors on.
    """
    from throughtime.sight.report.data import Forecasts

    some = part.evenly_spaced(min(measured, _MEASURED))
    errors, covered, observed = _errors(model, some, share)
    at_end = np.flatnonzero(part.counts)
    at_end = at_end[np.linspace(0, len(at_end) - 1, min(_SHOWN, len(at_end))).round().astype(int)]
    shown = part.take(np.cumsum(part.counts)[at_end] - 1) if part.chosen is None else part.evenly_spaced(_SHOWN)
    found = Forecasts(
        last=_windows(model, shown, share),
        worst=_windows(model, some.take(_worst(some, errors, observed)), share),
        by_step=_by_step(some, errors, observed, fitted),
        lookback=lookback(model, part),
        share=share,
        measured=f"{len(some):,} windows" + (f", evenly spaced among {len(part):,}" if len(some) < len(part) else ""),
        segment=part.codec.segment,
        season=part.codec.season,
    )
    return {"forecasts": found, "tables": [_by_series(some, errors, covered, observed, share)]}


def lookback(model: SequenceModel, part: Windows) -> Curve:
    """Measure how strongly forecasts depend on each input before the origin.

    The measure is the norm of the gradient of the horizon's forecast values with respect to the inputs of a step (see
    `throughtime.sight.connectivity`), averaged over several windows and the steps of the horizon, relative to the
    largest.

    Returns:
        A curve over rows before the origin.
    """
    from throughtime.sight import connectivity
    from throughtime.sight.report.data import Curve

    n, at = part.steps[0], part.decoding
    steps = part.evenly_spaced(_LOOKBACK_WINDOWS)
    inputs = steps.inputs(np.arange(len(steps)), teacher=True).steps
    if part.parallel:  # each step of the horizon directly follows the context
        context, horizon = inputs[:n], inputs[n:]
        repeated = np.tile(context, (1, len(horizon), 1))
        inputs = np.concatenate([repeated, horizon.reshape(1, -1, inputs.shape[2])])
    x = torch.from_numpy(inputs).to(next(model.parameters()).dtype)
    norms = connectivity(
        model.cpu(), x, of=lambda given: given[0][at:].sum(), window=len(x), steps=range(at, len(x))
    ).norms
    # norms[j, lag] belongs to the input at step at + j - lag; keep the steps before the origin, latest first.
    back = np.array([np.nanmean([norms[j, at + j - k] for j in range(len(norms))]) for k in range(n - 1, -1, -1)])
    largest = max(float(back.max()), np.finfo(float).tiny)
    return Curve("forecast", part.codec.segment * (np.arange(n) + 1), back / largest)


def items(part: Windows, length: int) -> list[Item]:
    """Return evenly spaced windows as report items, about `length` steps in total."""
    from throughtime.sight.report.passage import Item

    n, m = part.steps
    s = part.codec.segment
    some = part.evenly_spaced(max(1, min(_SHOWN, length // (n + m))))
    chosen = np.arange(len(some))
    inputs = some.inputs(chosen, teacher=True).steps
    series, origins = some.where(chosen)
    values, observed = _rows(some, chosen, n * s, m * s)
    counts = observed.reshape(len(some), -1, s).sum(2)
    sums = (values * observed).reshape(len(some), -1, s).sum(2)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    if part.parallel:
        inputs = inputs[: n + 1]  # the layers run over the context and one step of the horizon
    return [
        Item(
            inputs[:, b],
            name=f"{some.data.names[k]}, forecast from {_label(some, k, int(origin))}",
            shown=means[b, : len(inputs), None],
        )
        for b, (k, origin) in enumerate(zip(series.tolist(), origins.tolist(), strict=True))
    ]


def _label(part: Windows, series: int, row: int) -> str:
    return part.codec.timeline.label(int(part.data.starts[series]) + row)


def _rows(part: Windows, chosen: Integers, before: int, after: int) -> tuple[Array, Array]:
    """Return values around origins `[B, before + after]` at the common scale, and where they are observed."""
    series, origins = part.where(chosen)
    rows = (part.data.offsets[series] + origins)[:, None] + np.arange(-before, after)
    return part.data.values[rows], part.data.observed[rows]


def _errors(model: SequenceModel, part: Windows, share: float) -> tuple[Array, Array, Array]:
    """Return absolute errors `[N, horizon]`, whether intervals contain the values, and where values are observed."""
    found: list[tuple[Array, Array, Array]] = []
    for chosen, forecast in forecasts(model, part, share):
        true, observed = part.targets(chosen)
        inside = (true >= forecast.low) & (true <= forecast.high)
        found.append((np.abs(forecast.point - true), inside, observed))
    errors, inside, observed = (np.concatenate(each) for each in zip(*found, strict=True))
    return errors, inside, observed


def _mean(errors: Array, observed: Array, axis: int | None) -> Array:
    return np.asarray((errors * observed).sum(axis) / np.maximum(1, observed.sum(axis)))


def _worst(part: Windows, errors: Array, observed: Array) -> Integers:
    """Return the windows with the largest mean error, without overlaps within a series."""
    series, origins = part.where(np.arange(len(part)))
    found: list[int] = []
    for k in np.argsort(-_mean(errors, observed, 1), kind="stable").tolist():
        near = [n for n in found if series[n] == series[k] and abs(origins[n] - origins[k]) < part.horizon]
        if not near:
            found.append(k)
        if len(found) == _SHOWN:
            break
    return np.array(found)


def _by_step(part: Windows, errors: Array, observed: Array, fitted: Mapping[str, Any]) -> list[Curve]:
    from throughtime.sight.report.data import Curve

    steps = np.arange(1, part.horizon + 1)
    curves = [Curve("network", steps, _mean(errors, observed, 0))]
    for name, forecast in baseline_forecasts(part, fitted).items():
        found = [np.abs(forecast(chosen).point - part.targets(chosen)[0]) for chosen in part.chunks()]
        curves.append(Curve(name, steps, _mean(np.concatenate(found), observed, 0)))
    return curves


def _by_series(part: Windows, errors: Array, covered: Array, observed: Array, share: float) -> Table:
    from throughtime.sight.report.data import Table

    series, _ = part.where(np.arange(len(part)))
    rows: list[tuple[str, int, str, str, float]] = []
    for k in np.unique(series).tolist():
        own = series == k
        scaled = float(_mean(errors[own], observed[own], None))
        mase = scaled / part.data.errors[k]
        inside = float(_mean(covered[own], observed[own], None))
        rows.append((part.data.names[k], int(own.sum()), f"{scaled:.4f}", f"{mase:.3f}", inside))
    rows.sort(key=lambda row: -float(row[3]))
    more = f" Only the worst {_SERIES} of {len(rows):,} series are listed." if len(rows) > _SERIES else ""
    return Table(
        "Results by series",
        "The windows are those of the chart of errors above. MAE is at the common scale. MASE divides it by the "
        f"seasonal naive forecast's error in training, so a value above 1 is worse than that forecast. Coverage is the "
        f"fraction of values in the {share:.0%} intervals.{more}",
        ("series", "windows", "scaled MAE", "MASE", "coverage"),
        rows[:_SERIES],
    )


def _windows(model: SequenceModel, part: Windows, share: float) -> list[ForecastWindow]:
    """Return windows for a report to draw, at the original scale."""
    from throughtime.sight.report.data import ForecastWindow

    before = min(part.codec.context, _CONTEXT * part.horizon)
    found: list[ForecastWindow] = []
    for chosen, forecast in forecasts(model, part, share):
        series, origins = part.where(chosen)
        values, observed = _rows(part, chosen, before, part.horizon)
        for b, (k, origin) in enumerate(zip(series.tolist(), origins.tolist(), strict=True)):
            scale = part.data.scales[k]
            true = np.where(observed[b], scale.decode(values[b]), np.nan)
            found.append(
                ForecastWindow(
                    f"{part.data.names[k]}, from {_label(part, k, origin)}",
                    [_label(part, k, origin + row) for row in range(-before, part.horizon)],
                    true,
                    *(scale.decode(each[b]) for each in forecast[:3]),
                )
            )
    return found

"""Plotly figures of analysis results; they require the extra `report`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from throughtime.errors import UserError
from throughtime.packages import installing
from throughtime.sight.arrays import Array

if TYPE_CHECKING:
    from throughtime.sight.gating.saturation import Saturation, Timescale
    from throughtime.sight.gradients.horizon import Horizon
    from throughtime.sight.units.matching import Match

# Okabe and Ito's palette, which color-blind people can distinguish; lines also differ in their dashes.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("solid", "dash", "dot", "dashdot")
PLAIN_STEPS = 10
"""The lag at which the gradient of a plain recurrent network has typically vanished, according to textbooks."""


def plotly() -> Any:
    """Import plotly's figure module.

    Raises:
        UserError: if plotly is not installed.
    """
    try:
        import plotly.graph_objects
    except ImportError:
        raise UserError(f"a figure needs plotly, {installing('report')}") from None
    return plotly.graph_objects


def new_figure(title: str, x: str, y: str, **layout: Any) -> Any:
    """Create an empty figure with the common layout and the given titles."""
    figure = plotly().Figure()
    axes = {"gridcolor": "#ddd", "zerolinecolor": "#bbb"}
    figure.update_layout(
        title=title or None, template="none", font={"family": "sans-serif", "size": 13},
        margin={"l": 60, "r": 20, "t": 50 if title else 20, "b": 50},
        xaxis={"title": x, **axes}, yaxis={"title": y, **axes}, **layout,
    )  # fmt: skip
    return figure


def line_style(k: int) -> dict[str, Any]:
    """Return the color and dash of the kth line."""
    return {"color": _COLORS[k % len(_COLORS)], "dash": _DASHES[k % len(_DASHES)], "width": 2}


def lines_by_lag(by_lag: Mapping[str, Array], horizons: Mapping[str, Horizon]) -> Any:
    """Plot gradients by lag, relative to lag 0, and mark their horizons and the ten steps of a plain RNN."""
    figure = new_figure("Gradient of the loss by lag", "lag (steps)", "norm, relative to lag 0")
    go = plotly()
    for k, (name, sizes) in enumerate(by_lag.items()):
        relative = sizes / sizes[np.argmax(sizes > 0)]
        shown = np.where(relative > 0, relative, np.nan)
        figure.add_trace(go.Scatter(y=shown, mode="lines", name=f"{name}: {horizons[name]}", line=line_style(k)))
        lag = horizons[name].lag
        if lag is not None:
            figure.add_trace(
                go.Scatter(
                    x=[lag], y=[relative[lag]], mode="markers", showlegend=False, name=name,
                    marker={"color": _COLORS[k % len(_COLORS)], "size": 10},
                )
            )  # fmt: skip
    figure.add_vline(x=PLAIN_STEPS, line={"color": "#888", "dash": "dot"}, annotation_text="a plain RNN's ten steps")
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.2})
    return figure


def heat_by_lag(steps: Array, norms: Array, first: int = 0) -> Any:
    """Plot norms `[S, lags]` as a heat map on a log scale, starting at a given lag."""
    figure = new_figure("What the output depends on", "lag (steps)", "step")
    positive = np.where(norms > 0, norms, np.nan)
    trace = plotly().Heatmap(
        y=steps, x0=first, z=np.log10(positive), colorscale="Viridis", colorbar={"title": "log10 of norm"}
    )
    figure.add_trace(trace)
    return figure


def saturation_scatter(found: Saturation, title: str) -> Any:
    """Plot each unit at (fraction shut, fraction open), as Karpathy et al. (2015) do."""
    shut, above = f"fraction of steps under {found.below:g}", f"fraction of steps over {found.above:g}"
    figure = new_figure(title, above, shut, xaxis_range=[-0.03, 1.03], yaxis_range=[-0.03, 1.03])
    units = [f"unit {u}" for u in range(len(found.low))]
    marker = {"color": _COLORS[0], "opacity": 0.6, "size": 8}
    figure.add_trace(plotly().Scatter(x=found.high, y=found.low, mode="markers", text=units, marker=marker))
    figure.add_shape(type="line", x0=0, y0=1, x1=1, y1=0, line={"color": "#bbb", "dash": "dot"})
    return figure


def timescale_line(found: Timescale, title: str) -> Any:
    """Plot the units' timescales in increasing order."""
    figure = new_figure(title, "units, sorted", "steps until 1/e is left")
    order = np.argsort(found.steps)
    steps = np.where(np.isfinite(found.steps[order]), found.steps[order], np.nan)
    units = [f"unit {u}" for u in order]
    figure.add_trace(plotly().Scatter(y=steps, mode="lines+markers", text=units, line=line_style(0)))
    figure.update_yaxes(type="log")
    return figure


def spectrum_lines(layers: Mapping[str, Array]) -> Any:
    """Plot each layer's Lyapunov exponents, largest first."""
    figure = new_figure("Lyapunov exponents", "index", "nats per step")
    for k, (name, exponents) in enumerate(layers.items()):
        numbers = np.arange(1, len(exponents) + 1)
        figure.add_trace(plotly().Scatter(x=numbers, y=exponents, mode="lines+markers", name=name, line=line_style(k)))
    figure.add_hline(y=0, line={"color": "#888", "dash": "dot"})
    figure.update_layout(showlegend=True)
    return figure


def eigenvalue_plane(eigenvalues: Array) -> Any:
    """Plot the eigenvalues of each point in the complex plane with the unit circle."""
    figure = new_figure("Eigenvalues at the fixed points", "real", "imaginary")
    for k, values in enumerate(eigenvalues):
        marker = {"color": _COLORS[k % len(_COLORS)], "opacity": 0.7}
        figure.add_trace(
            plotly().Scatter(x=values.real, y=values.imag, mode="markers", name=f"point {k}", marker=marker)
        )
    figure.add_shape(type="circle", x0=-1, y0=-1, x1=1, y1=1, line={"color": "#888", "dash": "dot"})
    figure.update_yaxes(scaleanchor="x")
    return figure


def match_bars(found: Match) -> Any:
    """Plot the span and its occurrences over the steps; height shows closeness."""
    figure = new_figure("Where the same units are on", "step", "closeness")
    bars = [(found.start, found.stop, 1.0, "the span"), *found.occurrences]
    colors = [_COLORS[1]] + [_COLORS[0]] * len(found.occurrences)
    figure.add_trace(
        plotly().Bar(
            x=[(start + stop - 1) / 2 for start, stop, *_ in bars], width=[stop - start for start, stop, *_ in bars],
            y=[closeness for _, _, closeness, _ in bars], text=[repr(text) for *_, text in bars],
            marker={"color": colors}, hoverinfo="text",
        )
    )  # fmt: skip
    return figure

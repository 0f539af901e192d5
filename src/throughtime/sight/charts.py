"""Three basic charts for arrays: lines, a heat map and bars. They require plotly, from the extra `report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from throughtime.sight.figures import line_style, new_figure, plotly


def lines(
    curves: Mapping[str, ArrayLike],
    *,
    title: str = "",
    x: str = "step",
    y: str = "",
    at: ArrayLike | None = None,
    log: bool = False,
) -> Any:
    """Draw curves over steps.

    Args:
        curves: the values of each curve by name, `[T]`.
        title: the figure's title.
        x, y: the axis titles.
        at: the horizontal position of each value, `[T]`; 0, 1, 2, ... by default.
        log: whether the vertical axis is logarithmic, in which case non-positive values are left out.

    Returns:
        A plotly figure.
    """
    figure = new_figure(title, x, y)
    for k, (name, values) in enumerate(curves.items()):
        shown = np.asarray(values, np.float64)
        if log:
            shown = np.where(shown > 0, shown, np.nan)
        where = None if at is None else np.asarray(at)
        figure.add_trace(plotly().Scatter(x=where, y=shown, mode="lines", name=name, line=line_style(k)))
    figure.update_yaxes(automargin=True)
    if log:
        figure.update_yaxes(type="log", exponentformat="power")
    if len(curves) > 1:  # between the title and the curves
        legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
        figure.update_layout(showlegend=True, legend=legend, margin_t=80 if title else 50)
    return figure


def heat_map(
    values: ArrayLike,
    *,
    title: str = "",
    x: str = "step",
    y: str = "unit",
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
) -> Any:
    """Draw a matrix as colors: blue below the middle of the limits, white at it, red above.

    Args:
        values: `[rows, columns]`, such as a recorded value's `[units, steps]`.
        title: the figure's title.
        x, y: the axis titles.
        rows, columns: labels to show instead of numbers.
        limits: the values at the two ends of the scale; by default symmetric about 0, up to the largest magnitude.

    Returns:
        A plotly figure.
    """
    shown = np.asarray(values, np.float64)
    largest = float(np.nanmax(np.abs(shown))) or 1.0
    low, high = limits or (-largest, largest)
    figure = new_figure(title, x, y)
    figure.add_trace(plotly().Heatmap(z=shown, zmin=low, zmax=high, colorscale="RdBu_r", colorbar={"thickness": 12}))
    if rows is not None:
        figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=list(rows))
    if columns is not None:
        figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=list(columns), tickangle=0)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def bars(values: Mapping[str, float], *, title: str = "", x: str = "", log: bool = False) -> Any:
    """Draw one bar per name, from top to bottom.

    Args:
        values: the value of each name.
        title: the figure's title.
        x: the axis title.
        log: whether the axis is logarithmic.

    Returns:
        A plotly figure.
    """
    figure = new_figure(title, x, "", height=100 + 26 * len(values))
    names = list(values)
    figure.add_trace(
        plotly().Bar(x=list(values.values()), y=names, orientation="h", marker={"color": line_style(0)["color"]})
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(type="log" if log else "linear", exponentformat="power")
    return figure

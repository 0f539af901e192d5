"""Plots for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_COLORS = ("blue", "yellow", "green", "magenta", "cyan", "red")


def logarithmic_plot(
    curves: Mapping[str, Sequence[float]], *, width: int = 64, decades: int = 6, level: float | None = None,
    axis: str = "", plain: bool = False,
) -> list[str]:  # fmt: skip
    """Plot curves over 0, 1, 2, ... on a logarithmic axis, as lines of text with rich markup.

    Args:
        curves: each curve's values, all of equal length; points outside the plot are left out.
        width: width of the plot without its axis, in columns.
        decades: powers of ten shown below the largest value.
        level: value at which to draw a horizontal line.
        axis: label of the horizontal axis.
        plain: whether to use only ASCII.

    Returns:
        The lines, including the legend.
    """
    marks, line, corner, bar, across = ("*o+x#%@&", "-", "+", "|", "-") if plain else ("●○▲△■□◆◇", "─", "└", "│", "┈")
    count = max(map(len, curves.values()))
    width = min(width, count)
    columns = [round(k * (count - 1) / max(1, width - 1)) for k in range(width)]
    largest = max((v for curve in curves.values() for v in curve if v > 0 and math.isfinite(v)), default=1.0)
    top = math.ceil(math.log10(largest) - 1e-9)
    height = 2 * decades + 1  # two lines per decade
    field = [[" "] * width for _ in range(height)]
    at_level = None if level is None else _row(level, top)
    if at_level is not None and at_level < height:
        field[at_level] = [across] * width
    for k, curve in enumerate(curves.values()):
        for column, n in enumerate(columns):
            row = _row(curve[n], top) if n < len(curve) else None
            if row is not None and row < height:
                field[row][column] = f"[{_COLORS[k % len(_COLORS)]}]{marks[k % len(marks)]}[/]"
    lines = []
    for r, places in enumerate(field):
        power = top - r // 2
        label = "" if r % 2 else "1" if power == 0 else f"1e{power:+d}"
        lines.append(f"{label:>6} {bar}{''.join(places)}")
    lines.append(f"{'':>6} {corner}{line * width}")
    lines.append(f"{'':>8}0{count - 1:>{width - 1}}  {axis}")
    for k, name in enumerate(curves):
        lines.append(f"{'':>8}[{_COLORS[k % len(_COLORS)]}]{marks[k % len(marks)]}[/] {name}")
    return lines


def _row(value: float, top: int) -> int | None:
    """Return the line on which a value is drawn, counted from the top."""
    if not value > 0 or not math.isfinite(value):
        return None
    return max(0, round((top - math.log10(value)) * 2))

"""Which units are on through a span of text, and where else the same ones are on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from throughtime.errors import UserError, nearest
from throughtime.sight.arrays import Array, as_array
from throughtime.sight.text import Span, pieces, span_of

_SIGNS = ("both", "positive", "negative")


class Occurrence(NamedTuple):
    """A stretch of steps at which the units of a match are on.

    Attributes:
        start, stop: the first step, and the one after the last.
        closeness: of the units that are on through the span or through this stretch, the share that is on through both
            (the Jaccard index).
        text: the symbols there; empty where the text is not known.
    """

    start: int
    stop: int
    closeness: float
    text: str


@dataclass(frozen=True)
class Match:
    """The units that are on through a span, and its other occurrences.

    Attributes:
        start, stop: the span: its first step, and the one after its last.
        units: the numbers of the units that are on at each of its steps, `[K]`.
        signs: 1 for a unit that is above the threshold there, -1 for one that is under its negative, `[K]`.
        occurrences: the other stretches where they are on, those most like the span first.
        threshold: the threshold.
    """

    start: int
    stop: int
    units: Array
    signs: Array
    occurrences: tuple[Occurrence, ...]
    threshold: float

    def figure(self) -> Any:
        """How many steps each place takes, and how close it is; a plotly figure."""
        from throughtime.sight.figures import match_bars

        return match_bars(self)


def match(
    values: Any,
    span: Span,
    text: str | Sequence[str] | None = None,
    *,
    threshold: float = 0.3,
    sign: str = "both",
    edges: bool = False,
    share: float = 1.0,
) -> Match:
    """The units that are on through a span of text, and where else the same units are on.

    After LSTMVis (Strobelt et al. 2018, arXiv:1606.07461): a unit is on where its value is above a threshold; a
    hypothesis is the set of units that are on at all steps of a span, and it is tested by the
    other stretches where they are on.

    Args:
        values: a recorded value, `[T, H]` or `[T, 1, H]`.
        span: the steps `(start, stop)`, or some text, whose first place is taken.
        text: the text that was read, one character or one symbol of it for each step.
        threshold: above what a unit is on.
        sign: `"positive"`: above the threshold; `"negative"`: under its negative; `"both"`: either, with the same sign
            at all steps.
        edges: whether a unit must be off right before the span and right after it.
        share: the share of the units that must be on at a place.

    Returns:
        The units and their occurrences; none where no unit is on through the span.

    Raises:
        UserError: if an argument does not fit, or the span is not in the text.
        DataError: if the text has another length than the values.
    """
    array = as_array(values, "values", "T B H")
    array = as_array(array[:, 0] if array.shape[1] == 1 else array, "values of one row", "T H")
    symbols = None if text is None else pieces(text, len(array))
    start, stop = span_of(span, symbols, len(array))
    if sign not in _SIGNS:
        raise UserError(f"sign is one of {', '.join(_SIGNS)}; given {sign!r}{nearest(str(sign), _SIGNS)}.")
    if not threshold >= 0 or not 0 < share <= 1:
        raise UserError(f"the threshold is 0 or more and the share over 0 to 1; given {threshold!r} and {share!r}.")
    above = [array > threshold] if sign != "negative" else []
    below = [array < -threshold] if sign != "positive" else []
    found = [(s, on) for s, of in ((1, above), (-1, below)) for on in of]
    on = np.concatenate([on for _, on in found], 1)
    numbers = np.concatenate([np.arange(array.shape[1])] * len(found))
    signs = np.repeat([s for s, _ in found], array.shape[1])
    chosen: Array = np.all(on[start:stop], 0)
    if edges:
        for outside in (start - 1, stop):
            if 0 <= outside < len(on):
                chosen &= ~on[outside]
    occurrences = _occurrences(on, chosen, start, stop, share, symbols) if chosen.any() else ()
    return Match(start, stop, numbers[chosen], signs[chosen], occurrences, float(threshold))


def _occurrences(
    on: Array, chosen: Array, start: int, stop: int, share: float, symbols: Sequence[str] | None
) -> tuple[Occurrence, ...]:
    here = on[:, chosen].mean(1) >= share
    edges = np.flatnonzero(np.diff(np.concatenate([[False], here, [False]]).astype(np.int8)))
    occurrences = []
    for first, after in edges.reshape(-1, 2).tolist():
        if first < stop and after > start:  # the span itself
            continue
        through = on[first:after].all(0)
        closeness = float((through & chosen).sum() / (through | chosen).sum())
        text = "" if symbols is None else "".join(symbols[first:after])
        occurrences.append(Occurrence(first, after, closeness, text))
    length = stop - start
    return tuple(sorted(occurrences, key=lambda p: (-p.closeness, abs(p.stop - p.start - length), p.start)))

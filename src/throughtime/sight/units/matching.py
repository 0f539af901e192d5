"""Find the units that are on throughout a span of text, and the other places where they are on."""

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
    """A range of steps at which a match's units are on.

    Attributes:
        start, stop: the range of steps; `stop` is exclusive.
        closeness: the Jaccard index of the sets of units that are on throughout the span and throughout this range.
        text: the tokens in the range; empty if the text is unknown.
    """

    start: int
    stop: int
    closeness: float
    text: str


@dataclass(frozen=True)
class Match:
    """The units that are on throughout a span, and its other occurrences.

    Attributes:
        start, stop: the span's range of steps; `stop` is exclusive.
        units: the numbers of the units that are on at every step of the span, `[K]`.
        signs: 1 for a unit above the threshold, -1 for one below its negative, `[K]`.
        occurrences: the other ranges of steps in which the units are on, most similar first.
        threshold: the threshold.
    """

    start: int
    stop: int
    units: Array
    signs: Array
    occurrences: tuple[Occurrence, ...]
    threshold: float

    def figure(self) -> Any:
        """Return a plotly figure of each occurrence's length and closeness."""
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
    """Find the units that are on throughout a span of text, and where else they are on.

    Follows LSTMVis (Strobelt et al. 2018, arXiv:1606.07461): a unit is on where its value exceeds a threshold. The
    units that are on at every step of a span suggest a hypothesis; the other places where they are on test it.

    Args:
        values: a recorded value, `[T, H]` or `[T, 1, H]`.
        span: the steps `(start, stop)`, or some text, whose first occurrence is used.
        text: the text that was read, one character or token per step.
        threshold: the value above which a unit is on.
        sign: `"positive"`: above the threshold; `"negative"`: below its negative; `"both"`: either, with the same sign
            at every step.
        edges: whether a unit must be off just before and just after the span.
        share: the fraction of the units that must be on in an occurrence.

    Returns:
        The units and their occurrences; empty if no unit is on throughout the span.

    Raises:
        UserError: if an argument is invalid, or the span is not in the text.
        DataError: if the lengths of the text and the values differ.
    """
    array = as_array(values, "values", "T B H")
    array = as_array(array[:, 0] if array.shape[1] == 1 else array, "values of one sequence", "T H")
    tokens = None if text is None else pieces(text, len(array))
    start, stop = span_of(span, tokens, len(array))
    if sign not in _SIGNS:
        raise UserError(f"sign must be one of {', '.join(_SIGNS)}, got {sign!r}{nearest(str(sign), _SIGNS)}")
    if not threshold >= 0 or not 0 < share <= 1:
        raise UserError(f"threshold must be >= 0 and share in (0, 1], got {threshold!r} and {share!r}")
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
    occurrences = _occurrences(on, chosen, start, stop, share, tokens) if chosen.any() else ()
    return Match(start, stop, numbers[chosen], signs[chosen], occurrences, float(threshold))


def _occurrences(
    on: Array, chosen: Array, start: int, stop: int, share: float, tokens: Sequence[str] | None
) -> tuple[Occurrence, ...]:
    here = on[:, chosen].mean(1) >= share
    edges = np.flatnonzero(np.diff(np.concatenate([[False], here, [False]]).astype(np.int8)))
    occurrences = []
    for first, after in edges.reshape(-1, 2).tolist():
        if first < stop and after > start:  # the span itself
            continue
        through = on[first:after].all(0)
        closeness = float((through & chosen).sum() / (through | chosen).sum())
        text = "" if tokens is None else "".join(tokens[first:after])
        occurrences.append(Occurrence(first, after, closeness, text))
    length = stop - start
    return tuple(sorted(occurrences, key=lambda p: (-p.closeness, abs(p.stop - p.start - length), p.start)))

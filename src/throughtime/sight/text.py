"""Text beside recorded values: its symbols, spans of it, and what a reader sees at each symbol."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from throughtime.errors import DataError, UserError, nearest
from throughtime.sight.arrays import Array

Span = str | tuple[int, int]
HEADING = 40  # characters of a line that may still be a heading


def pieces(text: str | Sequence[str], steps: int) -> list[str]:
    """The symbols of a text, one for each step of recorded values.

    Args:
        text: a text, each character of which is a symbol, or its symbols, which make the text one after the other.
        steps: how many there must be.

    Raises:
        DataError: if there are none, or another number of them.
    """
    symbols = list(text)
    if not symbols or not all(isinstance(symbol, str) for symbol in symbols):
        raise DataError(f"a text, or its symbols, is wanted, with one symbol at least; given {text!r:.60}.")
    if len(symbols) != steps:
        raise DataError(
            f"the text has {len(symbols)} symbols, and values of {steps} steps were given: both are to be of one run, "
            "one symbol for each step."
        )
    return symbols


def span_of(span: Span, symbols: Sequence[str] | None, steps: int) -> tuple[int, int]:
    """The first step of a span and the one after its last.

    Args:
        span: steps, `(start, stop)`, or some text, whose first place is taken.
        symbols: the text's symbols, where it is known.
        steps: the number of steps.

    Raises:
        UserError: if it is empty, or not in the text.
    """
    if isinstance(span, str):
        if symbols is None:
            raise UserError(f"the span {span!r} is looked for in a text: give the text, or the span as (start, stop).")
        whole = "".join(symbols)
        found = whole.find(span) if span else -1
        if found < 0:
            hint = nearest(span, set(re.findall(r"\S+", whole))) if span else ""
            raise UserError(f"the span {span!r} is not in the text{hint}.")
        starts = [0, *accumulate(map(len, symbols))]
        first = int(np.searchsorted(starts, found, "right")) - 1
        return first, int(np.searchsorted(starts, found + len(span), "left"))
    try:
        start, stop = (int(end) for end in span)
    except (TypeError, ValueError):
        raise UserError(f"a span is some text or steps (start, stop); given {span!r}.") from None
    if not 0 <= start < stop <= steps:
        raise UserError(f"a span is steps (start, stop) with 0 <= start < stop <= {steps}; given {(start, stop)}.")
    return start, stop


@dataclass(frozen=True)
class Feature:
    """What a reader sees at each symbol of a text.

    Attributes:
        name: in plain words, such as "inside quotes".
        measure: 0 or 1 at each character, or how many characters there have been since something began.
        along: what a count runs along, such as "a line"; None for a feature that is there or not.
        memory: whether it takes more than the symbol itself to know it.
    """

    name: str
    measure: Callable[[str], Array]
    along: str | None = None
    memory: bool = True


def measured(feature: Feature, symbols: Sequence[str]) -> Array:
    """A feature at each symbol, as it is at the symbol's last character."""
    at_characters = feature.measure("".join(symbols))
    ends = np.array(list(accumulate(map(len, symbols)))) - 1
    at_symbols: Array = at_characters[np.maximum(ends, 0)]
    return at_symbols


def _each(holds: Callable[[str], bool]) -> Callable[[str], Array]:
    return lambda text: np.fromiter((holds(c) for c in text), np.int64, len(text))


def _since(pattern: str) -> Callable[[str], Array]:
    """How many characters there have been since the last match of a pattern ended."""

    def measure(text: str) -> Array:
        begins = np.zeros(len(text), np.int64)
        for found in re.finditer(pattern, text):
            if found.end() < len(text):
                begins[found.end()] = found.end()
        return np.arange(len(text)) - np.maximum.accumulate(begins)

    return measure


def _within(pattern: str) -> Callable[[str], Array]:
    """Whether a character is within a match of a pattern."""

    def measure(text: str) -> Array:
        inside = np.zeros(len(text), np.int64)
        for found in re.finditer(pattern, text, re.M):
            inside[found.start() : found.end()] = 1
        return inside

    return measure


def _before(character: str) -> Callable[[str], Array]:
    return lambda text: np.fromiter((c == character for c in text[1:] + "\0"), np.int64, len(text))


FEATURES = (
    Feature("position in the line", _since(r"\n"), "a line"),
    Feature("position in the word", _since(r"[^\w']"), "a word"),
    Feature("position in the sentence", _since(r"[.!?]+\s+|\n\s*\n"), "a sentence"),
    Feature("position in the paragraph", _since(r"\n\s*\n"), "a paragraph"),
    Feature("inside quotes", _within(r"\"[^\"]{1,1000}\"?|“[^”]{1,1000}”?|«[^»]{1,1000}»?")),
    Feature("inside brackets", _within(r"\([^()]{1,500}\)?|\[[^\[\]]{1,500}\]?|\{[^{}]{1,500}\}?")),
    Feature("inside tags", _within(r"<[^<>\n]{1,200}>")),
    Feature("in a heading that ends in a colon", _within(rf"^[^\n:]{{1,{HEADING}}}:$")),
    Feature("in the indentation", _within(r"^[ \t]+")),
    Feature("in comments", _within(r"(^|\s)(#|//)[^\n]*")),
    Feature("in capitalised words", _within(r"\b[^\W\d_a-z][\w']*")),
    Feature("in words all in capitals", _within(r"\b[^\W\d_a-z]{2,}\b")),
    Feature("just before a line's end", _before("\n")),
    Feature("just before a space", _before(" ")),
    Feature("at line ends", _each(lambda c: c == "\n"), memory=False),
    Feature("at spaces", _each(lambda c: c == " "), memory=False),
    Feature("at capital letters", _each(str.isupper), memory=False),
    Feature("at small letters", _each(str.islower), memory=False),
    Feature("at vowels", _each(lambda c: c.lower() in "aeiouyäöüáéíóúàèìòùâêîôû"), memory=False),
    Feature("at digits", _each(str.isdigit), memory=False),
    Feature("at punctuation", _each(lambda c: not (c.isalnum() or c.isspace())), memory=False),
)

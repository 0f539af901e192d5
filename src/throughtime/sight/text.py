"""Text that accompanies recorded values: its tokens, spans, and features such as "inside quotes"."""

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
    """Split a text into tokens, one per step of recorded values.

    Args:
        text: a text, each character of which is a token, or a sequence of tokens.
        steps: the required number of tokens.

    Raises:
        DataError: if there are no tokens, or a different number of them.
    """
    tokens = list(text)
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise DataError(f"text must be a non-empty string or sequence of tokens, got {text!r:.60}")
    if len(tokens) != steps:
        raise DataError(
            f"the text has {len(tokens)} tokens, but the values have {steps} steps: both must come from the same "
            "run, with one token per step"
        )
    return tokens


def span_of(span: Span, tokens: Sequence[str] | None, steps: int) -> tuple[int, int]:
    """Return the range of steps that a span covers, `stop` exclusive.

    Args:
        span: steps, `(start, stop)`, or some text, whose first occurrence is used.
        tokens: the text's tokens, if known.
        steps: the number of steps.

    Raises:
        UserError: if the span is empty, or not in the text.
    """
    if isinstance(span, str):
        if tokens is None:
            raise UserError(f"the span {span!r} requires text to search; pass text, or the span as (start, stop)")
        whole = "".join(tokens)
        found = whole.find(span) if span else -1
        if found < 0:
            hint = nearest(span, set(re.findall(r"\S+", whole))) if span else ""
            raise UserError(f"the span {span!r} is not in the text{hint}")
        starts = [0, *accumulate(map(len, tokens))]
        first = int(np.searchsorted(starts, found, "right")) - 1
        return first, int(np.searchsorted(starts, found + len(span), "left"))
    try:
        start, stop = (int(end) for end in span)
    except (TypeError, ValueError):
        raise UserError(f"span must be text or steps (start, stop), got {span!r}") from None
    if not 0 <= start < stop <= steps:
        raise UserError(f"span must satisfy 0 <= start < stop <= {steps}, got {(start, stop)}")
    return start, stop


@dataclass(frozen=True)
class Feature:
    """A feature of a text at each token, such as "inside quotes" or the position in a line.

    Attributes:
        name: its name, such as "inside quotes".
        measure: computes 0 or 1 at each character, or the number of characters since something began.
        along: the unit that a count runs along, such as "a line"; None for a feature that is present or absent.
        memory: whether recognizing it takes more than the current token.
    """

    name: str
    measure: Callable[[str], Array]
    along: str | None = None
    memory: bool = True


def measured(feature: Feature, tokens: Sequence[str]) -> Array:
    """Compute a feature at each token, as of the token's last character."""
    at_characters = feature.measure("".join(tokens))
    ends = np.array(list(accumulate(map(len, tokens)))) - 1
    at_tokens: Array = at_characters[np.maximum(ends, 0)]
    return at_tokens


def _each(holds: Callable[[str], bool]) -> Callable[[str], Array]:
    return lambda text: np.fromiter((holds(c) for c in text), np.int64, len(text))


def _since(pattern: str) -> Callable[[str], Array]:
    """Return a function that counts the characters since the last match of a pattern ended."""

    def measure(text: str) -> Array:
        begins = np.zeros(len(text), np.int64)
        for found in re.finditer(pattern, text):
            if found.end() < len(text):
                begins[found.end()] = found.end()
        return np.arange(len(text)) - np.maximum.accumulate(begins)

    return measure


def _within(pattern: str) -> Callable[[str], Array]:
    """Return a function that marks the characters within matches of a pattern."""

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
    Feature("in capitalized words", _within(r"\b[^\W\d_a-z][\w']*")),
    Feature("in all-caps words", _within(r"\b[^\W\d_a-z]{2,}\b")),
    Feature("just before a line end", _before("\n")),
    Feature("just before a space", _before(" ")),
    Feature("at line ends", _each(lambda c: c == "\n"), memory=False),
    Feature("at spaces", _each(lambda c: c == " "), memory=False),
    Feature("at uppercase letters", _each(str.isupper), memory=False),
    Feature("at lowercase letters", _each(str.islower), memory=False),
    Feature("at vowels", _each(lambda c: c.lower() in "aeiouyäöüáéíóúàèìòùâêîôû"), memory=False),
    Feature("at digits", _each(str.isdigit), memory=False),
    Feature("at punctuation", _each(lambda c: not (c.isalnum() or c.isspace())), memory=False),
)

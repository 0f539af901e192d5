"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table whose columns are as wide in its source as in print; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)) + " |" for row in rows]
    yield lines[0]
    yield "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    yield from lines[1:]
    yield ""

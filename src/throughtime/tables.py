"""Tables in plain text, in Markdown, and in HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a plain-text table with left-aligned columns and return its lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Format a Markdown table whose columns are also aligned in the source; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)) + " |" for row in rows]
    yield lines[0]
    yield "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    yield from lines[1:]
    yield ""


def html_table(head: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Format an HTML table for a notebook; text is escaped, and all columns but the first are right-aligned.

    Args:
        head: the names of the columns.
        rows: the cells of each row.
        caption: the caption above the table; none if empty.
    """
    lines = ["<table>"]
    if caption:
        lines.append(f'<caption style="text-align: left">{escape(caption)}</caption>')
    lines += [f"<thead>{_html_row(head, 'th')}</thead>", "<tbody>", *(_html_row(row, "td") for row in rows)]
    return "\n".join([*lines, "</tbody>", "</table>"])


def html_text(text: str) -> str:
    """Format text as escaped, monospaced HTML for a notebook."""
    return f"<pre>{escape(text)}</pre>"


def _html_row(cells: Sequence[object], tag: str) -> str:
    sides = ["left", *["right"] * (len(cells) - 1)]
    return "".join(
        ["<tr>"]
        + [f'<{tag} style="text-align: {s}">{escape(str(c))}</{tag}>' for s, c in zip(sides, cells, strict=True)]
        + ["</tr>"]
    )

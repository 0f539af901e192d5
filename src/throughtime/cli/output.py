"""Print results: tables and source code for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from throughtime.paths import display_path

if TYPE_CHECKING:
    from rich.console import Console

    from throughtime.runs import Run


def console() -> Console:
    """Return a console for standard output: colored on a terminal, lines of any length in a pipe."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=piped, width=_UNBOUNDED if piped else None)


_UNBOUNDED = 100_000  # columns; wider than any table


@contextmanager
def starting() -> Iterator[None]:
    """Show on a terminal that torch is loading, which takes a few seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status("starting"):
        yield


def announce(run: Run, data: Sequence[str] = ()) -> None:
    """Print the run and its input to standard error."""
    layers = run.config.network.layers_in_words
    what = f"run {display_path(run.path)} ({run.config.task.task}, {layers}{'' if run.finished else f', {run.state}'})"
    names = ["standard input" if name == "-" else display_path(name) for name in data]
    print(f"{what} reads {', '.join(names)}" if names else what, file=sys.stderr, flush=True)


def show_python(source: str) -> None:
    """Print Python source, highlighted on a terminal."""
    out = console()
    if out.is_terminal and not out.no_color:
        from rich.syntax import Syntax

        out.print(Syntax(source, "python", theme="ansi_dark", background_color="default"), soft_wrap=True)
    else:
        print(source)


def show_json(result: Any) -> None:
    """Print a result as one line of JSON. Infinities and NaN, which JSON lacks, become null."""
    text = json.dumps(_finite(result), ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal with a smaller character set
        text = json.dumps(_finite(result), allow_nan=False)
    print(text)


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(v) for key, v in value.items()}
        case list() | tuple():
            return [_finite(v) for v in value]
        case float() if not math.isfinite(value):
            return None
    return value


def show_rows(rows: Sequence[tuple[str, str]], indent: str = "") -> None:
    """Print labels and texts in two columns, wrapping long texts within their column."""
    width = max(len(label) for label, _ in rows) + 2
    out = console()
    for label, text in rows:
        first = f"{indent}{label:<{width}}"
        if out.width - len(first) < _MIN_WRAPPED or not out.is_terminal:
            print(first + text)
        else:
            print(textwrap.fill(text, out.width, initial_indent=first, subsequent_indent=" " * len(first)))


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with the first column left-aligned and the others right-aligned."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for k, name in enumerate(head):
        table.add_column(escape(name), justify="right" if k else "left", no_wrap=not k)
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)


_MIN_WRAPPED = 20  # columns; narrower columns are not wrapped

"""`throughtime runs`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.output import console, show_json
from throughtime.errors import RunError, UserError
from throughtime.paths import RUNS, display_path, missing, runs_in
from throughtime.spelling import command, counted

if TYPE_CHECKING:
    from throughtime.runs import Run

_COLUMNS = ("run", "task", "cell", "data", "result", "started")
_LEAST = {"data": 4, "run": 21}  # minimum widths of the columns that may be shortened, in order: runs/DATE-TIME and "…"
_GAP = 2


def runs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory that holds the runs.")] = Path(RUNS),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, a list.")] = False,
) -> None:
    """The newest run comes last. Any command that takes a RUN accepts `latest` for the newest run under `runs`."""
    if directory != Path(RUNS) and not directory.is_dir():
        raise UserError(f"{display_path(directory)} is a file" if directory.exists() else missing(directory))
    found: list[dict[str, Any]] = []
    damaged: list[str] = []
    for path in runs_in(directory):
        from throughtime.runs import Run

        try:
            found.append(_of(Run.open(path), damaged))
        except UserError as error:
            damaged.append(str(error))
    if as_json:
        show_json(found)
        return
    if not found and not damaged:
        inside = directory / RUNS  # of a comparison
        if runs_in(inside):
            listing = command(f"runs {shlex.quote(display_path(inside))}")
            print(f"{display_path(directory)} is a study. List its runs with: {listing}")
        else:
            print(f"No runs in {display_path(directory)}. Start one with: throughtime train")
        return
    if found:
        _show(found)
        if any(each["partial"] for each in found):
            print(f"\n~ measured on part of the data; measure on all of them with: {command('evaluate RUN')}")
    for message in damaged:
        print(f"\n{message}")


def _of(run: Run, damaged: list[str]) -> dict[str, Any]:
    """Return a run's row; append to `damaged` what can't be read."""
    from throughtime.runs import Headline

    network, task = run.config.network, run.config.task.task
    kind = f"bidirectional {network.cell}" if network.bidirectional else network.cell
    try:
        headline = run.headline()
    except RunError as error:
        damaged.append(str(error))
        monitor = run.task.monitor
        headline = Headline("valid", monitor, run.task.label(monitor), None)
    return {
        "run": display_path(run.path),
        "task": task,
        "cell": f"{network.num_layers} x {kind} {network.hidden_size}",
        "data": run.record.data.name,
        **asdict(headline),
        "shown": str(headline),
        "state": run.state,
        "created": run.record.created.isoformat(timespec="seconds"),
    }


def _show(found: Sequence[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    rows = []
    for each in found:
        name = Path(each["data"]).name or each["data"]
        started = _age(each["created"]) + ("" if each["state"] == "finished" else f", {each['state']}")
        rows.append((each["run"], each["task"], each["cell"], name, each["shown"] or "-", started))
    widths = _widths(rows, out.width)
    if widths is None:
        for run, *others in rows:
            out.print(f"[bold]{escape(run)}[/]\n  {escape(', '.join(others))}")
        return
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="bold", pad_edge=False)
    for column, width in zip(_COLUMNS, widths, strict=True):
        table.add_column(column, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


def _widths(rows: Sequence[Sequence[str]], available: int) -> list[int] | None:
    """Return the width of each column, with the data and then the run shortened to fit; None if that isn't enough."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    excess = sum(widths) + _GAP * (len(widths) - 1) - available
    for name, least in _LEAST.items():
        at = _COLUMNS.index(name)
        cut = max(0, min(excess, widths[at] - least))
        widths[at] -= cut
        excess -= cut
    return widths if excess <= 0 else None


def _age(created: str) -> str:
    """Format how long ago a moment was, in the largest unit that fits."""
    seconds = max(0.0, (datetime.now().astimezone() - datetime.fromisoformat(created)).total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return f"{counted(seconds // size, unit)} ago"
    return "just now"

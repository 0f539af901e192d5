"""`throughtime tune`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from throughtime.cli.cell_option import CELL_HELP, named_cell, named_cells
from throughtime.cli.config_options import with_config_options
from throughtime.cli.output import console, show_json, show_table, starting
from throughtime.errors import UserError
from throughtime.paths import display_path

_PANEL = "Search"


@with_config_options
def tune(
    data: Annotated[
        list[str] | None, typer.Argument(metavar="DATA", help="Files and directories, as `throughtime train` takes.")
    ] = None,
    *,
    trials: Annotated[
        int,
        typer.Option(
            metavar="N", help="Trials of the search, those of earlier calls included.", rich_help_panel=_PANEL
        ),
    ] = 20,
    cells: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help=f"The cells to choose from, separated by commas; each is {CELL_HELP}.",
            rich_help_panel=_PANEL,
        ),
    ] = "gru,lstm,rnn",
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A database that several processes and machines share, such as postgresql://HOST/NAME or "
            "sqlite:///FILE, or journal:FILE; a file in --out for one process if not given.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one line of JSON, the result.", rich_help_panel=_PANEL)
    ] = False,
    **given: Any,
) -> None:
    """Options that are given are not varied; --minutes is the time for the whole search, --epochs or --steps are those
    of a trial. The search doesn't see the test data, by which the best trial is measured at the end.

    The same command with the same --out or --storage resumes a search.
    """  # fmt: skip
    fields = {name: value for name, value in {"data": data or None, **given}.items() if value is not None}
    if "minutes" in fields:
        fields["minutes"] = _minutes(fields["minutes"])
    found = [named_cell(str(fields.pop("cell")))] if "cell" in fields else named_cells(cells)
    with starting():
        from throughtime.studies.tune import tune as run
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        result = run(trials=trials, cells=found, storage=storage, **fields)
        _show(result)
    if as_json:
        show_json(result)


def _minutes(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--minutes must be a positive number, got {text!r}") from None


def _show(result: dict[str, Any]) -> None:
    from throughtime.studies.search_page import head, rows, sentences

    out = console()
    show_table(head(result), rows(result))
    print()
    for line in sentences(result):
        out.print(line, markup=False)
    print(
        f"\nSaved to {display_path(result['folder'])}. As a page for a browser: {display_path(result['page'])}. Next:\n"
    )
    print(f"  throughtime train --config {display_path(result['config'])}")

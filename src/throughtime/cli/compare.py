"""`throughtime compare`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from throughtime.cli.cell_option import CELL_HELP, named_cells
from throughtime.cli.config_options import with_config_options
from throughtime.cli.output import console, show_json, show_table, starting
from throughtime.paths import display_path


@with_config_options
def compare(
    data: Annotated[
        list[str] | None, typer.Argument(metavar="DATA", help="Files and directories, as `throughtime train` takes.")
    ] = None,
    *,
    cells: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help=f"The cells, separated by commas; each is {CELL_HELP}.", rich_help_panel="Comparison"
        ),
    ] = "rnn,lstm,gru",
    params: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Parameters of each network, such as 200k; those of an LSTM with --hidden units if not given.",
            rich_help_panel="Comparison",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N", help="Runs of each cell; differences are claimed from 5 on.", rich_help_panel="Comparison"
        ),
    ] = 3,
    jobs: Annotated[
        int,
        typer.Option(
            metavar="N", help="Runs trained at the same time; not with --minutes.", rich_help_panel="Comparison"
        ),
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one line of JSON, the result.", rich_help_panel="Comparison")
    ] = False,
    **given: Any,
) -> None:
    """Every cell gets the same number of parameters and the same --steps, --epochs or --minutes a run. The table has
    the mean over seeds on held-out data; from 5 seeds on a paired bootstrap tells which differences are real.

    All runs are below one folder, --out. The same command with the same --out resumes a comparison, or adds cells and
    seeds to it.
    """
    found = named_cells(cells)
    fields = {name: value for name, value in {"data": data or None, **given}.items() if value is not None}
    count = None if params is None else number(params)
    with starting():
        from throughtime.studies.compare import compare as run
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        result = run(cells=found, params=count, seeds=seeds, jobs=jobs, **fields)
        _show(result)
    if as_json:
        show_json(result)


def number(text: str) -> int:
    """A number of parameters such as 200000, 200k or 1.5M.

    Raises:
        typer.BadParameter: it is something else.
    """
    scale = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    try:
        value = float(text[:-1] if scale > 1 else text) * scale
        if value >= 1 and value == value // 1:
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(f"--params must be a positive number such as 200000, 200k or 1.5M, got {text!r}")


def _show(result: dict[str, Any]) -> None:
    from throughtime.studies.comparison_page import claims, head, rows

    out = console()
    show_table(head(result), rows(result))
    for line in (*claims(result), *result["notes"]):
        out.print(line, markup=False)
    print(f"\nSaved to {display_path(result['folder'])}. As a page for a browser: {display_path(result['page'])}")

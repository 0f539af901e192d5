"""Arguments, options and output shared by the commands that run studies."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.cell_option import CELL_HELP
from throughtime.cli.output import console, show_json, show_table
from throughtime.paths import display_path

if TYPE_CHECKING:
    from throughtime.studies.result import StudyResult

TrainDataArgument = Annotated[
    list[str] | None, typer.Argument(metavar="DATA", help="Files and directories, as for `throughtime train`.")
]


def cells_option(panel: str, purpose: str = "The cells") -> Any:
    """Return the `--cells` option.

    Args:
        panel: the option's heading in the help.
        purpose: the start of the help text, which says what the cells are used for.
    """
    return typer.Option(
        metavar="NAMES", help=f"{purpose}, separated by commas; each is {CELL_HELP}.", rich_help_panel=panel
    )


def json_option(panel: str) -> Any:
    """Return the `--json` option of a long-running command."""
    return typer.Option("--json", help="Print the result as one line of JSON at the end.", rich_help_panel=panel)


def run_study(
    study: Callable[[], StudyResult], as_json: bool, hint: Callable[[StudyResult], str] = lambda result: ""
) -> None:
    """Run a study and show its result.

    Args:
        study: the function that runs the study.
        as_json: whether to print only the result to standard output, as one line of JSON.
        hint: returns the text that tells the user what to do next.
    """
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        result = study()
        show_table(result.head, result.rows)
        print()
        for line in result.sentences:
            console().print(line, markup=False)
        page = display_path(result["page"])
        print(f"\nSaved to {display_path(result['folder'])}. Open in a browser: {page}{hint(result)}")
    if as_json:
        show_json(result)

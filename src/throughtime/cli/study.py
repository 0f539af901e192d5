"""What the commands of studies share: arguments and options, and how they show a result."""

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

DataArgument = Annotated[
    list[str] | None, typer.Argument(metavar="DATA", help="Files and directories, as `throughtime train` takes.")
]


def cells_option(panel: str, purpose: str = "The cells") -> Any:
    """The option `--cells`.

    Args:
        panel: the heading of the help under which it stands.
        purpose: what the cells are for.
    """
    return typer.Option(
        metavar="NAMES", help=f"{purpose}, separated by commas; each is {CELL_HELP}.", rich_help_panel=panel
    )


def json_option(panel: str) -> Any:
    """The option `--json` of a command that works for a while."""
    return typer.Option("--json", help="End with one line of JSON, the result.", rich_help_panel=panel)


def run_study(
    study: Callable[[], StudyResult], as_json: bool, hint: Callable[[StudyResult], str] = lambda result: ""
) -> None:
    """Run a study and show its result.

    Args:
        study: runs it.
        as_json: whether standard output gets the result as one line of JSON alone.
        hint: what to tell the user to do next.
    """
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        result = study()
        show_table(result.head, result.rows)
        print()
        for line in result.sentences:
            console().print(line, markup=False)
        page = display_path(result["page"])
        print(f"\nSaved to {display_path(result['folder'])}. As a page for a browser: {page}{hint(result)}")
    if as_json:
        show_json(result)

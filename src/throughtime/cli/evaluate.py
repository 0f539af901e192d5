"""`throughtime evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.figures import figure_rows
from throughtime.cli.output import show_json, show_rows, starting


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")],
    data: Annotated[
        list[str], typer.Argument(metavar="DATA", help="Files and directories of text; - is standard input.")
    ],
    *,
    encoding_errors: Annotated[
        str | None,
        typer.Option(metavar="strict|replace", help="What to do with bytes that are not UTF-8; strict refuses them."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What runs the recurrent layers; as in training if not given."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one line of JSON.")] = False,
) -> None:
    """The state is carried through the whole text, so the figures depend on nothing but the weights and the text."""
    from throughtime.runs import Run

    opened = Run.open(run)  # before torch is loaded, so that a mistake is told at once
    with starting():
        from throughtime.training.display import Display
        from throughtime.training.evaluation import evaluate as figures_on
    given = {"encoding_errors": encoding_errors} if encoding_errors is not None else {}
    with Display(shown=True) as display:
        figures = figures_on(opened, data, engine=engine, progress=display.progress, **given)
    if as_json:
        show_json(figures)
    else:
        show_rows(figure_rows(figures, opened.vocabulary.level))

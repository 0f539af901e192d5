"""`throughtime evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.figures import evaluation_rows
from throughtime.cli.output import announce, show_json, show_rows, starting


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory, or latest.")],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA]",
            help="Files and directories; - is standard input, for text. Default: the test data of the run, or the "
            "validation data if there are none.",
        ),
    ] = None,
    *,
    windows: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="For forecasts: evaluate on the last N windows of each series (rolling origin)."
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="For forecasts: rows from one window's origin to the next. Default: the horizon."
        ),
    ] = None,
    encoding_errors: Annotated[
        str | None,
        typer.Option(metavar="strict|replace", help="How to handle bytes that are not UTF-8; strict rejects them."),
    ] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="For effects: a knob's setting. Repeatable."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Engine for the recurrent layers. Default: as in training."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one line of JSON.")] = False,
) -> None:
    """Results are shown next to those of the task's baselines. A text is read as one sequence, carrying the state."""
    from throughtime.runs import Run

    opened = Run.open(run)  # before torch is loaded, so that mistakes are reported at once
    announce(opened, data or ["the held-out data"])
    with starting():
        from throughtime.training.display import Display
        from throughtime.training.inference import evaluated
    with Display(shown=True) as display:
        found = evaluated(
            opened, data or None, windows=windows, step=step, knob=knob or None,
            encoding_errors=encoding_errors, engine=engine, progress=display.progress,
        )  # fmt: skip
    if as_json:
        show_json(found.data)
    else:
        show_rows(evaluation_rows(opened.task, found.data))

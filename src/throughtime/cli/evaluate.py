"""`throughtime evaluate`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from throughtime.cli.arguments import (
    EncodingErrorsOption,
    EngineOption,
    JsonOption,
    KnobOption,
    RunArgument,
)
from throughtime.cli.figures import evaluation_rows
from throughtime.cli.output import announce, show_json, show_rows
from throughtime.errors import UserError
from throughtime.paths import display_path, require_data


def evaluate(
    run: RunArgument,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="Files and directories; for text, - is standard input; for effects, pass a dry and a wet sound. "
            "Default: the test data of the run, or the validation data if there are none.",
        ),
    ] = None,
    *,
    windows: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="For forecasts: evaluate on the last N windows of each series (rolling origin)."
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="For forecasts: rows from one window's origin to the next. Default: the horizon."
        ),
    ] = None,
    encoding_errors: EncodingErrorsOption = None,
    knob: KnobOption = None,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Results are shown next to those of the task's baselines. A text is read as one sequence."""
    from throughtime.runs import Run
    from throughtime.training.display import Display
    from throughtime.training.inference import Inference

    for name, value in (("--windows", windows), ("--step", step)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    opened = Run.open(run)
    require_data(data or ())
    held_out = "test" if opened.record.data.counts.get("test") else "validation"
    announce(opened, data or [f"the {held_out} data"])
    seen = opened.trained_on(data or ())
    if seen and not opened.task.reads_test_part(data or ()):
        print(
            f"note: the run was trained on data in {', '.join(map(display_path, seen))}; "
            "to measure on data it hasn't seen, leave DATA out or pass other data",
            file=sys.stderr,
        )
    with Display(shown=True) as display:
        inference = Inference(opened, data or None, encoding_errors, knob or None, engine, display.progress)
        found = inference.evaluate(windows, step)
    if as_json:
        show_json(found.data)
    else:
        show_rows(evaluation_rows(opened.task, found.data))
    if not data and windows is step is None:
        opened.complete_result(found.data)

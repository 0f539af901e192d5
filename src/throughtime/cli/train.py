"""`throughtime train`."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.cell_option import named_cell
from throughtime.cli.config_options import from_file, option, with_config_options
from throughtime.cli.figures import duration, figure_rows
from throughtime.cli.output import console, show_json, show_rows, starting
from throughtime.errors import TrainingError
from throughtime.training.config import TrainConfig
from throughtime.training.processes import rank

if TYPE_CHECKING:
    from throughtime.runs import Run


@with_config_options
def train(
    data: Annotated[
        list[str] | None, typer.Argument(metavar="DATA", help="Files and directories of text; - is standard input.")
    ] = None,
    *,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Go on with the run in this directory.", rich_help_panel="Run"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take options from this JSON file, or from a run's config.json; those given here win.",
            rich_help_panel="Run",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one line of JSON, the result.", rich_help_panel="Run")
    ] = False,
    **given: Any,
) -> None:
    """Without DATA it learns from Python's own documentation, which is on every machine.

    The run's directory then holds the best weights, the figures and checkpoints to go on from.
    """
    fields = {name: value for name, value in {"data": data, **given}.items() if value is not None}
    if resume is not None and (fields or config):
        given = {"config": config, **fields} if config else fields
        wrong = ", ".join("DATA" if name == "data" else option(name) for name in given)
        raise TrainingError(f"--resume goes on with a run as it was begun: leave out {wrong}")
    if config is not None:
        fields = from_file(config) | fields
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        run = _run(resume, fields)
        if rank() == 0:
            _show(run)
    if as_json and rank() == 0:
        show_json(run.result)


def _run(resume: Path | None, fields: dict[str, Any]) -> Run:
    # What can be checked before torch is loaded is, so that a mistake is told at once.
    if resume is None:
        fields["cell"] = named_cell(str(fields.get("cell", TrainConfig.model_fields["cell"].default)))
        TrainConfig.of(**fields | {"cell": fields["cell"].name})
    else:
        from throughtime.runs import Run

        Run.open(resume)
    with starting():
        from throughtime.training import loop
    return loop.train(**fields) if resume is None else loop.resume(resume)


def _show(run: Run) -> None:
    from throughtime.training.sampling import first_samples

    result, level, out = run.result, run.config.level, console()
    assert result is not None
    for what, title in (("valid", "Held out"), ("test", "Test")):
        if result[what]:
            out.print(f"\n[bold]{title}[/]")
            show_rows(figure_rows(result[what], level), "  ")
    for number, text in enumerate(first_samples(run), 1):
        out.print(f"\n[bold]Sample {number}[/]\n")
        print(text.strip("\n"))
    path = shlex.quote(str(run.path))
    out.print("\n[bold]The run[/]\n")
    print(f"{result['steps']:,} steps in {duration(result['seconds'])}. It lies in {run.path}; go on from here with:\n")
    for command in ("sample {} --prompt TEXT", "evaluate {} FILE", "inspect {}", "info {}"):
        print(f"  throughtime {command.format(path)}")
    if run.report.is_file():
        print(f"\nHow it learnt, as a page for a browser: {run.report}")

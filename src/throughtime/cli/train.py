"""`throughtime train`."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.cell_option import named_cell
from throughtime.cli.config_options import from_file, with_config_options
from throughtime.cli.figures import duration, figure_rows
from throughtime.cli.output import console, show_json, show_rows, starting
from throughtime.errors import TrainingError
from throughtime.paths import display_path
from throughtime.spelling import flag, option
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
        typer.Option(
            metavar="DIR",
            help="Resume the run in this directory; with --steps, --epochs or --minutes, to a later end.",
            rich_help_panel="Run",
        ),
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
    fields = {name: value for name, value in {"data": data or None, **given}.items() if value is not None}
    wrong = [*(["config"] if config else []), *(name for name in fields if name not in _ENDS)]
    if resume is not None and wrong:
        names = ", ".join(map(option, wrong))
        ends = ", ".join(map(flag, _ENDS))
        raise TrainingError(f"--resume keeps a run's options: leave out {names}; only {ends} can be given")
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
        cell = named_cell(str(fields["cell"])) if "cell" in fields else None
        TrainConfig.of(**fields | ({"cell": cell.name} if cell else {}))
        fields["cell"] = cell
    else:
        from throughtime.runs import Run

        Run.open(resume)
        ends = TrainConfig.of(**fields)
        fields = {name: getattr(ends, name) for name in fields}
    with starting():
        from throughtime.training import loop
    return loop.train(**fields) if resume is None else loop.resume(resume, **fields)


_ENDS = ("steps", "epochs", "minutes")


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
    path = shlex.quote(display_path(run.path))
    out.print("\n[bold]The run[/]\n")
    print(f"{result['steps']:,} steps in {duration(result['seconds'])}. Saved to {display_path(run.path)}. Next:\n")
    for command in ("sample {} --prompt TEXT", "evaluate {} FILE", "inspect {}", "info {}"):
        print(f"  throughtime {command.format(path)}")
    if run.report.is_file():
        print(f"\nLearning curves and gradients, as a page for a browser: {display_path(run.report)}")

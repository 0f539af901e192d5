"""`throughtime train`."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.cell_option import named_cell
from throughtime.cli.config_options import from_file, with_config_options
from throughtime.cli.figures import results
from throughtime.cli.output import console, show_json, show_rows, starting
from throughtime.errors import TrainingError
from throughtime.paths import display_path
from throughtime.spelling import command, counted, duration, flag, option
from throughtime.training.config import ENDS, TrainConfig
from throughtime.training.processes import rank

if TYPE_CHECKING:
    from throughtime.runs import Run


@with_config_options
def train(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="Files and directories; - reads text from standard input."),
    ] = None,
    *,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Resume the run in this directory, or latest (the newest under runs/); --steps, --epochs or --minutes "
            "sets a new end.",
            rich_help_panel="Run",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Repeat this run's steps with the learning rates it logged, as a new run with bitwise identical "
            "results; accepts only --out.",
            rich_help_panel="Run",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read options from this JSON file, or those of this run; the command line takes precedence.",
            rich_help_panel="Run",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one line of JSON at the end.", rich_help_panel="Run")
    ] = False,
    **given: Any,
) -> None:
    """For example, `throughtime train my.txt --minutes 10` trains on a text for ten minutes.

    Without DATA, train on Python's own documentation, which is on every machine.

    The run's directory holds the best weights, the results and checkpoints to resume from.
    """
    started = time.monotonic()
    fields = {name: value for name, value in {"data": data, **given}.items() if value not in (None, [])}
    for how, path, allowed in (("resume", resume, ENDS), ("replay", replay, ("out",))):
        others = {"config": config, "resume": resume, "replay": replay}
        wrong = [name for name, value in others.items() if value is not None and name != how]
        wrong += [name for name in fields if name not in allowed]
        if path is not None and wrong:
            names, only = ", ".join(map(option, wrong)), ", ".join(map(flag, allowed))
            raise TrainingError(f"{flag(how)} reuses the run's options and accepts only {only}; remove {names}")
    if config is not None:
        fields = from_file(config) | fields
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        run = None if resume is None or fields else _finished(resume)
        if run is None:
            run = _run(resume, replay, fields, started)
            if rank() == 0:
                _show(run)
        elif rank() == 0:
            print(run.finished_in_words)
    if as_json and rank() == 0:
        show_json(run.result)


def _finished(path: Path) -> Run | None:
    """Return the run to resume if it is already finished, else None."""
    from throughtime.runs import Run

    run = Run.open(path)
    return run if run.finished else None


def _run(resume: Path | None, replay: Path | None, fields: dict[str, Any], started: float) -> Run:
    # Validate as much as possible before torch is loaded, so that mistakes are reported at once.
    from throughtime.runs import Run

    if resume is not None:
        ends = TrainConfig.of(Run.open(resume).config.task.task, **fields).training
        with starting():
            from throughtime.training import loop
        return loop.resume(resume, **{name: getattr(ends, name) for name in fields})
    if replay is not None:
        Run.open(replay)
        with starting():
            from throughtime.training import loop
        return loop.replay(replay, **fields)
    from throughtime.training.display import Display
    from throughtime.training.start import Start

    cell = named_cell(str(fields["cell"])) if "cell" in fields else None
    start = Start.of({k: v for k, v in fields.items() if k not in ("task", "cell")}, fields.get("task"), cell)
    data = None
    if rank() == 0:  # the other processes wait for the first one's run
        with Display(shown=True) as display:
            data = start.read(display.progress)
    with starting():
        from throughtime.training import loop
    return loop.train_from(start, started, data)


def _show(run: Run) -> None:
    result, task, out = run.result, run.task, console()
    assert result is not None
    for title, rows in results(task, result):
        out.print(f"\n{title}")
        show_rows(rows, "  ")
    for number, text in enumerate(result["samples"], 1):
        out.print(f"\n[bold]Sample {number}[/]\n")
        print(text.strip("\n"))
    path = shlex.quote(display_path(run.path))
    out.print("\n[bold]Run[/]\n")
    took = f"{counted(result['steps'], 'step')} in {duration(result['seconds'])}"
    if result["best_step"] < result["steps"]:
        took += f"; kept the weights of step {result['best_step']:,}, the best in validation"
    print(f"{took}. Saved to {display_path(run.path)}. Next:\n")
    read = shlex.join(name for name in task.options.data or () if name != "-")
    for arguments in (*task.next_commands(run.description.codecs), "info {}"):
        if "DATA" not in arguments or read:
            print(f"  {command(arguments.replace('{}', path).replace('DATA', read))}")
    if run.report.is_file():
        print(f"\nOpen the report of this training in a browser: {display_path(run.report)}")

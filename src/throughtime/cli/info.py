"""`throughtime info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.figures import duration, figure_rows
from throughtime.cli.output import console, show_json, show_rows
from throughtime.levels import UNITS

if TYPE_CHECKING:
    from throughtime.runs import Run


def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, with every option.")] = False,
) -> None:
    """Nothing is run for it: all of it stands in the run's directory."""
    from throughtime.runs import Run

    opened = Run.open(run)
    result = opened.result
    if as_json:
        config = opened.config.model_dump(mode="json")
        show_json({"run": str(run), **opened.about, "config": config, "result": result})
        return
    console().print(f"[bold]{run}[/]", markup=True)
    show_rows(_rows(opened), "  ")
    for what, title in (("valid", "Validation"), ("test", "Test")):
        if result and result.get(what):
            console().print(f"[bold]{title}[/]")
            show_rows(figure_rows(result[what], opened.config.level), "  ")


def _rows(run: Run) -> list[tuple[str, str]]:
    config, about = run.config, run.about
    data, unit = run.record.data, UNITS[config.level]
    test = f", {data.test:,} for the test" if data.test else ""
    given = config.model_dump(
        exclude_defaults=True, exclude={"data", "cell", "hidden", "layers", "out", "level", "steps"}
    )
    streams = f"{run.plan.batch} streams, windows of {config.window} steps"
    rows = [
        ("begun", f"{run.record.created.astimezone():%Y-%m-%d %H:%M}"),
        ("text", data.name),
        (
            f"{unit}s",
            f"{data.train:,} for training, {data.valid:,} for validation{test}; {data.vocabulary:,} different",
        ),
        ("network", f"{config.layers} x {config.cell}, {config.hidden} units each{_size(about)}"),
        ("training", _progress(run)),
        ("by", f"{config.optimizer}, rate {config.learning_rate:g}, {config.schedule}; {streams}"),
    ]
    if given:
        rows.append(("options", ", ".join(f"{name.replace('_', '-')} {value}" for name, value in given.items())))
    rows.append(("versions", ", ".join(f"{name} {number}" for name, number in run.record.versions.items())))
    if not run.finished:
        rows.append(("go on with", f"throughtime train --resume {run.path}"))
    return rows


def _size(about: dict[str, Any]) -> str:
    return f"; {about['parameters']:,} parameters" if about["parameters"] else ""


def _progress(run: Run) -> str:
    result, steps = run.result, run.plan.steps
    if result:
        return f"finished: {result['steps']:,} steps in {duration(result['seconds'])}, best at {result['best_step']:,}"
    validated = [row for row in run.metrics() if row["valid_loss"] is not None]
    if not validated:
        return f"not finished: it was stopped before the first validation of {steps:,} steps"
    best = min(validated, key=lambda row: row["valid_loss"] or 0.0)
    return (
        f"not finished: validated last at {validated[-1]['step']:,.0f} of {steps:,} steps; "
        f"best at {best['step']:,.0f}, with {best['valid_loss']:.4f} nats per {UNITS[run.config.level]}"
    )

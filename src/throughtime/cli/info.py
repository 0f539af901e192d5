"""`throughtime info`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.figures import duration, figure_rows
from throughtime.cli.output import console, show_json, show_rows
from throughtime.levels import UNITS

if TYPE_CHECKING:
    from throughtime.model_file import ModelFile
    from throughtime.runs import Run


def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory, or a model's file.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, with every option.")] = False,
) -> None:
    """Nothing is run for it: all of it stands in the run's directory. A model's file tells its programs, too."""
    from throughtime.model_file import ModelFile, is_model_file

    if is_model_file(run):
        _show_file(ModelFile.open(run), as_json)
        return
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


def _show_file(file: ModelFile, as_json: bool) -> None:
    told, count = file.description, sum(map(math.prod, file.shapes.values()))
    if as_json:
        show_json({"file": str(file.path), "parameters": count, "dtype": file.dtype, **told.data})
        return
    rows = [("model", told.model), ("made with", _settings(told.settings))]
    rows.append(("weights", f"{count:,} of {file.dtype}"))
    vocabulary = file.vocabulary
    if vocabulary is not None:
        rows.append(("symbols", f"{vocabulary.size:,} {UNITS[vocabulary.level]}s"))
    console().print(f"[bold]{file.path}[/]", markup=True)
    show_rows(rows, "  ")
    for depth, program in enumerate(told.programs):
        console().print(f"[bold]Layer {depth}[/]")
        print(program)


def _settings(settings: Mapping[str, Any]) -> str:
    parts = []
    for name, value in settings.items():
        if name not in ("recurrent", "options"):
            parts.append(f"{name} {value}")
        elif value:
            parts.append(_settings(value))
    return ", ".join(parts)


def _rows(run: Run) -> list[tuple[str, str]]:
    config, about = run.config, run.about
    data, unit = run.record.data, UNITS[config.level]
    test = f", {data.test:,} for the test" if data.test else ""
    given = config.model_dump(
        exclude_defaults=True, exclude={"data", "cell", "hidden_size", "num_layers", "out", "level", "steps"}
    )
    streams = f"{run.plan.batch} streams, windows of {config.window} steps"
    rows = [
        ("begun", f"{run.record.created.astimezone():%Y-%m-%d %H:%M}"),
        ("text", data.name),
        (
            f"{unit}s",
            f"{data.train:,} for training, {data.valid:,} for validation{test}; {data.vocabulary:,} different",
        ),
        ("network", f"{config.num_layers} x {config.cell}, {config.hidden_size} units each{_size(about)}"),
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

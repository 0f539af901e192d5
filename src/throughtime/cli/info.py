"""`throughtime info`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.figures import results
from throughtime.cli.output import console, show_json, show_rows
from throughtime.paths import display_path
from throughtime.spelling import command, counted, duration, figure

if TYPE_CHECKING:
    from throughtime.model_file import ModelFile
    from throughtime.runs import Run


def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory, or latest, or a model file.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON that includes every option.")] = False,
) -> None:
    """Reads only the files in the run's directory. For a model file, show its programs as well."""
    from throughtime.model_file import ModelFile, is_model_file

    if is_model_file(run):
        _show_file(ModelFile.open(run), as_json)
        return
    from throughtime.runs import Run

    opened = Run.open(run)
    result = opened.result
    if as_json:
        config = opened.config.model_dump(mode="json")
        show_json({"run": str(opened.path), **opened.about, "config": config, "result": result})
        return
    console().print(f"[bold]{opened.path}[/]", markup=True)
    show_rows(_rows(opened), "  ")
    for title, rows in results(opened.task, result) if result else ():
        console().print(title)
        show_rows(rows, "  ")


def _show_file(file: ModelFile, as_json: bool) -> None:
    description, count = file.description, file.parameters
    if as_json:
        show_json({"file": str(file.path), "parameters": count, "dtype": file.dtype, **description.data})
        return
    rows = [("model", description.model), ("made with", _settings(description.settings))]
    rows.append(("weights", f"{count:,} ({file.dtype})"))
    if file.task is not None:
        rows.append(("task", file.task.name))
        for name, codec in vars(file.task.codecs).items():
            if codec is not None:
                rows.append((name, f"{codec}"))
    console().print(f"[bold]{file.path}[/]", markup=True)
    show_rows(rows, "  ")
    for depth, program in enumerate(description.programs):
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
    from throughtime.training.config import TrainConfig

    config, about, data = run.config, run.about, run.record.data
    training = config.training
    shown = {"cell", "hidden_size", "num_layers", "bidirectional", "optimizer", "lr", "schedule", "batch"}
    hidden = {"task", "data", "out", "steps", *shown}
    given = {
        name: value
        for name, value in config.given.items()
        if name not in hidden and value is not None and value != TrainConfig.of(type(run.task)).given[name]
    }
    rows = [
        ("started", f"{run.record.created.astimezone():%Y-%m-%d %H:%M}"),
        ("task", f"{run.task.name}: {run.task.about}"),
        ("data", data.name),
        ("", run.task.data_in_words(data.counts)),
        ("network", f"{config.network.layers_in_words}{_size(about)}"),
        ("training", _progress(run)),
        (
            "optimizer",
            (
                f"{training.optimizer}, learning rate {training.learning_rate:g}, schedule {training.schedule}, "
                f"batch size {run.plan.batch}"
            ),
        ),
    ]
    if given:
        rows.append(
            ("options", ", ".join(f"{name.replace('_', '-')} {_short(value)}" for name, value in given.items()))
        )
    rows.append(("versions", ", ".join(f"{name} {number}" for name, number in run.record.versions.items())))
    if not run.finished:
        rows.append(("resume with", command(f"train --resume {shlex.quote(display_path(run.path))}")))
    return rows


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _size(about: dict[str, Any]) -> str:
    return f"; {about['parameters']:,} parameters" if about["parameters"] else ""


def _progress(run: Run) -> str:
    result = run.result
    end = counted(run.plan.steps or 0, "step") if run.plan.seconds is None else duration(run.plan.seconds)
    if result:
        return (
            f"finished: {counted(result['steps'], 'step')} in {duration(result['seconds'])}, "
            f"best at {result['best_step']:,}"
        )
    validated = [row for row in run.metrics() if row["valid_loss"] is not None]
    if not validated:
        return f"{run.state}: not validated yet; ends after {end}"
    monitor = f"valid_{run.task.monitor}"
    best = (max if run.task.maximize else min)(validated, key=lambda row: row[monitor] or 0.0)
    return (
        f"{run.state}: last validated at step {validated[-1]['step']:,.0f}, ends after {end}; "
        f"best at {best['step']:,.0f}, with {run.task.label(run.task.monitor)} {figure(best[monitor] or 0.0)}"
    )

"""`throughtime inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.arguments import EngineOption, JsonOption, KnobOption, RunArgument
from throughtime.cli.output import announce, show_json, show_rows, starting
from throughtime.errors import UserError
from throughtime.paths import require_data
from throughtime.spelling import counted

if TYPE_CHECKING:
    from throughtime.data.text import Progress
    from throughtime.runs import Run
    from throughtime.sight.report.passage import Passage
    from throughtime.tasks.base import Task

_LENGTH = 2000
_NAMED = 5  # units


def inspect(
    run: RunArgument,
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="Data of the kind it was trained on. Default: the validation data."),
    ] = None,
    *,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Read this text instead; for labels and tags, one sequence per line.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write. Default: RUN/inspect.html.")
    ] = None,
    length: Annotated[
        int,
        typer.Option(metavar="N", help="Steps to read: the start of a text, or sequences spread evenly over the data."),
    ] = _LENGTH,
    values: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show only these values, such as '*.cell'. Repeatable."),
    ] = None,
    save_data: Annotated[
        bool, typer.Option("--save-data", help="Also write the numbers as .safetensors and .json.")
    ] = False,
    encoding_errors: Annotated[
        str, typer.Option(metavar="strict|replace", help="How to handle bytes that are not UTF-8.")
    ] = "strict",
    knob: KnobOption = None,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """The page is a single file that opens in any browser and works offline."""
    from throughtime.runs import Run

    if text is not None and data:
        raise UserError(f"pass either DATA ({' '.join(data)}) or --text, not both")
    opened = Run.open(run)  # before torch is loaded, so that mistakes are reported at once
    require_data(data or ())
    announce(opened, ["the given text"] if text is not None else data or ["the validation data"])
    path = out if out is not None else opened.path / "inspect.html"
    with starting():
        from throughtime.sight.report.collect import collect
        from throughtime.sight.report.passage import LONGEST
        from throughtime.sight.report.render import require_writable, write
        from throughtime.sight.report.saving import data_paths, summary
        from throughtime.sight.report.saving import save_data as save
        from throughtime.training.display import Display
    if not 2 <= length <= LONGEST:
        raise UserError(f"--length must be between 2 and {LONGEST:,}, got {length}")
    require_writable(path)
    if save_data:
        data_paths(path)
    with Display(shown=True) as display:
        task = opened.task_with(encoding_errors=encoding_errors, knob=knob or None)
        passage = _passage(opened, task, data, text, length, display.progress)
        report = collect(opened, passage, patterns=values or (), engine=engine, progress=display.progress)
        written = [write(report, path), *(save(report, path) if save_data else ())]
    found = {"report": str(path), "data": [str(p) for p in written[1:]], **summary(report)}
    if as_json:
        show_json(found)
    else:
        show_rows(_rows(found, passage.step, opened.task.unit))


def _passage(
    run: Run, task: Task[Any], data: list[str] | None, text: str | None, length: int, progress: Progress
) -> Passage:
    """Load the sequences to read."""
    from throughtime.sight.report.passage import short
    from throughtime.training.reloading import data_of

    codecs = run.description.codecs
    if text is not None:
        return task.text_passage(text, codecs, length)
    if data:
        return task.read_passage(data, codecs, length, progress)
    try:
        held_out = data_of(run, progress)
    except UserError as error:
        raise type(error)(f"{error}; or pass another text with DATA or --text") from None
    return task.passage(held_out.valid, codecs, length, f"the validation part of {short(held_out.name)}")


def _rows(found: dict[str, Any], step: str, unit: str) -> list[tuple[str, str]]:
    rows = [("page", found["report"]), *(("data", path) for path in found["data"])]
    rows += [("plays", title) for title in found["sounds"]]
    if "steps" in found:
        steps, sequences = counted(found["steps"], step), found["sequences"]
        rows.append(("read", f"{steps} in {counted(sequences, 'sequence')}" if sequences > 1 else steps))
    if len(predictions := found.get("predictions", ())) <= _NAMED:
        rows += [("predicted", f"{p['label']} ({p['probability']:.0%}): {p['sequence']}") for p in predictions]
    if found.get("loss") is not None:
        rows.append(("loss", f"{found['loss']:.4f} nats per {unit}, on what was read"))
    if found.get("unknown"):
        rows.append(("unknown", f"{counted(found['unknown'], step)} not seen in training, replaced by <unk>"))
    for layer, lag in found["horizons"].items():
        longest = f"still above 1% at the longest lag measured, {counted(found['largest_lag'], 'step')}"
        reach = longest if lag is None else f"1% left after {counted(lag, 'step')}"
        rows.append(("gradient", f"{layer}: {reach} (mean over {counted(found['horizon_losses'], 'loss')})"))
    rows += [("unit", f"{u['value']} {u['unit']}: {u['note']}") for u in found["units"][:_NAMED]]
    return rows

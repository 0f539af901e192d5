"""`throughtime predict`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.arguments import (
    DataArgument,
    EncodingErrorsOption,
    EngineOption,
    KnobOption,
    OverwriteOption,
    RunArgument,
)
from throughtime.cli.output import announce
from throughtime.errors import UserError
from throughtime.files import require_directory_of, require_new_file
from throughtime.paths import display_path, require_data
from throughtime.spelling import counted

if TYPE_CHECKING:
    from throughtime.tasks.base import Prediction

_KINDS = (".csv", ".tsv", ".jsonl")


def predict(
    run: RunArgument,
    data: DataArgument,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File to write ({', '.join(_KINDS)}). Default: print CSV. For effects, a sound file is required.",
        ),
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For forecasts: rows that follow DATA, or replace its rows with the same time.",
        ),
    ] = None,
    encoding_errors: EncodingErrorsOption = None,
    knob: KnobOption = None,
    overwrite: OverwriteOption = False,
    engine: EngineOption = None,
) -> None:
    """Writes one row per sequence, or per step if the network predicts every step; for effects, a sound file.

    For text, a row has a token, its cost in nats given the tokens before it, and the most likely token in its place.
    """
    from throughtime.runs import Run
    from throughtime.training.display import Display
    from throughtime.training.inference import Inference

    opened = Run.open(run)
    kinds = (*_KINDS, *opened.task.prediction_files)
    if out is None and opened.task.prediction_files:
        raise UserError(f"--out is required: pass a file to write ({', '.join(opened.task.prediction_files)})")
    if out is not None and out.suffix not in kinds:
        raise UserError(f"{display_path(out)}: unsupported extension; use {', '.join(kinds)}")
    if out is not None:
        require_directory_of(out)
        require_new_file(out, overwrite)
    require_data([*data, *([update] if update is not None else ())])
    announce(opened, data)
    with Display(shown=True) as display:
        inference = Inference(opened, data, encoding_errors, knob or None, engine, display.progress)
        if out is not None and out.suffix not in _KINDS:
            written = inference.write_prediction(out)
        else:
            written = counted(_write(inference.predict(update), out), "row")
    if out is not None:
        print(f"Saved {written} to {display_path(out)}")


def _write(found: Prediction, out: Path | None) -> int:
    count = 0

    def counted() -> Iterable[Any]:
        nonlocal count
        for row in found.rows:
            count += 1
            yield row

    opened = nullcontext(sys.stdout) if out is None else out.open("w", encoding="utf-8", newline="")
    with opened as file:
        if out is not None and out.suffix == ".jsonl":
            for row in counted():
                file.write(json.dumps(dict(zip(found.columns, row, strict=True)), ensure_ascii=False) + "\n")
        else:
            tab = out is not None and out.suffix == ".tsv"
            writer = csv.writer(file, delimiter="\t" if tab else ",", lineterminator="\n")
            writer.writerow(found.columns)
            writer.writerows(map(_rounded, counted()))
    return count


def _rounded(row: Any) -> list[Any]:
    """Round to the significant digits of single precision."""
    return [f"{value:.7g}" if isinstance(value, float) else value for value in row]

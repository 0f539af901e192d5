"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.engines import NAMES

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory, or latest.")]

DataArgument = Annotated[
    list[str], typer.Argument(metavar="DATA", help="Files and directories; - is standard input, for text.")
]

KnobOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="For effects: a knob's setting. Repeatable."),
]

EncodingErrorsOption = Annotated[
    str | None,
    typer.Option(
        metavar="strict|replace",
        help="How to handle bytes that are not UTF-8; strict rejects them. Default: as in training.",
    ),
]

EngineOption = Annotated[
    str | None,
    typer.Option(metavar="|".join(NAMES), help="Engine for the recurrent layers. Default: as in training."),
]

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]

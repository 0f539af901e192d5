"""`throughtime compare`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from throughtime.cli.cell_option import named_cells
from throughtime.cli.config_options import with_config_options
from throughtime.cli.output import starting
from throughtime.cli.study import TrainDataArgument, cells_option, json_option, run_study
from throughtime.paths import require_data

_PANEL = "Comparison"
_TEXTS = {
    "cell": None,  # --cells
    "init_from": None,
    "out": "The folder for the runs and the result; `runs/DATE-TIME-compare-DATA` by default.",
}


@partial(with_config_options, texts=_TEXTS)
def compare(
    data: TrainDataArgument = None,
    *,
    cells: Annotated[str, cells_option(_PANEL)] = "rnn,lstm,gru",
    params: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Parameters per network, such as 200k. Default: as many as an LSTM with --hidden units has.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Runs per cell, with seeds from --seed on; differences are tested from 5 seeds on.",
            rich_help_panel=_PANEL,
        ),
    ] = 3,
    jobs: Annotated[
        int,
        typer.Option(
            metavar="N", help="Runs to train in parallel; can't be combined with --minutes.", rich_help_panel=_PANEL
        ),
    ] = 1,
    as_json: Annotated[bool, json_option(_PANEL)] = False,
    **given: Any,
) -> None:
    """Every cell gets about the same number of parameters, and the same --steps, --epochs or --minutes per run. The
    table shows the mean over seeds on held-out data. From 5 seeds on, a paired bootstrap tests which differences are
    real.

    All runs are stored in one folder, --out. Repeat the command with the same --out to resume a comparison, or to add
    cells and seeds to it.
    """
    found = named_cells(cells)
    fields = {name: value for name, value in {"data": data or None, **given}.items() if value is not None}
    count = None if params is None else number(params)
    require_data(data or ())
    with starting():
        from throughtime.studies.compare import compare as run
    run_study(lambda: run(cells=found, params=count, seeds=seeds, jobs=jobs, **fields), as_json)


def number(text: str) -> int:
    """Parse a number of parameters such as 200000, 200k or 1.5M.

    Raises:
        typer.BadParameter: if the text is not a positive whole number.
    """
    scale = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    try:
        value = float(text[:-1] if scale > 1 else text) * scale
        if value >= 1 and value == value // 1:
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(f"--params must be a positive number such as 200000, 200k or 1.5M, got {text!r}")

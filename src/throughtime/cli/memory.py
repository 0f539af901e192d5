"""`throughtime memory`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.cell_option import named_cells
from throughtime.cli.output import starting
from throughtime.cli.study import cells_option, json_option, run_study
from throughtime.errors import UserError

_STUDY, _REMEDIES, _TRAINING = "What to measure", "Remedies", "Training"


def memory(
    *,
    cells: Annotated[str, cells_option(_STUDY)] = "rnn,lstm,gru",
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="The tasks, separated by commas.", rich_help_panel=_STUDY)
    ] = "adding,copy,temporal-order,parity,reber",
    lags: Annotated[
        str, typer.Option(metavar="N,N,...", help="The lags to try, in steps.", rich_help_panel=_STUDY)
    ] = "10,20,50,100,200,400",
    minutes: Annotated[float, typer.Option(metavar="X", help="Total time.", rich_help_panel=_STUDY)] = 30.0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder for results; an unfinished measurement in it is resumed. Default: runs/DATE-TIME-memory.",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    as_json: Annotated[bool, json_option(_STUDY)] = False,
    forget_bias: Annotated[
        float | None,
        typer.Option(metavar="X", help="Initial forget-gate bias. Default: 1.", rich_help_panel=_REMEDIES),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="orthogonal", help="Initialize recurrent weights orthogonally.", rich_help_panel=_REMEDIES
        ),
    ] = None,
    clip: Annotated[
        float, typer.Option(metavar="X", help="Gradient clipping norm; 0 disables clipping.", rich_help_panel=_REMEDIES)
    ] = 1.0,
    chrono: Annotated[
        bool,
        typer.Option(
            "--chrono", help="Initialize gate biases from the lag (chrono initialization).", rich_help_panel=_REMEDIES
        ),
    ] = False,
    hidden: Annotated[
        int,
        typer.Option("--hidden-size", "--hidden", metavar="N", help="Hidden units.", rich_help_panel=_TRAINING),
    ] = 64,
    lr: Annotated[float, typer.Option(metavar="X", help="Adam's learning rate.", rich_help_panel=_TRAINING)] = 5e-3,
    batch: Annotated[int, typer.Option(metavar="N", help="Batch size.", rich_help_panel=_TRAINING)] = 50,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed for weights and sequences.", rich_help_panel=_TRAINING)
    ] = 0,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="CPU threads. Default: torch's choice.", rich_help_panel=_TRAINING),
    ] = None,
) -> None:
    """Find the longest lag that each cell learns on each classical task. The time in --minutes is shared equally among
    tasks and cells. A cell tries the lags in increasing order until it fails to learn one.
    """
    found = named_cells(cells)
    numbers = _numbers(lags)
    with starting():
        from throughtime.studies.memory import memory as measure
    study = partial(
        measure, cells=found, tasks=[name.strip() for name in tasks.split(",") if name.strip()], lags=numbers,
        minutes=minutes, hidden_size=hidden, lr=lr, batch=batch, forget_bias=forget_bias, init=init,
        clip=clip, chrono=chrono, seed=seed, threads=threads, out=out,
    )  # fmt: skip
    run_study(study, as_json)


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",") if each.strip()]
    except ValueError:
        raise UserError(f"--lags must be whole numbers separated by commas, such as 10,50,200; got {text!r}") from None

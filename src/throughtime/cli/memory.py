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

_STUDY, _CURES, _TRAINING = "What to measure", "Cures", "Training"


def memory(
    *,
    cells: Annotated[str, cells_option(_STUDY)] = "rnn,lstm,gru",
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="The tasks, separated by commas.", rich_help_panel=_STUDY)
    ] = "adding,copy,temporal-order,parity,reber",
    lags: Annotated[
        str, typer.Option(metavar="N,N,...", help="The lags to try, in steps.", rich_help_panel=_STUDY)
    ] = "10,20,50,100,200,400",
    minutes: Annotated[float, typer.Option(metavar="X", help="Time for everything.", rich_help_panel=_STUDY)] = 30.0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of the results; an unfinished measurement in it is resumed. runs/DATE-TIME-memory if not "
            "given.",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    as_json: Annotated[bool, json_option(_STUDY)] = False,
    forget_bias: Annotated[
        float | None,
        typer.Option(metavar="X", help="What forget gates' biases start with; 1 if not given.", rich_help_panel=_CURES),
    ] = None,
    orthogonal: Annotated[
        bool, typer.Option("--orthogonal", help="Start from orthogonal recurrent weights.", rich_help_panel=_CURES)
    ] = False,
    clip: Annotated[
        float, typer.Option(metavar="X", help="The gradient's largest norm; 0 for no clipping.", rich_help_panel=_CURES)
    ] = 1.0,
    chrono: Annotated[
        bool,
        typer.Option("--chrono", help="Start keeping gates' biases from the lag to span.", rich_help_panel=_CURES),
    ] = False,
    hidden: Annotated[
        int,
        typer.Option("--hidden-size", "--hidden", metavar="N", help="Hidden units.", rich_help_panel=_TRAINING),
    ] = 64,
    lr: Annotated[float, typer.Option(metavar="X", help="Adam's learning rate.", rich_help_panel=_TRAINING)] = 5e-3,
    batch: Annotated[int, typer.Option(metavar="N", help="Sequences in a batch.", rich_help_panel=_TRAINING)] = 50,
    seed: Annotated[
        int, typer.Option(metavar="N", help="What weights and sequences are drawn from.", rich_help_panel=_TRAINING)
    ] = 0,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads of the CPU; torch's choice if not given.", rich_help_panel=_TRAINING),
    ] = None,
) -> None:
    """The longest lag that each cell learns on the classical tasks, within an equal share of --minutes for each task
    and cell. A cell learns one lag after the other, from the shortest on, until one isn't learned.
    """
    found = named_cells(cells)
    numbers = _numbers(lags)
    with starting():
        from throughtime.studies.memory import memory as measure
    study = partial(
        measure, cells=found, tasks=[name.strip() for name in tasks.split(",") if name.strip()], lags=numbers,
        minutes=minutes, hidden_size=hidden, lr=lr, batch=batch, forget_bias=forget_bias, orthogonal=orthogonal,
        clip=clip, chrono=chrono, seed=seed, threads=threads, out=out,
    )  # fmt: skip
    run_study(study, as_json)


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",") if each.strip()]
    except ValueError:
        raise UserError(f"--lags must be whole numbers separated by commas, such as 10,50,200; got {text!r}") from None

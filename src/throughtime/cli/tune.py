"""`throughtime tune`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import typer

from throughtime.cli.cell_option import CELL_HELP, named_cell, named_cells
from throughtime.cli.config_options import with_config_options
from throughtime.cli.output import starting
from throughtime.cli.study import TrainDataArgument, cells_option, json_option, run_study
from throughtime.errors import UserError
from throughtime.packages import require
from throughtime.paths import display_path, require_data
from throughtime.studies.storage_url import require_url

_PANEL = "Search"
_TEXTS = {
    "cell": f"A single cell to use instead of --cells: {CELL_HELP}.",
    "init_from": None,
    "out": "The folder for the search and its result; `runs/DATE-TIME-tune-DATA` by default.",
}


@partial(with_config_options, texts=_TEXTS)
def tune(
    data: TrainDataArgument = None,
    *,
    trials: Annotated[
        int,
        typer.Option(metavar="N", help="Total trials, including those of earlier calls.", rich_help_panel=_PANEL),
    ] = 20,
    cells: Annotated[str, cells_option(_PANEL, "The cells to choose from")] = "gru,lstm,rnn",
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A database shared by several processes or machines: postgresql://HOST/NAME, sqlite:///FILE or "
            "journal:FILE. Default: a file in --out, for one process.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    as_json: Annotated[bool, json_option(_PANEL)] = False,
    **given: Any,
) -> None:
    """Options given here are fixed; the others are searched. --minutes limits the whole search, --epochs or --steps
    each trial. The search never sees the test data; the best trial is evaluated on it at the end.

    Repeat the command with the same --out or --storage to resume a search.

    """  # fmt: skip
    fields = {name: value for name, value in {"data": data or None, **given}.items() if value is not None}
    if "minutes" in fields:
        fields["minutes"] = _minutes(fields["minutes"])
    found = [named_cell(str(fields.pop("cell")))] if "cell" in fields else named_cells(cells)
    require("optuna", "tune", "tune")
    require_url(storage)
    require_data(data or ())
    with starting():
        from throughtime.studies.tune import tune as run
    run_study(lambda: run(trials=trials, cells=found, storage=storage, **fields), as_json, _hint)


def _hint(result: Mapping[str, Any]) -> str:
    return f". Next:\n\n  throughtime train --config {display_path(result['config'])}"


def _minutes(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--minutes must be a positive number, got {text!r}") from None

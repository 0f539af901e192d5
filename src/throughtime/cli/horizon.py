"""`throughtime horizon`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.arguments import EngineOption, JsonOption
from throughtime.cli.cell_option import CELL_HELP, named_cell
from throughtime.cli.output import console, show_json, starting
from throughtime.errors import UserError
from throughtime.paths import require_data
from throughtime.spelling import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from throughtime.program.cell import Cell
    from throughtime.runs import Run
    from throughtime.sight.gradients.horizon import Horizon

_MAX_LAYERS = 8  # in one plot
_DECADES = 6


def horizon(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A trained network: the run's directory, or latest.")
    ] = None,
    cell: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Use an untrained network instead: {CELL_HELP}. Repeatable."),
    ] = None,
    *,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="The text that a trained network reads. Default: the held-out data."),
    ] = None,
    lags: Annotated[int, typer.Option(metavar="N", help="The largest lag, in steps.")] = 200,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps per stream.")] = 400,
    streams: Annotated[int, typer.Option(metavar="N", help="Streams to read in parallel.")] = 4,
    hidden: Annotated[
        int,
        typer.Option("--hidden-size", "--hidden", metavar="N", help="Units per layer of an untrained network."),
    ] = 128,
    layers: Annotated[
        int, typer.Option("--num-layers", "--layers", metavar="N", help="Layers of an untrained network.")
    ] = 1,
    init: Annotated[
        str | None,
        typer.Option(metavar="RANGE|NAME", help="Weight initialization of an untrained network, as in train."),
    ] = None,
    forget_bias: Annotated[
        float | None, typer.Option(metavar="X", help="Initial forget-gate bias of an untrained network, as in train.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Untrained networks to average over.")] = 3,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Plot the norm of the gradient of the loss at one step with respect to a layer's state at earlier steps, averaged
    over all steps. The horizon is the lag at which 1% of it is left.

    With --cell, an untrained network reads random tokens. A plain RNN's horizon is typically about ten steps.
    """
    if (run is None) == (not cell):
        raise UserError("pass either RUN (a trained network's directory) or --cell NAME (an untrained network)")
    for name, value, least in (
        ("--lags", lags, 1), ("--steps", steps, 2), ("--streams", streams, 1), ("--seeds", seeds, 1)
    ):  # fmt: skip
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    if run is not None:
        from throughtime.runs import Run

        opened = Run.open(run)  # before torch is loaded, so that mistakes are reported at once
        require_data(data or ())
        part = _part(opened, data)
        with starting():
            from throughtime.sight.gradients.sampling import followed, reach_of

            sequences = followed(opened.task, part, steps, streams)
            reach = reach_of(opened.model(engine), sequences, lags, opened.plan.losses)
        found, losses = {str(opened.path): reach.by_lag}, reach.losses
    else:
        if data:
            raise UserError("--data requires RUN; an untrained network reads random tokens")
        fields = {
            "hidden": hidden, "layers": layers, "init": init, "forget_bias": forget_bias, "engine": engine
        }  # fmt: skip
        given = {name: value for name, value in fields.items() if value is not None}
        cells, done = {name: named_cell(name) for name in cell or ()}, count()
        with starting():
            from throughtime.training.display import Display
        with Display(shown=True) as display:

            def progress() -> None:
                display.progress("following gradients", next(done), len(cells) * seeds)

            progress()
            found = {name: _of_cell(each, given, lags, steps, streams, seeds, progress) for name, each in cells.items()}
        losses = steps * seeds
    if as_json:
        show_json({name: _data(by_lag, losses) for name, by_lag in found.items()})
    else:
        _show(found, losses)


def _part(run: Run, data: list[str] | None) -> Any:
    """Load the data for a trained network to read."""
    from throughtime.training.reloading import data_of

    if data:
        return run.task.read(data, run.description.codecs)
    try:
        return data_of(run).valid
    except UserError as error:
        raise type(error)(f"{error}; or pass other data to read with --data") from None


def _of_cell(
    cell: Cell,
    fields: dict[str, Any],
    lags: int,
    steps: int,
    streams: int,
    seeds: int,
    progress: Callable[[], None],
) -> dict[str, NDArray[Any]]:
    """Average over seeds; `progress` is called after each of them."""
    import numpy as np

    from throughtime.sight import gradient_flow
    from throughtime.sight.untrained import random_token_ids, untrained_model

    flows = []
    for seed in range(seeds):
        model, ids = untrained_model(cell, seed=seed, **fields), random_token_ids(steps + 1, streams, seed)
        flows.append(gradient_flow(model, ids, window=lags).by_lag)
        progress()
    return {key: np.mean([flow[key] for flow in flows], 0) for key in flows[0]}


def _horizons(by_lag: dict[str, NDArray[Any]]) -> dict[str, Horizon]:
    from throughtime.sight.gradients.horizon import horizon as horizon_of

    return {name: horizon_of(sizes) for name, sizes in by_lag.items() if (sizes > 0).any()}


def _data(by_lag: dict[str, NDArray[Any]], losses: int) -> dict[str, Any]:
    return {
        name: {
            "horizon": found.lag, "grows": found.grows, "rate": _rounded(found.rate), "window": found.window,
            "losses": losses, "by_lag": [_rounded(size) for size in by_lag[name].tolist()],
        }
        for name, found in _horizons(by_lag).items()
    }  # fmt: skip


def _rounded(value: float) -> float:
    """Round to the significant digits of single precision."""
    return float(f"{value:.7g}")


def _show(found: dict[str, dict[str, NDArray[Any]]], losses: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    from throughtime.cli.plot import logarithmic_plot
    from throughtime.sight.gradients.flow import layer_names

    out = console()
    plain = not (out.encoding or "").lower().startswith("utf")
    curves: dict[str, Sequence[float]] = {}
    for name, by_lag in found.items():
        horizons = _horizons(by_lag)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        grows = any(each.largest_lag for each in horizons.values())
        for column in (escape(name), "1% left after", "per step", *(["largest"] if grows else ())):
            table.add_column(column, no_wrap=True)
        for layer in layer_names(horizons):
            states = [key for key in horizons if key.rpartition(".")[0] == layer and key not in layer_names(horizons)]
            for key in [layer, *(states if len(states) > 1 else ())]:
                each = horizons[key]
                largest = [f"{each.largest:.3g} at lag {each.largest_lag}" if each.largest_lag else ""] if grows else []
                table.add_row(("  " if key != layer else "") + key, str(each), f"x {each.rate:.3g}", *largest)
            if len(curves) < _MAX_LAYERS:
                label = f"{escape(name)} {layer}" if len(found) > 1 else layer
                sizes = by_lag[layer]
                curves[f"{label}: {horizons[layer]}"] = (sizes / sizes[(sizes > 0).argmax()]).tolist()
        out.print(table)
        out.print()
    if curves:
        curves = _shortened(curves)
        width = max(20, min(out.width - 10, 64))
        out.print(f"Gradient of {counted(losses, 'loss')} by lag, relative to lag 0; the line marks 1%\n")
        for line in logarithmic_plot(
            curves, width=width, decades=_DECADES, level=0.01, axis="steps back", plain=plain
        ):  # fmt: skip
            out.print(line)


def _shortened(curves: dict[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Cut all curves at the lag where the last of them drops below the plotted range."""
    seen = [n for curve in curves.values() for n, value in enumerate(curve) if value >= 10.0**-_DECADES]
    return {name: curve[: max(seen, default=0) + 2] for name, curve in curves.items()}

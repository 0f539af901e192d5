"""From a run and a text to what a report says of them."""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughtime.data.text import Progress
from throughtime.nn.sequence_model import SequenceModel
from throughtime.runs import Run
from throughtime.sight import connectivity, gates, gradient_flow, interest, keepers, saturation, timescale
from throughtime.sight.places import require_matches, values_of
from throughtime.sight.record import record
from throughtime.sight.report.data import (
    Array,
    Curve,
    Flow,
    Reading,
    ReportData,
    Saturation,
    Timescale,
    Values,
)
from throughtime.sight.report.passage import Passage, short

_CHOICES = 5
_BACK = 64  # symbols that a place is asked to look back
_WINDOW = 200  # lags of the gradient's flow
_FLOWS = 250  # steps whose losses it is followed from
_PARTS = 4  # of the work: reading, looking back, following gradients, finding what units follow
_CHUNK = 500  # steps of which the scores are held at a time


def collect(
    run: Run,
    text: Passage,
    *,
    patterns: Sequence[str] = (),
    engine: str | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """What a run's model does with a text.

    Args:
        run: the run.
        text: what it reads, from no state of its own.
        patterns: names of values, as `throughtime.record` takes them; all but what is before an activation or before
            the step if not given.
        engine: what runs the recurrent layers; the one that the run was trained with if not given.
        progress: told what is being done, and how far.

    Raises:
        RunError: the run can't be read.
        UserError: a pattern matches nothing.
    """
    model = run.model(engine)
    names = _names(model, patterns)
    ids = torch.from_numpy(text.ids.astype(np.int64))
    recorded, losses, likeliest, probabilities = _read(model, ids, names)
    _told(progress, 1)
    reach = _reach(model, ids)
    _told(progress, 2)
    flows = flows_of(model, ids)
    _told(progress, 3)
    values = [_values(name, recorded[name], text.readable) for name in names]
    _told(progress, 4)
    used = np.unique(likeliest)
    count = int(text.unknown.sum())
    symbol = run.task.unit
    return ReportData(
        title=f"Inside {run.path.resolve().name}",
        facts=[*facts(run), f"reads {text.ids.size:,} {symbol}s of {text.name}", _loss_in_words(losses, symbol)],
        symbol=symbol,
        warnings=[f"{count:,} {symbol}{'s' * (count > 1)} of this text training never saw; each is read as <unk>."]
        if count
        else [],
        reading=Reading(
            symbols=text.symbols,
            unknown=text.unknown,
            losses=losses,
            likeliest=likeliest,
            probabilities=probabilities,
            alphabet={int(id): run.description.codecs.inputs.symbols[id] for id in used},
            reach=reach,
        ),
        values=values,
        flows=flows,
        saturations=_saturations(model, recorded),
        timescales=_timescales(model, recorded),
        **training_curves(run),
    )


def flows_of(model: SequenceModel, ids: Tensor, group: str = "", losses: int = _FLOWS) -> list[Flow]:
    """How far back the gradient of a model's loss reaches into each layer's state.

    Args:
        model: the model.
        ids: a text `[T]`.
        group: what the curves are to be told from others by.
        losses: from how many steps' losses it is followed; they are spread over the text.
    """
    steps = np.unique(np.linspace(0, ids.numel() - 2, losses).round().astype(int))
    found = gradient_flow(model, ids, window=_WINDOW, steps=steps)
    flows = []
    for name in sorted(found.layers):
        by_lag = found.by_lag[name]
        if by_lag.max() > 0:
            at = found.horizon(name)
            first = by_lag[by_lag > 0][0]
            flows.append(Flow(name, by_lag / first, at.lag, str(at), group))
    return flows


def facts(run: Run) -> list[str]:
    """What a run's network is and what it was trained on, in short."""
    network, result = run.config.network, run.result
    steps = f"{result['steps']:,} steps" if result else "unfinished"
    return [
        f"{network.num_layers} × {network.cell}, {network.hidden_size} units each",
        f"{steps} on {short(run.record.data.name)}",
    ]


def training_curves(run: Run) -> dict[str, Any]:
    """A run's learning curves, and the step whose weights were kept, as a report takes them."""
    curves = []
    rows = run.metrics()
    for label, column in (("training", "train_loss"), ("held out", "valid_loss")):
        points = [(row["step"], row[column]) for row in rows if row[column] is not None]
        if points:
            steps, losses = np.array(points, float).T
            curves.append(Curve(label, steps, losses))
    result = run.result
    return {"curves": curves, "best_step": result["best_step"] if result else None}


def _told(progress: Progress | None, done: int) -> None:
    if progress:
        progress("looking inside", done, _PARTS)


def _names(model: SequenceModel, patterns: Sequence[str]) -> list[str]:
    """The values that are asked for, in the order of layers and equations."""
    known = values_of(model)
    names = [each.name(place, name) for each in known for place, program in each.programs() for name in program.values]
    if patterns:
        asked = {name for found in require_matches(known, patterns).values() for name in found}
        return [name for name in names if name in asked]
    return [name for name in names if not name.endswith((".pre", ".previous"))]


def _gate_names(model: SequenceModel) -> list[str]:
    of = values_of(model)
    return [each.name(place, gate) for each in of for place, program in each.programs() for gate in gates(program)]


@torch.no_grad()
def _read(model: SequenceModel, ids: Tensor, names: Sequence[str]) -> tuple[dict[str, Array], Array, Array, Array]:
    """What the model computes while it reads: each value `[T, units]`, the losses, the likeliest and their chances."""
    wanted = list(dict.fromkeys([*names, *_gate_names(model)]))
    choices = min(_CHOICES, model.vocabulary_size)
    losses = np.full(len(ids), np.nan)
    likeliest = np.zeros((len(ids), choices), np.int64)
    probabilities = np.zeros((len(ids), choices))
    kept: dict[str, list[Array]] = {name: [] for name in wanted}
    state = None
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        with record(model, *map(_literally, wanted)) as tape:
            scores, state = model(chunk[:, None], state)
        for name, values in kept.items():
            values.append(tape[name][:, 0].float().numpy())
        following = ids[start + 1 : start + 1 + len(chunk)]
        chances = scores[: len(following), 0].double().log_softmax(-1)
        to = slice(start + 1, start + 1 + len(following))
        losses[to] = -chances.gather(1, following[:, None])[:, 0].numpy()
        best = chances.topk(choices)
        likeliest[to], probabilities[to] = best.indices.numpy(), best.values.exp().numpy()
    return {name: np.concatenate(values) for name, values in kept.items()}, losses, likeliest, probabilities


def _literally(name: str) -> str:
    return glob.escape(name)


def _reach(model: SequenceModel, ids: Tensor) -> Array:
    """For each symbol the size of the gradient of its log-probability by those before it, `[T, lags]`."""
    norms = connectivity(model, ids, window=_BACK - 1).norms
    return np.concatenate([np.zeros_like(norms[:1]), np.nan_to_num(norms)])


def _saturations(model: SequenceModel, recorded: dict[str, Array]) -> list[Saturation]:
    found = []
    for each in values_of(model):
        for place, program in each.programs():
            for gate in gates(program):
                of = saturation(recorded[each.name(place, gate)])
                found.append(Saturation(str(place), gate, of.low, of.high))
    return found


def _timescales(model: SequenceModel, recorded: dict[str, Array]) -> list[Timescale]:
    found = []
    for each in values_of(model):
        for place, program in each.programs():
            for keeper in keepers(program):
                of = timescale(recorded[each.name(place, keeper.gate)], keeper.keeps)
                found.append(Timescale(str(place), keeper.gate, of.steps))
    return found


def _values(name: str, steps: Array, symbols: Sequence[str]) -> Values:
    layer, _, short = name.partition(".")
    found = interest(steps, symbols)
    return Values(layer, short, steps, found.order, found.scores, found.phrases)


def _loss_in_words(losses: Array, symbol: str) -> str:
    loss = float(np.nanmean(losses))
    return f"{loss:.2f} nats per {symbol} here, {loss / math.log(2):.2f} bits"

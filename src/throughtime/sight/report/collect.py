"""Collect the contents of a report from a run and the data it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from throughtime.data.text import Progress
from throughtime.nn.sequence_model import SequenceModel
from throughtime.runs import Run
from throughtime.sight import gates, horizon, interest, retention_gates, saturation, timescale
from throughtime.sight.gradients.flow import layer_names
from throughtime.sight.gradients.sampling import LOSSES, Followed, followed, reach_of
from throughtime.sight.hooks.value_names import require_matches, values_of
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
from throughtime.sight.report.predictions import influence, read
from throughtime.spelling import counted

_PARTS = 4  # stages of the work: running, measuring dependencies, following gradients, scoring units
_MIN_OCCURRENCES = 3  # a feature that occurs in fewer sequences or steps is ignored
_MAX_ANSWERS = 60  # the maximum number of answers to compare units with


def collect(
    run: Run,
    passage: Passage,
    *,
    patterns: Sequence[str] = (),
    engine: str | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """Collect the contents of a report: how a run's model processes a text or other sequences.

    Args:
        run: the run.
        passage: the sequences to read, each from the initial state.
        patterns: names of values, as in `throughtime.record`; by default all except pre-activations and previous
            states.
        engine: the engine for the recurrent layers; defaults to the engine used in training.
        progress: called with the current stage and its progress.

    Raises:
        RunError: if the run can't be read.
        UserError: if a pattern matches nothing.
    """
    model = run.model(engine)
    names = _names(model, patterns)
    reading, recorded = read(model, passage, list(dict.fromkeys([*names, *_gate_names(model)])))
    _report_progress(progress, 1)
    if sounds := run.task.sounds(model, passage.part, run.description.codecs, names):
        flows = flows_of(model, followed(run.task, passage.part), run.plan.losses)
        return ReportData(
            title=f"Inside {run.path.resolve().name}",
            facts=[*facts(run), f"plays {passage.name}"],
            step=passage.step,
            loss=run.task.loss_in_words,
            results_on=passage.name,
            sounds=sounds,
            flows=flows,
            saturations=_saturations(model, recorded),
            timescales=_timescales(model, recorded),
            **training_curves(run),
        )
    reading = replace(reading, **influence(model, passage))
    _report_progress(progress, 2)
    read_from = followed(run.task, passage.part) if passage.part is not None else sequences_of(model, passage)
    flows = flows_of(model, read_from, run.plan.losses)
    _report_progress(progress, 3)
    more = _features(reading)
    values = [_values(name, recorded[name], passage.readable, more) for name in names]
    _report_progress(progress, 4)
    outcome = {} if passage.part is None else run.task.outcome(model, passage.part, run.description.codecs)
    if reading.bit_probabilities is not None:
        outcome.pop("rolls", None)  # the reading section already shows them
    return ReportData(
        title=f"Inside {run.path.resolve().name}",
        facts=[*facts(run), *_read_in_words(reading, passage, run.task.unit)],
        step=passage.step,
        unit=run.task.unit,
        loss=run.task.loss_in_words,
        results_on=passage.name,
        warnings=_warnings(reading, passage.step),
        reading=reading,
        values=values,
        flows=flows,
        saturations=_saturations(model, recorded),
        timescales=_timescales(model, recorded),
        **outcome,
        **training_curves(run),
    )


def states_of(model: SequenceModel) -> list[str]:
    """Return the names of a model's states after each step."""
    return [
        each.name(place, state.name)
        for each in values_of(model)
        for place, program in each.programs()
        for state in program.states
    ]


def sequences_of(model: SequenceModel, passage: Passage) -> list[Followed]:
    """Return a passage's inputs and targets for `flows_of`, for each sequence whose answers are known."""
    found: list[Followed] = []
    for item in passage.items:
        targets = None if item.targets is None else np.asarray(item.targets)
        if not (model.per_step and passage.causal):
            found.append((item.inputs, targets))
        elif targets is not None and len(item.inputs) > 1:  # the last step's answer may be missing
            found.append((item.inputs[:-1], targets[: len(item.inputs) - 1]))
    return found


def flows_of(model: SequenceModel, sequences: Sequence[Followed], losses: int = LOSSES, group: str = "") -> list[Flow]:
    """Measure how far back the gradient of a model's loss reaches into each layer's state.

    Args:
        model: the model.
        sequences: inputs `[T]` or `[T, F]` and their targets; without targets, the most likely labels are used.
        losses: the approximate number of losses to follow.
        group: the name of this group of curves.
    """
    flows = []
    reach = reach_of(model, sequences, losses=losses)
    for name in layer_names(reach.by_lag):
        by_lag = reach.by_lag[name]
        at = horizon(by_lag)
        flows.append(Flow(name, by_lag / by_lag[by_lag > 0][0], at.lag, str(at), reach.losses, group))
    return flows


def flows_before_and_after(
    model: SequenceModel, untrained: SequenceModel, sequences: Sequence[Followed], losses: int
) -> list[Flow]:
    """Compare the flows of the untrained and the trained network."""
    groups = {"before training": untrained, "after training": model}
    return [flow for group, each in groups.items() for flow in flows_of(each, sequences, losses, group)]


def facts(run: Run) -> list[str]:
    """Describe a run's network and its training in short phrases."""
    result = run.result
    steps = counted(result["steps"], "step") if result else "unfinished"
    return [
        run.config.network.layers_in_words,
        f"{steps} on {short(run.record.data.name)}",
    ]


def training_curves(run: Run) -> dict[str, Any]:
    """Return a run's learning curves and the step whose weights were kept, as fields of `ReportData`."""
    curves = []
    rows = run.metrics()
    for label, column in (("training", "train_loss"), ("validation", "valid_loss")):
        points = [(row["step"], row[column]) for row in rows if row[column] is not None]
        if points:
            steps, losses = np.array(points, float).T
            curves.append(Curve(label, steps, losses))
    result = run.result
    return {"curves": curves, "best_step": result["best_step"] if result else None}


def _report_progress(progress: Progress | None, done: int) -> None:
    if progress:
        progress("looking inside", done, _PARTS)


def _names(model: SequenceModel, patterns: Sequence[str]) -> list[str]:
    """Return the names of the requested values, in the order of layers and equations."""
    known = values_of(model)
    names = [
        each.name(direction, name)
        for each in known
        for direction, program in each.programs()
        for name in program.values
    ]
    if patterns:
        asked = {name for found in require_matches(known, patterns).values() for name in found}
        return [name for name in names if name in asked]
    return [name for name in names if not name.endswith((".pre", ".previous"))]


def _gate_names(model: SequenceModel) -> list[str]:
    of = values_of(model)
    return [
        each.name(direction, gate) for each in of for direction, program in each.programs() for gate in gates(program)
    ]


def _saturations(model: SequenceModel, recorded: dict[str, Array]) -> list[Saturation]:
    found = []
    for each in values_of(model):
        for direction, program in each.programs():
            for gate in gates(program):
                of = saturation(recorded[each.name(direction, gate)])
                found.append(Saturation(str(direction), gate, of.low, of.high))
    return found


def _timescales(model: SequenceModel, recorded: dict[str, Array]) -> list[Timescale]:
    found = []
    for each in values_of(model):
        for direction, program in each.programs():
            for gate in retention_gates(program):
                of = timescale(recorded[each.name(direction, gate.gate)], gate.keeps)
                found.append(Timescale(str(direction), gate.gate, of.steps))
    return found


def _values(name: str, steps: Array, tokens: Sequence[str] | None, more: Mapping[str, Array]) -> Values:
    layer, _, short = name.partition(".")
    found = interest(steps, tokens, more, along="the sequence" not in more)
    return Values(layer, short, steps, found.order, found.scores, found.phrases)


def _features(reading: Reading) -> dict[str, Array]:
    """Return the features other than the text's that units may follow: the position, the answers, the sounding keys."""
    found: dict[str, Array] = {}
    if len(reading.parts) >= _MIN_OCCURRENCES:
        found["the sequence"] = np.concatenate([np.arange(part.stop - part.start) for part in reading.parts])
    answers = np.array(reading.answers)
    names, counts = np.unique(answers[answers != ""], return_counts=True)
    of_sequences = reading.label_influence is not None
    for name in names[np.argsort(-counts, kind="stable")][:_MAX_ANSWERS]:
        if sum(part.answer == name for part in reading.parts) >= _MIN_OCCURRENCES or not of_sequences:
            found[f"{'in' if of_sequences else 'at'} {name}"] = answers == name
    if reading.inputs is not None and reading.bit_probabilities is not None:
        for k, name in enumerate(reading.features):
            found[f"while {name} sounds"] = reading.inputs[:, k] > 0
    return found


def _read_in_words(reading: Reading, passage: Passage, unit: str) -> list[str]:
    steps = counted(passage.steps, passage.step)
    many = len(passage.items)
    read = f"{counted(many, 'sequence')}, {steps}," if reading.parts else steps
    found = [f"reads {read} of {passage.name}"]
    if reading.label_influence is not None:
        known = [part for part in reading.parts if part.answer]
        if known:
            found.append(f"{sum(part.answer == part.predicted for part in known):,} of {len(known):,} labels correct")
    elif reading.answers:
        right = [reading.alphabet[reading.top[t, 0]] == a for t, a in enumerate(reading.answers) if a]
        if right:
            found.append(f"{sum(right):,} of {len(right):,} labels correct")
    loss = reading.loss
    if not math.isnan(loss):
        bits = f", {loss / math.log(2):.2f} bits" if not reading.parts else ""
        found.append(f"{loss:.2f} nats per {unit} here{bits}")
    return found


def _warnings(reading: Reading, step: str) -> list[str]:
    count = int(reading.unknown.sum())
    if not count:
        return []
    return [f"{counted(count, step)} of this text did not occur in training and were read as <unk>."]

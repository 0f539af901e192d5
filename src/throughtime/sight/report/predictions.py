"""Run a model over sequences and collect its answers, its losses, and the influence of the inputs on each answer."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughtime.nn.heads import StepwiseHead
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Bernoulli, Categorical
from throughtime.sight import connectivity
from throughtime.sight.gradients.capture import Loss
from throughtime.sight.hooks.record import record
from throughtime.sight.report.data import Array, Example, Reading
from throughtime.sight.report.passage import Item, Passage

_CHOICES = 5
_BACK = 64  # earlier steps whose influence on an answer is measured
_AROUND = 24  # steps in each direction, if the model also reads later steps
_CHUNK = 500  # steps whose scores are held at a time


def read(model: SequenceModel, passage: Passage, names: Sequence[str]) -> tuple[Reading, dict[str, Array]]:
    """Run a model over sequences, each from the initial state.

    Args:
        model: the model.
        passage: the sequences.
        names: the values to record.

    Returns:
        The reading without `influence` and `label_influence`, and each value `[T, units]`.
    """
    found = [_read(model, item, passage, names) for item in passage.items]
    top = np.concatenate([each.top for each in found])
    several = len(passage.items) > 1 or not model.per_step
    numeric = not model.reads_tokens
    bit_probabilities = [each.bit_probabilities for each in found if each.bit_probabilities is not None]
    reading = Reading(
        tokens=[text for item in passage.items for text in item.tokens or map(str, range(len(item.inputs)))],
        unknown=np.concatenate(
            [np.zeros(len(i.inputs), bool) if i.unknown is None else i.unknown for i in passage.items]
        ),
        losses=np.concatenate([each.losses for each in found]),
        top=top,
        probabilities=np.concatenate([each.probabilities for each in found]),
        alphabet={int(id): passage.answers[id] for id in np.unique(top)},
        influence=np.zeros((len(top), 0)),
        answers=[]
        if model.predicts_tokens or not passage.answers
        else [a for item in passage.items for a in _answers(item, passage)],
        parts=_parts(model, passage, found) if several or numeric else (),
        inputs=np.concatenate([i.inputs if i.shown is None else i.shown for i in passage.items]) if numeric else None,
        features=passage.features,
        bit_probabilities=np.concatenate(bit_probabilities) if bit_probabilities else None,
    )
    return reading, {name: np.concatenate([each.values[name] for each in found]) for name in names}


def influence(model: SequenceModel, passage: Passage) -> dict[str, Any]:
    """Measure the influence of the inputs on the answers; return fields of a `Reading`."""
    inputs = [_tensor(model, item.inputs) for item in passage.items]
    # For labels, differentiate the log-probability of the most likely one; for numbers, the numbers themselves.
    of: str | Loss = "next" if isinstance(model.head.output, Categorical) else lambda given: given[0].sum()
    if not model.per_step:
        label_influence = [connectivity(model, x, of=of, window=len(x)).norms[0, ::-1] for x in inputs]
        return {"label_influence": np.concatenate(list(map(np.nan_to_num, label_influence)))}
    longest = max(map(len, inputs))
    if passage.causal:
        width = min(_BACK, longest - 1)
        rows = [_past(model, x, item.targets, width) for x, item in zip(inputs, passage.items, strict=True)]
        return {"influence": np.concatenate(rows), "first": 1}
    width = min(_AROUND, longest - 1)
    rows = []
    for x in inputs:
        found = connectivity(model, x, of=of, window=max(1, width), steps=range(len(x)))
        ahead = np.zeros_like(found.norms) if found.ahead is None else found.ahead
        both = np.zeros((len(x), 2 * width + 1))
        own = min(width, found.norms.shape[1] - 1)
        both[:, width - own : width + own + 1] = np.concatenate([ahead[:, own:0:-1], found.norms[:, : own + 1]], 1)
        rows.append(np.nan_to_num(both))
    return {"influence": np.concatenate(rows), "first": -width}


@dataclass(frozen=True)
class _Read:
    """A model's results for a sequence of T steps; see `Reading`."""

    values: dict[str, Array]
    losses: Array
    top: Array
    probabilities: Array
    bit_probabilities: Array | None


def _past(model: SequenceModel, x: Tensor, targets: Any, width: int) -> Array:
    """Return each step's gradient norms of its log-probability with respect to earlier steps, `[T, width]`."""
    found = np.zeros((len(x), width))
    if len(x) > 1 and targets is not None:
        norms = connectivity(model, x[:-1], targets[: len(x) - 1], window=width, steps=range(len(x) - 1)).norms
        norms = norms[:, :width]
        found[1:, : norms.shape[1]] = np.nan_to_num(norms)
    return found


@torch.no_grad()
def _read(model: SequenceModel, item: Item, passage: Passage, names: Sequence[str]) -> _Read:
    inputs, output = _tensor(model, item.inputs), model.head.output
    steps = len(inputs)
    choices = min(_CHOICES, output.width) if isinstance(output, Categorical) else 0
    losses, top = np.full(steps, np.nan), np.zeros((steps, choices), np.int64)
    probabilities = np.zeros((steps, choices))
    bit_probabilities = np.zeros((steps, output.width)) if isinstance(output, Bernoulli) and model.per_step else None
    kept: dict[str, list[Array]] = {name: [] for name in names}
    cut = model.per_step and len(model.recurrent.layers()[0]) == 1 and not model.recurrent.options.reverse
    later = int(passage.causal)  # the answer at a step predicts the next one
    state = None
    for start in range(0, steps, _CHUNK if cut else steps):
        chunk = inputs[start : start + _CHUNK] if cut else inputs
        with record(model, *map(glob.escape, names)) as tape:
            raw, state = model(chunk[:, None], state)
        for name, values in kept.items():
            values.append(tape[name][:, 0].float().numpy())
        raw = raw[: steps - later - start, 0] if model.per_step else raw  # [steps, width], or [1, width]
        if not len(raw):
            continue
        to = slice(start + later, start + later + len(raw)) if model.per_step else slice(0, steps)
        if item.targets is not None:
            answers = np.asarray(item.targets)[start : start + len(raw)] if model.per_step else item.targets
            losses[to] = _losses(model, raw, answers)
        if choices:
            best = raw.double().softmax(-1).topk(choices)
            top[to], probabilities[to] = best.indices.numpy(), best.values.numpy()
        if bit_probabilities is not None and isinstance(output, Bernoulli):
            bit_probabilities[to] = output.probabilities(raw.double().numpy())
    joined = {name: np.concatenate(values) for name, values in kept.items()}
    return _Read(joined, losses, top, probabilities, bit_probabilities)


def _losses(model: SequenceModel, raw: Tensor, answers: Any) -> Array:
    targets = torch.as_tensor(np.asarray(answers))
    targets = targets.double() if model.head.output.target_shape else targets.long()
    targets = targets.reshape(*raw.shape[:-1], *model.head.output.target_shape)
    head, raw = model.head, raw.double()
    losses = head.losses(raw, targets) if isinstance(head, StepwiseHead) else (raw - targets).square()
    found: Array = (losses.sum(-1) if head.output.target_shape else losses).numpy()
    return found


def _answers(item: Item, passage: Passage) -> list[str]:
    """Return the right answer at each step; "" if there is none or it has no name."""
    steps = len(item.inputs)
    if item.targets is None:
        return [""] * steps
    ids = np.broadcast_to(np.asarray(item.targets), (steps,))
    return [passage.answers[id] for id in ids]


def _parts(model: SequenceModel, passage: Passage, found: Sequence[_Read]) -> list[Example]:
    parts, start = [], 0
    for item, each in zip(passage.items, found, strict=True):
        stop = start + len(item.inputs)
        if model.per_step or not each.top.size:
            losses = each.losses[~np.isnan(each.losses)]
            parts.append(Example(item.name, start, stop, loss=float(losses.mean()) if losses.size else float("nan")))
        else:
            answer = _answers(item, passage)[0]
            predicted, probability = passage.answers[each.top[0, 0]], float(each.probabilities[0, 0])
            parts.append(Example(item.name, start, stop, answer, predicted, probability, float(each.losses[0])))
        start = stop
    return parts


def _tensor(model: SequenceModel, inputs: Array) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(inputs))
    return tensor.to(next(model.parameters()).dtype) if tensor.is_floating_point() else tensor.long()

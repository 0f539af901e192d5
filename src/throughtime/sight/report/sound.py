"""Sounds in a report: the audio to play, and the values of units along it."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from throughtime.nn.sequence_model import SequenceModel
from throughtime.sight.hooks.record import record
from throughtime.sight.report.data import Array, Envelopes, Track

SECONDS = 4.0  # the length of an excerpt to play
WINDOW = 0.02  # seconds per window of a metric

_BINS = 1500  # the maximum number of windows for a unit's value
_CHUNK = 4096  # steps recorded at a time


def listen(
    model: SequenceModel, inputs: Array, names: Sequence[str], reduce: Callable[[Array, int], Array]
) -> tuple[Array, list[Envelopes]]:
    """Run a model over a sound and record each unit's minimum and maximum in short windows.

    Args:
        model: the model.
        inputs: ids `[T]` or numbers `[T, features]`.
        names: the values to record.
        reduce: maps a chunk of the head's output `[n, width]` and its first step to the values to keep.

    Returns:
        The kept output, concatenated, and the values.
    """
    bin_size = max(1, math.ceil(len(inputs) / _BINS))
    chunk = max(1, _CHUNK // bin_size) * bin_size
    kept: list[Array] = []
    lows: dict[str, list[Array]] = {name: [] for name in names}
    highs: dict[str, list[Array]] = {name: [] for name in names}
    state = None
    for start in range(0, len(inputs), chunk):
        some = torch.from_numpy(np.ascontiguousarray(inputs[start : start + chunk]))
        some = some.to(next(model.parameters()).dtype) if some.is_floating_point() else some.long()
        with torch.no_grad(), record(model, *map(glob.escape, names)) as tape:
            raw, state = model(some[:, None], state)
        kept.append(reduce(raw[:, 0].double().numpy(), start))
        bins = np.arange(0, len(some), bin_size)
        for name in names:
            steps = tape[name][:, 0].float().numpy()
            lows[name].append(np.minimum.reduceat(steps, bins))
            highs[name].append(np.maximum.reduceat(steps, bins))
    values = []
    for name in names:
        layer, _, short = name.partition(".")
        values.append(Envelopes(layer, short, np.concatenate(lows[name]), np.concatenate(highs[name]), bin_size))
    return np.concatenate(kept), values


def loudest(samples: Array, length: int) -> int:
    """Return the start of the excerpt with the most energy, in steps of a tenth of its length."""
    if len(samples) <= length:
        return 0
    hop = max(1, length // 10)
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    starts = np.arange(0, len(samples) - length + 1, hop)
    return int(starts[(energy[starts + length] - energy[starts]).argmax()])


def means(values: Array, window: int) -> Array:
    """Return the mean of each window `[n / window]`; the last one may be shorter."""
    starts = np.arange(0, len(values), window)
    sums = np.add.reduceat(values.astype(np.float64), starts)
    found: Array = sums / np.diff([*starts, len(values)])
    return found


def track(name: str, samples: Array) -> Track:
    """Make a playable mono track, averaging the channels if there are several."""
    flat = np.asarray(samples, np.float32)
    return Track(name, flat.mean(1) if flat.ndim == 2 else flat)

"""Score units by how well they follow features that have names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from throughtime.errors import UserError
from throughtime.sight.arrays import Array, as_array
from throughtime.sight.text import FEATURES, Feature, measured, pieces

# The fraction of a unit's values below each bin edge; bins are finer at both ends, where few values mark rare events.
_EDGES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99)
_BINS = len(_EDGES) + 1
_EIGHTHS = tuple(k / 8 for k in range(1, 8))  # bin edges of a count
_SHIFTS = 24  # circular shifts of the text from which the chance level is estimated
_DEVIATIONS = 3  # standard deviations above chance below which a unit follows nothing
_MEMORYLESS_SHARE = 0.5  # weight of features that need no memory
_MIN_OCCURRENCES = 3  # a feature that occurs less often is ignored


@dataclass(frozen=True)
class Interest:
    """The information that each unit carries about the features of a text.

    Attributes:
        scores: the score of each unit, from 0 to 1, `[H]`.
        phrases: the feature that each unit follows best, such as "high inside quotes"; empty if none.
        shares: the fraction of each feature's information that each unit carries, above chance, `[H, features]`.
        features: the names of the features that occur in the text.
    """

    scores: Array
    phrases: tuple[str, ...]
    shares: Array
    features: tuple[str, ...]

    @property
    def order(self) -> Array:
        """The units, most interesting first, `[H]`."""
        return np.argsort(-self.scores, kind="stable")


def interest(
    values: Any,
    text: str | Sequence[str] | None,
    more: Mapping[str, Any] | None = None,
    *,
    along: bool = True,
) -> Interest:
    """Score each unit by how well it follows a named feature of a text.

    The score of a unit u is the maximum over features f of (I(u; f) - chance) / H(f): the fraction of the feature's
    entropy that the unit's value explains, by mutual information (Bau et al. 2017, arXiv:1704.05796, and Karpathy et
    al. 2015, arXiv:1506.02078, searched for meaningful units in similar ways; mutual information needs no threshold).
    Values are divided into fourteen bins that are finer at both ends, counts into eight with equally many steps each.
    Chance is the mean of I when the feature is shifted circularly against the values, which preserves how slowly both
    change; a unit less than three standard deviations above it scores 0. A feature of the current token alone, such as
    a space, needs no memory, so its score is halved, as is that of a count in `more`. Features that occur fewer than
    three times are ignored.

    Args:
        values: a recorded value, `[T, H]` or `[T, 1, H]`.
        text: the text that was read, one character or token per step; None if it was not text.
        more: further features at each step, `[T]`: booleans with a name such as "at nouns", or counts with the name of
            the unit that they run along, such as "the sequence".
        along: whether to include counts along a line, a word and so on as features of the text.

    Returns:
        The scores, and the feature that each unit follows.

    Raises:
        UserError: if the values are not those of a single sequence.
        DataError: if the lengths of the text and the values differ.
    """
    array = as_array(values, "values", "T B H")
    array = as_array(array[:, 0] if array.shape[1] == 1 else array, "values of one sequence", "T H")
    tokens = None if text is None else pieces(text, len(array))
    found = (
        []
        if tokens is None
        else [(f, m) for f in FEATURES if (along or not f.along) and _occurs(m := measured(f, tokens))]
    )
    for name, measure in (more or {}).items():
        measure = np.asarray(measure)
        counts = measure.dtype.kind != "b"
        if measure.shape != array.shape[:1]:
            raise UserError(
                f"a feature must have a value at each of {len(array)} steps, got shape {list(measure.shape)}"
            )
        if _occurs(measure.astype(np.int64)):
            # The score of a count along a sequence is halved, as it needs no memory.
            feature = Feature(name, np.asarray, name if counts else None, memory=not counts)
            found.append((feature, measure.astype(np.int64)))
    units = array.shape[1]
    if not found:
        return Interest(np.zeros(units), ("",) * units, np.zeros((units, 0)), ())
    bins = [_one_hot(_binned(m, _EIGHTHS) if f.along else m) for f, m in found]
    shares = _shares(np.stack([_binned(array[:, u], _EDGES) for u in range(units)], 1), bins)
    weights = np.array([1.0 if f.memory else _MEMORYLESS_SHARE for f, _ in found])
    best = (shares * weights).argmax(1)
    scores = (shares * weights).max(1)
    phrases = tuple(_phrase(found[k][0], found[k][1], array[:, u]) if scores[u] > 0 else "" for u, k in enumerate(best))
    return Interest(scores, phrases, shares, tuple(f.name for f, _ in found))


def _occurs(measure: Array) -> bool:
    """Return whether a feature is both present and absent often enough to be followed."""
    here = measure > 0
    return int((here[1:] & ~here[:-1]).sum() + here[0]) >= _MIN_OCCURRENCES


def _binned(values: Array, shares: Sequence[float]) -> Array:
    """Return the bin of each value, given the fraction of values below each edge."""
    edges = np.unique(np.quantile(values, shares))
    bins: Array = np.searchsorted(edges, values, "right")
    return bins


def _one_hot(bins: Array) -> Array:
    hot: Array = (bins[:, None] == np.unique(bins)).astype(np.float32)
    return hot


def _shares(of_units: Array, features: list[Array]) -> Array:
    """Return (I(u; f) - chance) / H(f) for each unit and feature."""
    steps, units = of_units.shape
    hot = (of_units[:, :, None] == np.arange(_BINS)).reshape(steps, units * _BINS).astype(np.float32)
    joined = np.concatenate(features, 1)
    ends = np.cumsum([f.shape[1] for f in features])
    turned = np.linspace(0.1, 0.9, _SHIFTS) * steps

    def information(shift: int) -> Array:
        joint = (hot.T @ np.roll(joined, shift, 0)).reshape(units, _BINS, -1) / steps
        return np.stack([_information(part) for part in np.split(joint, ends[:-1], 2)], 1)

    chance = np.stack([information(int(shift)) for shift in turned])
    entropy = np.array([_entropy(f.mean(0)) for f in features])
    over = information(0) - chance.mean(0)
    return np.where(over > _DEVIATIONS * chance.std(0), np.clip(over / entropy, 0, 1), 0.0)


def _information(joint: Array) -> Array:
    """Return the mutual information of each unit's joint distribution `[H, bins, values]`, in nats."""
    one, other = joint.sum(2), joint.sum(1)
    return _entropy(one) + _entropy(other) - _entropy(joint.reshape(len(joint), -1))


def _entropy(p: Array) -> Array:
    total: Array = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    return total


def _phrase(feature: Feature, measure: Array, values: Array) -> str:
    if feature.along is None:
        here = measure > 0
        return f"{'high' if values[here].mean() > values[~here].mean() else 'low'} {feature.name}"
    ranks = np.argsort(np.argsort(measure, kind="stable")), np.argsort(np.argsort(values, kind="stable"))
    correlation = float(np.corrcoef(*ranks)[0, 1])
    verb = "changes" if abs(correlation) < _MONOTONE else "rises" if correlation > 0 else "falls"
    return f"{verb} along {feature.along}"


_MONOTONE = 0.3

"""Test which differences between cells are real: a paired bootstrap with Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MIN_SEEDS = 5
"""With fewer seeds, the spread between seeds is too uncertain to claim a difference."""

LEVEL = 0.05  # the probability of any false claim in a whole table
_DRAWS = 4000


@dataclass(frozen=True)
class Difference:
    """The difference between two cells on the same seeds and the same held-out blocks.

    Attributes:
        a, b: the cells.
        mean: the metric of `a` minus that of `b`.
        low, high: the 95% confidence interval of the mean, not corrected for the number of pairs.
        p: the p-value, corrected for the number of pairs.
    """

    a: str
    b: str
    mean: float
    low: float
    high: float
    p: float

    @property
    def real(self) -> bool:
        """Whether the difference is significant."""
        return self.p < LEVEL

    @property
    def data(self) -> dict[str, Any]:
        """The difference as a dictionary."""
        return {**vars(self), "real": self.real}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, standard deviation (0 for one value), minimum and maximum."""
    array = np.asarray(values, float)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {"mean": float(array.mean()), "sd": deviation, "min": float(array.min()), "max": float(array.max())}


def differences(figures: Mapping[str, Array], weights: Array, seed: int = 0) -> list[Difference]:
    """Compare all pairs of cells.

    Seeds and blocks are resampled with replacement, identically for both cells of a pair: the pigeonhole bootstrap
    (Owen 2007, arXiv:0712.1111). It estimates the standard error of the mean difference, which is widened by
    sqrt(n / (n - 1)) for n seeds because a bootstrap of few values is too narrow (Hesterberg 2015, arXiv:1411.5279).
    For the same reason, tails follow Student's t with n - 1 degrees of freedom. Holm's correction (1979) bounds the
    probability of any false claim in the table by 5%.

    Args:
        figures: each cell's metric `[seeds, blocks]`, with the same seeds and blocks for all cells.
        weights: the number of terms in each block, `[blocks]`.
        seed: the seed for resampling.

    Returns:
        All pairs, in the order of the cells; empty with fewer than `MIN_SEEDS` seeds.
    """
    seeds = min((len(values) for values in figures.values()), default=0)
    if seeds < MIN_SEEDS or len(figures) < 2:
        return []
    from scipy.stats import t as student

    draw = np.random.default_rng(seed)
    rows = _counts(draw, seeds)
    columns = _counts(draw, len(weights)) * weights
    columns = columns / columns.sum(1, keepdims=True)
    quantile = float(student.ppf(1 - LEVEL / 2, seeds - 1))
    found = []
    for a, b in combinations(figures, 2):
        paired = np.asarray(figures[a], float) - np.asarray(figures[b], float)
        mean = float((paired.mean(0) * weights).sum() / weights.sum())
        drawn = np.einsum("ds,sk,dk->d", rows / seeds, paired, columns)
        error = float(drawn.std(ddof=1)) * math.sqrt(seeds / (seeds - 1))
        p = 2 * float(student.sf(abs(mean) / error, seeds - 1)) if error > 0 else float(mean == 0)
        found.append(Difference(a, b, mean, mean - quantile * error, mean + quantile * error, p))
    corrected = holm([each.p for each in found])
    return [
        Difference(each.a, each.b, each.mean, each.low, each.high, p) for each, p in zip(found, corrected, strict=True)
    ]


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    found = [0.0] * len(values)
    largest = 0.0
    for rank, k in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[k]))
        found[k] = largest
    return found


def _counts(draw: np.random.Generator, count: int) -> Array:
    """Draw bootstrap samples of `count` items and return how often each is drawn, `[draws, count]`."""
    return draw.multinomial(count, np.full(count, 1 / count), size=_DRAWS).astype(float)

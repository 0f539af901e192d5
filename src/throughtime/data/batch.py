"""The batch: the format in which models receive all kinds of data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Batch(NamedTuple):
    """Sequences that a model processes in parallel, time axis first.

    Attributes:
        inputs: token ids `[T, B]` (int64) or features `[T, B, F]` (float32).
        targets: `[B]` or `[B, K]` with one target per sequence, `[T, B]` or `[T, B, K]` with one per step;
            int64 ids, or float32 values with the axis K.
        lengths: the number of steps of each sequence `[B]` (int64); None if all have T steps.
        weights: the weight of each target (float32), shaped like the leading axes of targets, 0 at padding;
            None if all are 1.
        carry: whether the sequences continue those of the previous batch, starting from its final states.
        terms: the divisor of the summed loss of this process's sequences: the weighted number of targets of the batch
            in all processes, divided by the number of processes. The mean of the quotients over all processes is then
            the mean loss of the whole batch.
        branches: the number of final steps that run in parallel, each from the state before the first of them, instead
            of one after another.
    """

    inputs: NDArray[np.int64] | NDArray[np.float32]
    targets: NDArray[np.int64] | NDArray[np.float32]
    lengths: NDArray[np.int64] | None
    weights: NDArray[np.float32] | None
    carry: bool
    terms: float
    branches: int = 0

"""Batches of sequences of similar length, to minimize padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.batch import Batch
from throughtime.data.sequences import Sequences
from throughtime.errors import DataError

_JITTER = 0.05


class Buckets:
    """Batches of sequences of similar length; an epoch of `len(buckets)` batches contains each sequence once.

    The batch of a step depends only on the step and the arguments, so a resumed run continues with the same batches.
    Each epoch shuffles the batches and regroups sequences whose lengths differ by up to about 5%. Sequences are sorted
    by decreasing length within a batch.

    An epoch has as few batches as `batch` allows; their sizes differ by at most one sequence.

    Attributes:
        sequences: the sequences.
    """

    def __init__(
        self, sequences: Sequences, batch: int, seed: int = 0, rank: int = 0, ranks: int = 1, shuffle: bool = True
    ) -> None:
        """Plan the batches.

        Args:
            sequences: the sequences to batch.
            batch: the maximum batch size, summed over all processes. If that would leave a process without a
                sequence, batches have up to `2 * ranks - 1` sequences instead.
            seed: the seed of the shuffles.
            rank: the rank of this process, which receives sequences `[rank::ranks]` of each batch.
            ranks: the number of processes.
            shuffle: whether to shuffle; otherwise all epochs have the same batches, from the shortest sequences to the
                longest.

        Raises:
            DataError: if batch is not positive, or there are fewer sequences than processes.
        """
        if batch < 1:
            raise DataError(f"batch must be a positive integer, got {batch}")
        if min(batch, len(sequences)) < ranks:
            raise DataError(
                f"{ranks} processes need a batch of at least {ranks} sequences, got a batch of {batch} from "
                f"{len(sequences)} sequences; use a larger batch or fewer processes"
            )
        self.sequences = sequences
        self._count = min(-(-len(sequences) // batch), len(sequences) // ranks)
        self._seed, self._rank, self._ranks, self._shuffle = seed, rank, ranks, shuffle
        self._plan: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def __len__(self) -> int:
        return self._count

    @property
    def terms(self) -> int:
        """The number of targets per epoch, divided by the number of processes."""
        data = self.sequences
        return (int(data.lengths.sum()) if data.per_step else len(data)) // self._ranks

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the indices of this process's sequences in the batch of a step."""
        return self._members(step)[self._rank :: self._ranks]

    def batch(self, step: int) -> Batch:
        """Return the batch of a step.

        Args:
            step: the step, counted from 0 over all epochs.

        Returns:
            This process's sequences of the batch, zero-padded to the longest of them.
        """
        members = self._members(step)
        rows = members[self._rank :: self._ranks]
        data = self.sequences
        lengths = data.lengths[rows]
        padded = bool((lengths != lengths[0]).any())
        weights: NDArray[np.float32] | None = None if data.weights is None else data.weights[rows]
        weight_sum = np.ones(len(members)) if data.weights is None else data.weights[members].astype(np.float64)
        if isinstance(data.targets, np.ndarray):
            targets = data.targets[rows]
        else:
            targets = _padded([data.targets[k] for k in rows])
            weight_sum = weight_sum * data.lengths[members]
            if padded or weights is not None:
                present = np.arange(lengths.max())[:, None] < lengths
                weights = (present if weights is None else present * weights).astype(np.float32)
        return Batch(
            inputs=_padded([data.inputs[k] for k in rows]),
            targets=targets,
            lengths=lengths if padded else None,
            weights=weights,
            carry=False,
            terms=float(weight_sum.sum()) / self._ranks,
        )

    def _members(self, step: int) -> NDArray[np.int64]:
        """Return the indices of all processes' sequences in the batch of a step, by decreasing length."""
        if step < 0:
            raise DataError(f"step must be at least 0, got {step}")
        epoch, k = divmod(step, len(self)) if self._shuffle else (0, step % len(self))
        if self._plan[0] != epoch:
            self._plan = epoch, self._batches(epoch)
        return self._plan[1][k]

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        lengths = self.sequences.lengths
        if not self._shuffle:
            order = np.argsort(lengths, kind="stable")
            return [part[::-1] for part in np.array_split(order, len(self))]
        generator = np.random.default_rng((self._seed, epoch))
        shuffled = generator.permutation(len(lengths))  # randomizes the order of equal lengths
        # Jitter also mixes similar lengths, in case few are equal; it adds at most 5% of padding.
        keys = lengths[shuffled] * generator.uniform(1, 1 + _JITTER, len(lengths))
        parts = np.array_split(shuffled[np.argsort(keys, kind="stable")], len(self))
        return [parts[k][np.argsort(-lengths[parts[k]], kind="stable")] for k in generator.permutation(len(self))]


def _padded(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Stack arrays `[T, ...]` as `[longest T, B, ...]`, zero-padded at the end."""
    result = np.zeros((max(map(len, arrays)), len(arrays), *arrays[0].shape[1:]), arrays[0].dtype)
    for k, array in enumerate(arrays):
        result[: len(array), k] = array
    return result

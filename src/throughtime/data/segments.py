"""Segments of long signals, for truncated backpropagation through time in windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from throughtime.data.batch import Batch
from throughtime.errors import DataError
from throughtime.spelling import option

Signals = Sequence[NDArray[np.float32]]


class Segments:
    """Training batches of signals `[n, inputs + targets]`.

    A batch is one window of several segments. The state is carried between the windows of a segment. Before the first
    window, the network runs for some steps without a loss, so that the state settles. Each epoch shuffles the
    segments. A batch depends only on its step, so a run can be resumed at any step.

    Args:
        signals: the signals; the last column is the target.
        batch: the number of segments per batch, summed over all processes.
        segment: the length of a segment in steps.
        window: the length of a window in steps.
        burn_in: the number of steps without a loss at the start of a segment.
        constants: inputs that are constant within a signal, `[signals, constants]`, appended to the signals' own.
        seed: the seed of the order.
        rank: the rank of this process.
        ranks: the number of processes.

    Raises:
        DataError: if the signals are too short, there are fewer segments than `batch`, or `batch` is not a multiple of
            `ranks`.
    """

    def __init__(
        self,
        signals: Signals,
        batch: int,
        *,
        segment: int,
        window: int,
        burn_in: int,
        constants: NDArray[np.float32] | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._starts = segment_starts(signals, segment, window, burn_in)
        if batch > len(self._starts) or batch % ranks:
            raise DataError(
                f"a batch of {batch} segments for {ranks} processes can't be taken from {len(self._starts)} segments"
            )
        self._signals, self._batch, self._constants = signals, batch, constants
        self._window, self._burn_in = window, burn_in
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self._windows = max(1, (segment - burn_in) // window)
        self._groups = len(self._starts) // batch

    @property
    def terms(self) -> int:
        """The number of steps with a loss per epoch in this process."""
        return self._groups * self._windows * self._window * self._batch // self._ranks

    def __len__(self) -> int:
        return self._groups * self._windows

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over all epochs."""
        epoch, rest = divmod(step, len(self))
        group, window = divmod(rest, self._windows)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._starts))
        rows = order[group * self._batch : (group + 1) * self._batch][self._rank :: self._ranks]
        first = 0 if window == 0 else self._burn_in + window * self._window
        last = self._burn_in + (window + 1) * self._window
        starts = [self._starts[row] for row in rows]
        values = np.stack([self._signals[k][at + first : at + last] for k, at in starts], 1)
        weights = None
        if window == 0 and self._burn_in:
            weights = np.ones(values.shape[:2], np.float32)
            weights[: self._burn_in] = 0
        inputs, targets = _divided(values, None if self._constants is None else self._constants[[k for k, _ in starts]])
        return Batch(inputs, targets, None, weights, window > 0, self._window * len(rows))


def segment_starts(signals: Signals, segment: int, window: int, burn_in: int) -> list[tuple[int, int]]:
    """Return the signal index and the first step of each segment.

    Raises:
        DataError: if a segment is too short for a window, or all signals are shorter than a segment.
    """
    if segment < burn_in + window:
        raise DataError(
            f"a segment of {segment} steps is too short for {burn_in} steps of burn-in and a window of {window}; use "
            f"a longer {option('segment')}, or a shorter {option('burn_in')} or {option('window')}"
        )
    found = [(k, at) for k, signal in enumerate(signals) for at in range(0, len(signal) - segment + 1, segment)]
    if not found:
        longest = max(map(len, signals), default=0)
        raise DataError(
            f"the longest training signal has {longest} steps, fewer than a segment of {segment}; use longer "
            f"signals or a shorter {option('segment')}"
        )
    return found


class WholeSignals:
    """Whole signals `[n, inputs + targets]` one after another; the state is carried through each signal.

    Args:
        signals: the signals; the last column is the target.
        window: the number of steps to read at a time.
        terms: the maximum number of steps to read; all if None.
        constants: inputs that are constant within a signal, `[signals, constants]`, appended to the signals' own.
    """

    def __init__(
        self, signals: Signals, window: int, terms: int | None = None, constants: NDArray[np.float32] | None = None
    ) -> None:
        left = terms if terms is not None else sum(map(len, signals))
        self._signals, self._constants = signals, constants
        self._windows = []
        for k, signal in enumerate(signals):
            length = min(len(signal), left)
            self._windows += [(k, at, min(at + window, length)) for at in range(0, length, window)]
            left -= length
        self.terms = sum(last - first for _, first, last in self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, step: int) -> Batch:
        """Return the window of a step."""
        k, first, last = self._windows[step % len(self)]
        values = np.asarray(self._signals[k][first:last])[:, None]
        inputs, targets = _divided(values, None if self._constants is None else self._constants[[k]])
        return Batch(inputs, targets, None, None, first > 0, last - first)


def _divided(
    values: NDArray[np.float32], constants: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split signals `[T, B, inputs + 1]` into inputs `[T, B, inputs + constants]` and targets `[T, B, 1]`."""
    inputs = values[..., :-1]
    if constants is not None and constants.shape[1]:
        inputs = np.concatenate([inputs, np.broadcast_to(constants, (len(inputs), *constants.shape))], -1)
    return np.ascontiguousarray(inputs), np.ascontiguousarray(values[..., -1:])

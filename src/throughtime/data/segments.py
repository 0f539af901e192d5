"""Segments of long signals, each run from its own beginning in windows of truncated backpropagation through time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from throughtime.data.batch import Batch
from throughtime.errors import DataError
from throughtime.spelling import option

Signals = Sequence[NDArray[np.float32]]


class Segments:
    """Signals `[n, inputs + targets]` as batches to train on.

    A batch is one window of several segments. The state is carried from window to window of a segment; before the
    first window the network runs for some steps without loss, so that the state has settled. Each epoch draws the
    segments in an order of its own. A batch depends on its step alone, so a run may be resumed at any.

    Args:
        signals: the signals; the last column is the target.
        batch: segments of a batch, in all processes together.
        segment: steps of a segment.
        window: steps of a window.
        burn_in: steps without loss at the beginning of a segment.
        constants: inputs that stay the same throughout a signal, `[signals, constants]`, after the signals' own.
        seed: what the order is drawn from.
        rank: which process this is.
        ranks: how many there are.

    Raises:
        DataError: the signals are too short.
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
        self._places = places(signals, segment, window, burn_in)
        if batch > len(self._places) or batch % ranks:
            raise DataError(
                f"a batch of {batch} segments for {ranks} processes does not fit {len(self._places)} segments"
            )
        self._signals, self._batch, self._constants = signals, batch, constants
        self._window, self._burn_in = window, burn_in
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self._windows = max(1, (segment - burn_in) // window)
        self._groups = len(self._places) // batch

    @property
    def terms(self) -> int:
        """How many steps have a loss in an epoch, in this process."""
        return self._groups * self._windows * self._window * self._batch // self._ranks

    def __len__(self) -> int:
        return self._groups * self._windows

    def batch(self, step: int) -> Batch:
        """The batch of a step; steps count on through the epochs."""
        epoch, rest = divmod(step, len(self))
        group, window = divmod(rest, self._windows)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._places))
        rows = order[group * self._batch : (group + 1) * self._batch][self._rank :: self._ranks]
        first = 0 if window == 0 else self._burn_in + window * self._window
        last = self._burn_in + (window + 1) * self._window
        places = [self._places[row] for row in rows]
        values = np.stack([self._signals[k][at + first : at + last] for k, at in places], 1)
        weights = None
        if window == 0 and self._burn_in:
            weights = np.ones(values.shape[:2], np.float32)
            weights[: self._burn_in] = 0
        inputs, targets = _divided(values, None if self._constants is None else self._constants[[k for k, _ in places]])
        return Batch(inputs, targets, None, weights, window > 0, self._window * len(rows))


def places(signals: Signals, segment: int, window: int, burn_in: int) -> list[tuple[int, int]]:
    """Return the signal and the first step of each segment.

    Raises:
        DataError: a segment is too short for a window, or no signal is as long as a segment.
    """
    if segment < burn_in + window:
        raise DataError(
            f"a segment of {segment} steps is too short for {burn_in} steps of burn-in and a window of {window}: give "
            f"a longer {option('segment')}, or a shorter {option('burn_in')} or {option('window')}"
        )
    found = [(k, at) for k, signal in enumerate(signals) for at in range(0, len(signal) - segment + 1, segment)]
    if not found:
        longest = max(map(len, signals), default=0)
        raise DataError(
            f"the longest signal to train on has {longest} steps, fewer than a segment of {segment}: give longer "
            f"signals or a shorter {option('segment')}"
        )
    return found


class WholeSignals:
    """Signals `[n, inputs + targets]` one after another, each from its own beginning, the state carried to its end.

    Args:
        signals: the signals; the last column is the target.
        window: steps that are read at a time.
        terms: how many steps to read at most.
        constants: inputs that stay the same throughout a signal, `[signals, constants]`, after the signals' own.
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
        """The window of a step."""
        k, first, last = self._windows[step % len(self)]
        values = np.asarray(self._signals[k][first:last])[:, None]
        inputs, targets = _divided(values, None if self._constants is None else self._constants[[k]])
        return Batch(inputs, targets, None, None, first > 0, last - first)


def _divided(
    values: NDArray[np.float32], constants: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The inputs `[T, B, inputs + constants]` and the targets `[T, B, 1]` of signals `[T, B, inputs + 1]`."""
    inputs = values[..., :-1]
    if constants is not None and constants.shape[1]:
        inputs = np.concatenate([inputs, np.broadcast_to(constants, (len(inputs), *constants.shape))], -1)
    return np.ascontiguousarray(inputs), np.ascontiguousarray(values[..., -1:])

"""Parallel streams cut into windows, for truncated backpropagation through time.

A text of n tokens becomes `batch` streams of n / batch consecutive tokens each. Window k holds the
steps from k * window of every stream, so a network that processes the windows in order and carries its
state reads every stream without interruption.
"""

import numpy as np
from numpy.typing import NDArray

from throughtime.data.batch import Batch
from throughtime.data.vocabulary import Ids
from throughtime.errors import DataError
from throughtime.spelling import option


class Streams:
    """A text as windows of parallel streams: `streams[k]` is window k of `len(streams)`.

    The target of each step is the next token; the last target of a stream is the first input of the
    next, so every token except the text's first is a target exactly once. Up to `batch` - 1 tokens at
    the end, which don't fill a step of all streams, are dropped. The last window is shorter if the
    window length doesn't divide the length of the streams.

    A window depends only on its index, so a run can start at any window. Ids are read from the file
    as needed.

    Attributes:
        steps: the number of steps per stream.
        rows: the number of streams in this process.
    """

    def __init__(self, ids: Ids, batch: int, window: int, rank: int = 0, ranks: int = 1) -> None:
        """Lay out token ids as parallel streams.

        Args:
            ids: the token ids `[tokens]`.
            batch: the number of streams, summed over all processes.
            window: the number of steps per window.
            rank: the rank of this process, which processes its share of the streams.
            ranks: the number of processes.

        Raises:
            DataError: if the streams can't be divided evenly, or the text is too short for them.
        """
        if batch < 1 or window < 1:
            raise DataError(f"batch and window must be positive integers, got batch {batch} and window {window}")
        if batch % ranks:
            raise DataError(f"a batch of {batch} can't be divided among {ranks} processes; use a multiple of {ranks}")
        self.steps = (len(ids) - 1) // batch
        if self.steps < 1:
            raise DataError(
                f"a text of {len(ids)} tokens is too short for {batch} parallel streams; "
                f"use at least {batch + 1} tokens, or a smaller batch"
            )
        self.rows = batch // ranks
        self._window = window
        self._ids = ids
        self._starts = np.arange(rank * self.rows, (rank + 1) * self.rows) * self.steps

    @property
    def terms(self) -> int:
        """The number of targets in all windows of this process."""
        return self.steps * self.rows

    def __len__(self) -> int:
        return (self.steps + self._window - 1) // self._window

    def __getitem__(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return window `index`: inputs `[T, B]` and targets `[T, B]`, one step ahead."""
        if not 0 <= index < len(self):
            raise IndexError(f"window index must be from 0 to {len(self) - 1}, got {index}")
        first = index * self._window
        last = min(first + self._window, self.steps)
        positions = np.arange(first, last + 1)[:, None] + self._starts
        tokens = self._ids[positions].astype(np.int64)
        return tokens[:-1], tokens[1:]

    def batch(self, step: int) -> Batch:
        """Return the window of a step, counted from 0 over all epochs; each epoch starts from the initial state."""
        window = step % len(self)
        tokens, targets = self[window]
        return Batch(tokens, targets, None, None, window > 0, targets.size)


def fitting_batch(tokens: int, batch: int, window: int, ranks: int = 1, what: str = "text", unit: str = "token") -> int:
    """Return the batch size to train a text with: the requested one, or the largest whose streams fill a window.

    Args:
        tokens: the number of tokens in the text.
        batch: the requested number of streams.
        window: the number of steps per window.
        ranks: the number of processes; the result is a multiple of it.
        what: the name of the text in the message.
        unit: the name of a token in the message.

    Raises:
        DataError: if the text is shorter than a window for each process.
    """
    fitting = min(batch, (tokens - 1) // window) // ranks * ranks
    if fitting < 1:
        raise DataError(
            f"the training {what} has {tokens} {unit}s, fewer than one window of {window} steps"
            + (f" for each of {ranks} processes" if ranks > 1 else "")
            + f" ({ranks * window + 1}); use a longer {what} or a shorter {option('window')}"
        )
    return fitting

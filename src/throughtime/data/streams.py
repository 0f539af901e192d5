"""The layout that truncated backpropagation through time wants: parallel streams, cut into windows.

A text of n symbols becomes `batch` streams, each the next n / batch symbols of it. Window k holds
the steps from k * window of every stream, so a network that goes through the windows in order and
carries its state reads every stream without a break.
"""

import numpy as np
from numpy.typing import NDArray

from throughtime.data.batch import Batch
from throughtime.data.vocabulary import Ids
from throughtime.errors import DataError
from throughtime.spelling import option


class Streams:
    """A text as windows of parallel streams: `streams[k]` is window k, and `len` counts them.

    Each stream's target is the symbol after its input; a stream's last target is the first input of
    the next, so every symbol but the text's first is a target exactly once. Up to `batch` - 1
    symbols at the end, which don't fill a step of all streams, are left out: none with a batch of
    1. The last window is shorter where the window doesn't divide the streams.

    A window depends on its index alone, so a run may begin at any; ids are read from the file as
    they are wanted.

    Attributes:
        steps: how many steps each stream has.
        rows: how many streams there are here, in this process.
    """

    def __init__(self, ids: Ids, batch: int, window: int, rank: int = 0, ranks: int = 1) -> None:
        """Lay out ids.

        Args:
            ids: shape [symbols].
            batch: how many streams, in all processes together.
            window: how many steps of each stream make a window.
            rank: which process this is: it gets its share of the streams.
            ranks: how many processes there are.

        Raises:
            DataError: the streams can't be shared out evenly, or the text is too short for them.
        """
        if batch < 1 or window < 1:
            raise DataError(f"batch {batch}, window {window}: 1 or more of each is wanted")
        if batch % ranks:
            raise DataError(f"a batch of {batch} can't be shared by {ranks} processes: a multiple of {ranks} is wanted")
        self.steps = (len(ids) - 1) // batch
        if self.steps < 1:
            raise DataError(
                f"a text of {len(ids)} symbols is too short for {batch} parallel streams: "
                f"{batch + 1} symbols are wanted, or a smaller batch"
            )
        self.rows = batch // ranks
        self._window = window
        self._ids = ids
        self._starts = np.arange(rank * self.rows, (rank + 1) * self.rows) * self.steps

    @property
    def terms(self) -> int:
        """How many symbols all windows together have as targets, in this process."""
        return self.steps * self.rows

    def __len__(self) -> int:
        return (self.steps + self._window - 1) // self._window

    def __getitem__(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Window `index`: inputs [T, B] and targets [T, B], the targets a step ahead."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        first = index * self._window
        last = min(first + self._window, self.steps)
        places = np.arange(first, last + 1)[:, None] + self._starts
        symbols = self._ids[places].astype(np.int64)
        return symbols[:-1], symbols[1:]

    def batch(self, step: int) -> Batch:
        """The window of a step, counted on through the epochs; the first of an epoch begins without a past."""
        window = step % len(self)
        symbols, targets = self[window]
        return Batch(symbols, targets, None, None, window > 0, targets.size)


def fitting_batch(
    symbols: int, batch: int, window: int, ranks: int = 1, what: str = "text", unit: str = "symbol"
) -> int:
    """The batch to train a text with: the one wanted, or the largest whose streams fill a window.

    Args:
        symbols: how many the text has.
        batch: how many streams are wanted.
        window: how many steps a window has.
        ranks: how many processes share the streams; the batch is a multiple of it.
        what: what to call the text in the message.
        unit: what to call a symbol.

    Raises:
        DataError: the text is shorter than a window for each process.
    """
    fitting = min(batch, (symbols - 1) // window) // ranks * ranks
    if fitting < 1:
        raise DataError(
            f"the training {what} has {symbols} {unit}s, fewer than one window of {window} steps"
            + (f" for each of {ranks} processes" if ranks > 1 else "")
            + f" ({ranks * window + 1}): give a longer {what} or a shorter {option('window')}"
        )
    return fitting

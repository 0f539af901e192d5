"""The base class of tasks on one long sequence: parallel streams to train on, one stream to evaluate."""

from __future__ import annotations

from typing import ClassVar, Protocol, Self, TypeVar

from throughtime.data.streams import Streams, fitting_batch
from throughtime.data.vocabulary import Ids
from throughtime.tasks.base import Data
from throughtime.tasks.generative import Generative
from throughtime.tasks.options import StreamOptions

READ_AT_ONCE = 500
"""The number of steps per evaluation window; affects memory use only."""


class Row(Protocol):
    """A part of the data, as one sequence of token ids."""

    @property
    def ids(self) -> Ids:
        """The token ids `[n]`."""
        ...

    def first(self, tokens: int, /) -> Self:
        """Return the first tokens."""
        ...


R = TypeVar("R", bound=Row)


class StreamTask(Generative[R]):
    """A task that predicts the next token of one long sequence.

    Attributes:
        row: the name of the sequence in messages.
        element: the name of a token in messages.
    """

    row: ClassVar[str] = "row"
    element: ClassVar[str] = "token"
    options: StreamOptions

    def batches(self, part: R, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Streams:
        """Return the sequence as parallel streams, cut into windows."""
        return Streams(part.ids, batch, self.options.window, rank, ranks)

    def reading(self, part: R, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1) -> Streams:
        """Return one stream that carries the state, or parallel streams that each start from the initial state.

        If the sequence is too short to divide among the processes, each process reads all of it.
        """
        ids = self.subset(part, terms).ids
        window = READ_AT_ONCE if batch == 1 else self.options.window
        batch = max(1, min(batch, (len(ids) - 1) // window))
        if batch < ranks:
            return Streams(ids, 1, window)
        return Streams(ids, batch // ranks * ranks, window, rank, ranks)

    def subset(self, part: R, terms: int | None) -> R:
        """See `Task.subset`; selects the beginning."""
        return part if terms is None or terms >= len(part.ids) - 1 else part.first(terms + 1)

    def fitting_batch(self, data: Data[R], batch: int, ranks: int) -> int:
        """Return the requested batch size, or the largest whose streams each fill a window."""
        return fitting_batch(len(data.train.ids), batch, self.options.window, ranks, self.row, self.element)

"""What tasks on one long row of symbols share: parallel streams to train on, one stream to measure."""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeVar

from throughtime.data.streams import Streams, fitting_batch
from throughtime.data.vocabulary import Ids
from throughtime.options import Count
from throughtime.tasks.base import Data, Generative
from throughtime.tasks.options import TaskOptions

READ_AT_ONCE = 500
"""Steps of a row that are measured at a time: bounds the memory, and changes nothing else."""


class Row(Protocol):
    """A part of the data."""

    @property
    def ids(self) -> Ids:
        """Its symbols `[n]`."""
        ...


class StreamOptions(TaskOptions):
    """One long row of symbols.

    Attributes:
        window: steps of truncated backpropagation through time.
    """

    window: Count = 50


R = TypeVar("R", bound=Row)


class StreamTask(Generative[R]):
    """A task that predicts the next symbol of one long row.

    Attributes:
        row: what to call the row in a message.
        element: what to call one of its symbols.
    """

    row: ClassVar[str] = "row"
    element: ClassVar[str] = "symbol"
    options: StreamOptions

    def batches(self, part: R, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Streams:
        """The row as parallel streams, cut into windows."""
        return Streams(part.ids, batch, self.options.window, rank, ranks)

    def reading(self, part: R, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1) -> Streams:
        """One stream, through which the state is carried; or parallel ones, each of which begins without a past.

        A row that is too short for the processes to share is read whole by each.
        """
        ids = part.ids if terms is None else part.ids[: terms + 1]
        window = READ_AT_ONCE if batch == 1 else self.options.window
        batch = max(1, min(batch, (len(ids) - 1) // window))
        if batch < ranks:
            return Streams(ids, 1, window)
        return Streams(ids, batch // ranks * ranks, window, rank, ranks)

    def fitting_batch(self, data: Data[R], batch: int, ranks: int) -> int:
        """The streams whose length fills a window."""
        return fitting_batch(len(data.train.ids), batch, self.options.window, ranks, self.row, self.element)

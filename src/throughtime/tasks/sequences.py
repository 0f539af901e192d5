"""What tasks on separate sequences share: batches of similar length, and the reading of them one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from throughtime.data.buckets import Buckets
from throughtime.data.sequences import Sequences
from throughtime.errors import DataError
from throughtime.tasks.base import Data, Task

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel

READ_AT_ONCE = 256
"""Sequences of a batch that is only read: bounds the memory, and changes nothing else."""


class SequenceTask(Task[Sequences]):
    """A task whose data are separate sequences, with a target each or a target for each step."""

    defaults: ClassVar = {"batch": 64, "hidden_size": 256, "dropout": 0.5, "epochs": 20}

    def batches(self, part: Sequences, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Buckets:
        """Batches of sequences of similar length, in an order of its own in each epoch."""
        return Buckets(part, batch, seed, rank, ranks)

    def reading(
        self, part: Sequences, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1
    ) -> Buckets:
        """Batches of sequences of similar length, from the shortest to the longest.

        Where `terms` bounds them, sequences are chosen evenly spread over the part.
        """
        if len(part) < ranks:  # each process reads all of them
            rank, ranks = 0, 1
        whole = Buckets(part, READ_AT_ONCE, 0, rank, ranks, shuffle=False)
        if terms is None or terms >= whole.terms:
            return whole
        count = max(ranks, round(len(part) * terms / whole.terms))
        chosen = part.take(np.linspace(0, len(part) - 1, count).round().astype(np.int64))
        return Buckets(chosen, READ_AT_ONCE, 0, rank, ranks, shuffle=False)

    def fitting_batch(self, data: Data[Sequences], batch: int, ranks: int) -> int:
        """As many sequences as there are, at most."""
        if len(data.train) < ranks:
            raise DataError(
                f"{data.name} has {len(data.train)} training sequences, fewer than the {ranks} processes that would "
                "share them"
            )
        return max(ranks, min(batch, len(data.train)))


def raw_outputs(model: SequenceModel, part: Sequences) -> Iterator[tuple[int, NDArray[Any]]]:
    """The head's numbers for each sequence, `[width]` or `[T, width]`, with its index; in the order of reading."""
    import torch

    from throughtime.training.evaluation import OnDevice

    batches = Buckets(part, READ_AT_ONCE, shuffle=False)
    parameter = next(model.parameters())
    for k in range(len(batches)):
        on = OnDevice.of(batches.batch(k), parameter.device, parameter.dtype)
        with torch.no_grad():
            raw, _ = model(on.inputs, lengths=on.lengths)
        array = raw.float().cpu().numpy() if raw.dtype != torch.float64 else raw.cpu().numpy()
        for row, index in enumerate(batches.rows(k).tolist()):
            yield index, array[: part.lengths[index], row] if model.per_step else array[row]


def all_raw_outputs(model: SequenceModel, part: Sequences) -> list[NDArray[Any]]:
    """The head's numbers for each sequence, in the order of the sequences."""
    found = dict(raw_outputs(model, part))
    return [found[k] for k in range(len(part))]

"""The base class of tasks on separate sequences, with batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from throughtime.codecs import Codecs
from throughtime.data.buckets import Buckets
from throughtime.data.sequences import Array, Sequences
from throughtime.errors import DataError
from throughtime.outputs import Categorical
from throughtime.tasks.base import Data, Task

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.passage import Passage

READ_AT_ONCE = 256
"""The number of sequences per evaluation batch; affects memory use only."""


class SequenceTask(Task[Sequences]):
    """A task whose data are separate sequences with one target each, or one target per step."""

    reads_again: ClassVar[bool] = True

    def batches(self, part: Sequences, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Buckets:
        """Return batches of sequences of similar length, in a different order every epoch."""
        return Buckets(part, batch, seed, rank, ranks)

    def reading(
        self, part: Sequences, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1
    ) -> Buckets:
        """Return batches of sequences of similar length, from shortest to longest.

        `terms` selects evenly spaced sequences.
        """
        part = self.subset(part, terms, ranks)
        if len(part) < ranks:  # each process reads all of them
            rank, ranks = 0, 1
        return Buckets(part, READ_AT_ONCE, 0, rank, ranks, shuffle=False)

    def subset(self, part: Sequences, terms: int | None, least: int = 1) -> Sequences:
        """See `Task.subset`; selects evenly spaced sequences, at least `least` of them."""
        whole = Buckets(part, READ_AT_ONCE, shuffle=False).terms
        if terms is None or terms >= whole:
            return part
        count = min(len(part), max(least, round(len(part) * terms / whole)))
        return part.take(np.linspace(0, len(part) - 1, count).round().astype(np.int64))

    def fitting_batch(self, data: Data[Sequences], batch: int, ranks: int) -> int:
        """Return the batch size, reduced to the number of sequences if there are fewer."""
        if len(data.train) < ranks:
            raise DataError(
                f"{data.name} has {len(data.train)} training sequences, fewer than the {ranks} processes that "
                "share them"
            )
        return max(ranks, min(batch, len(data.train)))

    def step_name(self, codecs: Codecs) -> str:
        """Return the name of a step, such as "character"."""
        return "step"

    def tokens(self, part: Sequences, k: int, codecs: Codecs) -> Sequence[str] | None:
        """Return the texts of a sequence's steps; None if steps are numeric."""
        return None

    def unknown(self, part: Sequences, k: int, codecs: Codecs) -> Array | None:
        """Return a mask `[T]` of a sequence's out-of-vocabulary tokens; None if there are none."""
        return None

    def passage(self, part: Sequences, codecs: Codecs, length: int, name: str, *, answered: bool = True) -> Passage:
        """See `Task.passage`; `answered` is whether the targets are known."""
        from throughtime.sight.report.passage import Item, Passage, spread

        items = [
            Item(
                part.inputs[k],
                part.targets[k] if answered else None,
                self.tokens(part, k, codecs),
                part.names[k],
                self.unknown(part, k, codecs),
            )
            for k in spread(part, length)
        ]
        interface = self.interface(codecs)
        return Passage(
            name,
            items,
            self.step_name(codecs),
            codecs.targets.names if isinstance(interface.output, Categorical) else (),
            interface.causal,
            features=part.features or self.features(codecs),
            part=part if answered else None,
        )

    def features(self, codecs: Codecs) -> Sequence[str]:
        """Return default names for numeric inputs whose data have no feature names; empty for tokens."""
        interface = self.interface(codecs)
        return [f"feature {k}" for k in range(interface.size)] if interface.kind == "numeric" else ()

    def pictures(self, model: SequenceModel, data: Data[Sequences], terms: int) -> dict[str, Any]:
        """See `Task.pictures`: the outcome."""
        return self.outcome(model, self.subset(data.reported, terms), data.codecs)


def raw_outputs(model: SequenceModel, part: Sequences) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the index and the head's raw output `[width]` or `[T, width]` of each sequence, in batch order."""
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
    """Return the head's raw output for each sequence, in the order of the sequences."""
    found = dict(raw_outputs(model, part))
    return [found[k] for k in range(len(part))]

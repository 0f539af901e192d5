"""What tasks on separate sequences share: batches of similar length, and the reading of them one after the other."""

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

    def step_name(self, codecs: Codecs) -> str:
        """What a step is called."""
        return "step"

    def symbols(self, part: Sequences, k: int, codecs: Codecs) -> Sequence[str] | None:
        """The texts of a sequence's steps; None where steps are times."""
        return None

    def unknown(self, part: Sequences, k: int, codecs: Codecs) -> Array | None:
        """Which symbols of a sequence the vocabulary lacks, `[T]`; None for none."""
        return None

    def passage(self, part: Sequences, codecs: Codecs, length: int, name: str, *, answered: bool = True) -> Passage:
        """See `Task.passage`; `answered` tells whether the targets are known."""
        from throughtime.sight.report.passage import Item, Passage, spread

        items = [
            Item(
                part.inputs[k],
                part.targets[k] if answered else None,
                self.symbols(part, k, codecs),
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
            features=self.features(codecs),
            part=part if answered else None,
        )

    def features(self, codecs: Codecs) -> Sequence[str]:
        """The names of numeric inputs."""
        interface = self.interface(codecs)
        return [f"feature {k}" for k in range(interface.size)] if interface.kind == "numeric" else ()

    def pictures(self, model: SequenceModel, untrained: SequenceModel, data: Data[Sequences]) -> dict[str, Any]:
        """The outcome on held-out data, and the reach of the gradient before and after; see `Task.pictures`."""
        from throughtime.sight.gradients.sampling import followed
        from throughtime.sight.report.collect import flows_before_and_after

        return {
            **self.outcome(model, data.valid, data.codecs),
            **flows_before_and_after(model, untrained, followed(self, data.valid)),
        }


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

"""What takes part in the runs of layers besides their cells: resets, masks, what records and edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.engines.base import Engine
from throughtime.engines.watching import Watch
from throughtime.errors import UserError
from throughtime.program.core import Program
from throughtime.program.rewrite import RESET, RESET_LEARNED, STATES, with_reset, with_states

Starts = Sequence[Sequence[Sequence[Tensor]]]  # of each layer each direction's learned initial states, each [width]


class Place(NamedTuple):
    """One direction of one layer of a stack."""

    layer: int
    reverse: bool

    def __str__(self) -> str:
        return f"layer{self.layer}.reverse" if self.reverse else f"layer{self.layer}"


class Form(NamedTuple):
    """How the data of a call lie inside it.

    Attributes:
        steps: the number of steps T.
        rows: the number of rows B.
        batch_sizes: how many rows, the first ones, are active at each step; all if None. The data of the active rows
            then lie packed, one after the other.
        back: for each row as the caller knows it, where it is inside; the same place if None.
        places: of each row of packed data the place in padded data whose steps and rows are one axis; found anew each
            time, from `batch_sizes`, if None.
    """

    steps: int
    rows: int
    batch_sizes: Sequence[int] | None = None
    back: Tensor | None = None
    places: Tensor | None = None

    def pack(self, padded: Tensor) -> Tensor:
        """What is active of `[T, B, width]`: `[N, width]`; as it is where all is active."""
        if self.batch_sizes is None:
            return padded
        return padded.flatten(0, 1).index_select(0, self._places(padded.device))

    def pad(self, packed: Tensor) -> Tensor:
        """`[T, B, width]`, 0 where a row is not active, of `[N, width]`; as it is where all is active."""
        if self.batch_sizes is None:
            return packed
        padded = packed.new_zeros(self.steps * self.rows, *packed.shape[1:])
        places = self._places(packed.device)
        return padded.index_copy(0, places, packed).view(self.steps, self.rows, *packed.shape[1:])

    def _places(self, device: torch.device) -> Tensor:
        if self.places is not None:
            return self.places
        assert self.batch_sizes is not None
        return places_of(self.rows, self.batch_sizes).to(device)


def places_of(rows: int, batch_sizes: Sequence[int]) -> Tensor:
    """For each row of packed data its place in padded data whose steps and rows are one axis."""
    counts = torch.tensor(batch_sizes, dtype=torch.long)
    step = torch.arange(len(batch_sizes)).repeat_interleave(counts)
    row = torch.arange(len(step)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return step * rows + row


class Feature:
    """Something that takes part in the runs of a stack's layers, by a rewrite of their programs.

    For each call of the stack `begin` is called once, then for each layer and direction `inputs`, `rewrite`, `watch`,
    `engine` and, when it has run, `receive`.

    Attributes:
        outside_graphs: whether a graph that torch.compile captures is interrupted for it.
        takes_symbols: whether it can take part where the lowest layer is given symbols in the place of vectors.
    """

    outside_graphs = False
    takes_symbols = False

    def begin(self, form: Form) -> None:
        """Learns how the data of the call that begins lie."""

    def rewrite(self, place: Place, program: Program) -> Program:
        """The program with this in it; inputs and outputs that it adds come last."""
        return program

    def inputs(self, place: Place, x: Tensor) -> list[Tensor]:
        """The inputs that the rewrite added, each `[T, B, width]`; x has the shape and the type of the layer's own."""
        return []

    def receive(self, place: Place, outputs: list[Tensor]) -> None:
        """Takes the outputs that the rewrite added, each `[T, B, width]`."""

    def watch(self, place: Place, program: Program) -> Watch | None:
        """What is to be handed out of the run of a program, in which all rewrites are."""
        return None

    def engine(self, place: Place, program: Program, chosen: Engine) -> Engine:
        """The engine that runs the program, in which all rewrites are, in the place of the one chosen."""
        return chosen

    def adds(self, program: Program) -> int:
        """The number of outputs that the rewrite adds, where it can be part of a graph that is being captured."""
        return 0

    def in_graph(self) -> str | None:
        """The name of the rewrite in `throughtime.program.rewrite.REWRITES`, for a graph that is being captured.

        Returns:
            None if there is nothing to rewrite.

        Raises:
            UserError: if this cannot be part of one.
        """
        raise UserError(
            f"{type(self).__name__} cannot take part in a graph that torch.compile or torch.export captures: run the "
            "model as it was before."
        )


class Watchable:
    """A module whose runs others take part in, for as long as they do; a copy of it is its own.

    Attributes:
        watching: what records or edits.
    """

    watching: tuple[Feature, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but those that watch this module."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "watching"}


class Reset(Feature):
    """States that start afresh where a mask `[T, B]` is not 0.

    Args:
        mask: the mask.
        starts: what they start with, where that is learned.
    """

    def __init__(self, mask: Tensor, starts: Starts | None = None) -> None:
        self.mask, self.starts = mask, starts

    def rewrite(self, place: Place, program: Program) -> Program:
        """The program that takes the mask."""
        return with_reset(program, self.starts is not None)

    def inputs(self, place: Place, x: Tensor) -> list[Tensor]:
        """The mask, and the initial states at each step."""
        learned = [] if self.starts is None else self.starts[place.layer][place.reverse]
        initial = [start.to(x.dtype).expand(*x.shape[:2], -1) for start in learned]
        return [self.mask.to(x.dtype).unsqueeze(-1), *initial]

    def in_graph(self) -> str:
        """The rewrite's name."""
        return RESET if self.starts is None else RESET_LEARNED


class StateSequence(Feature):
    """The states at the end of every step."""

    def __init__(self) -> None:
        self._found: list[list[Tensor]] = []

    @property
    def sequences(self) -> list[Tensor]:
        """For each state of the cell `[T, layers * directions, B, width]`."""
        return [torch.stack(of_layers, 1) for of_layers in zip(*self._found, strict=True)]

    def rewrite(self, place: Place, program: Program) -> Program:
        """The program that gives its states out."""
        return with_states(program)

    def receive(self, place: Place, outputs: list[Tensor]) -> None:
        """Keeps them."""
        self._found.append(outputs)

    def adds(self, program: Program) -> int:
        """One for each state."""
        return len(program.states)

    def in_graph(self) -> str:
        """The rewrite's name."""
        return STATES

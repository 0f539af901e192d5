"""The engine interface, and the arguments and results of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from throughtime.program.core import Program


class Operands(NamedTuple):
    """The tensors that a run reads.

    Attributes:
        inputs: `[T, B, width]` for each input of the program, or `[N, width]` if packed. A one-hot input is token ids,
            without the last axis.
        states: the initial value `[B, width]` of each state; None for the values that the program declares.
        parameters: one tensor per parameter; `Constants` if they won't change.
    """

    inputs: Sequence[Any]
    states: Sequence[Any] | None
    parameters: Sequence[Any]

    @property
    def tensors(self) -> tuple[Any, ...]:
        """All tensors in one tuple."""
        return (*self.inputs, *(self.states or ()), *self.parameters)


class Layout(NamedTuple):
    """The layout of a batch's sequences in a run's inputs and outputs.

    Attributes:
        steps: the number of time steps T.
        rows: the batch size B.
        batch_sizes: the number of active sequences at each step, which never increases; the active sequences come
            first. Inactive sequences keep their state. None if all are always active.
        packed: whether inputs and outputs are `[N, width]` with the active sequences of the first step, then those of
            the second, and so on. Otherwise outputs are 0 where a sequence is inactive.
        positions: the position of each packed row in padded data whose first two axes are flattened; derived from
            `batch_sizes` if None.
        restore: the row of each sequence of the caller's batch; the same row if None.
    """

    steps: int
    rows: int
    batch_sizes: Sequence[int] | None = None
    packed: bool = False
    positions: Tensor | None = None
    restore: Tensor | None = None

    def shape(self, width: int) -> tuple[int, ...]:
        """Return the shape of an input or output of a given width."""
        return (sum(self.batch_sizes or ()), width) if self.packed else (self.steps, self.rows, width)

    def pack(self, padded: Tensor) -> Tensor:
        """Return the active rows `[N, width]` of `[T, B, width]`; unchanged unless packed."""
        if not self.packed:
            return padded
        return padded.flatten(0, 1).index_select(0, self._positions(padded.device))

    def pad(self, packed: Tensor) -> Tensor:
        """Turn `[N, width]` into `[T, B, width]`, 0 where a sequence is inactive; unchanged unless packed."""
        if not self.packed:
            return packed
        padded = packed.new_zeros(self.steps * self.rows, *packed.shape[1:])
        positions = self._positions(packed.device)
        return padded.index_copy(0, positions, packed).view(self.steps, self.rows, *packed.shape[1:])

    def restored(self, x: Tensor, axis: int) -> Tensor:
        """Restore the caller's order of sequences along an axis."""
        return x if self.restore is None else x.index_select(axis, self.restore)

    def _positions(self, device: torch.device) -> Tensor:
        if self.positions is not None:
            return self.positions
        assert self.batch_sizes is not None
        return packed_positions(self.rows, self.batch_sizes).to(device)


def packed_positions(rows: int, batch_sizes: Sequence[int]) -> Tensor:
    """Return the position of each packed row in padded data whose first two axes are flattened."""
    import torch  # imported here because streaming runs without torch

    counts = torch.tensor(batch_sizes, dtype=torch.long)
    step = torch.arange(len(batch_sizes)).repeat_interleave(counts)
    row = torch.arange(len(step)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return step * rows + row


class Result(NamedTuple):
    """The results of a run.

    Attributes:
        outputs: `[T, B, width]` for each output of the program, or `[N, width]` if packed.
        states: the final value `[B, width]` of each state.
        reductions: one tensor per reduction, with the shape of its parameter.
    """

    outputs: list[Any]
    states: list[Any]
    reductions: list[Any]


class Constants(tuple[Any, ...]):
    """Parameters that won't change, so that an engine may cache values derived from them.

    Attributes:
        cache: the values that engines have derived from the parameters.
    """

    def __init__(self, tensors: Iterable[Any]) -> None:
        self.cache: dict[Any, Any] = {}


def declared_states(program: Program, operands: Operands, layout: Layout) -> list[Any]:
    """Create the initial states that a program declares.

    States of equal width and value share a tensor, which is never written to.
    """
    like = next(t for t in (*operands.inputs, *operands.parameters) if t.is_floating_point())
    made: dict[tuple[int, float], Any] = {}
    for s in program.states:
        if (s.width, s.initial) not in made:
            made[s.width, s.initial] = like.new_full((layout.rows, s.width), s.initial)
    return [made[s.width, s.initial] for s in program.states]


class Engine(Protocol):
    """The interface of an engine, which runs programs.

    Attributes:
        name: the engine's name.
        traceable: whether it runs torch operations, which autograd, function transforms and tracers support. If not,
            the gradient of a run is a run of the gradient program.
        supports_one_hot: whether it runs a one-hot input as a lookup instead of a matrix product.
    """

    name: str
    traceable: bool
    supports_one_hot: bool

    def refuses(self, program: Program, like: Tensor) -> str | None:
        """Return the reason why the engine can't run a program on tensors like this one, or None if it can."""
        ...

    def run(
        self,
        program: Program,
        operands: Operands,
        layout: Layout,
        *,
        accumulate_into: Sequence[Tensor] | None = None,
    ) -> Result:
        """Run a program over all steps.

        Args:
            program: a legal program.
            operands: the tensors.
            layout: the layout of sequences in them.
            accumulate_into: tensors into which the reductions are accumulated in place; new zeros if None.
        """
        ...

    def chunk_steps(self, rows: int) -> int:
        """Return the number of steps that are summed together in reductions.

        A run can be divided into pieces whose lengths are multiples of this number. If the pieces run from the last
        steps to the first, each accumulating into the previous result, the result is bitwise identical to that of the
        whole run.
        """
        ...

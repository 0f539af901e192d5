"""What an engine is, and the two things that a run takes beside a program: operands and a layout."""

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
        inputs: a `[T, B, width]` for each input of the program; `[N, width]` if packed. A one-hot input is token ids,
            without the last axis.
        states: a `[B, width]` for each state, its initial value; None for what the program declares.
        parameters: a tensor of each parameter's shape; `Constants` if they will not change.
    """

    inputs: Sequence[Any]
    states: Sequence[Any] | None
    parameters: Sequence[Any]

    @property
    def tensors(self) -> tuple[Any, ...]:
        """All of them, in one sequence."""
        return (*self.inputs, *(self.states or ()), *self.parameters)


class Layout(NamedTuple):
    """How the sequences of a batch lie in a run's inputs and outputs.

    Attributes:
        steps: the number of time steps T.
        rows: the batch size B.
        batch_sizes: for each step the number of active sequences, which are the first ones; it never grows with t. A
            sequence that is not active keeps its state. All are active if None.
        packed: whether inputs and outputs are `[N, width]`, of active sequences alone: those of the first step, then
            those of the second, and so on. If not, outputs are 0 where a sequence is not active.
        positions: for each row of packed data its position in padded data whose first two axes are flattened; derived
            from `batch_sizes` if None.
        restore: for each sequence in the caller's order its row here; the same row if None.
    """

    steps: int
    rows: int
    batch_sizes: Sequence[int] | None = None
    packed: bool = False
    positions: Tensor | None = None
    restore: Tensor | None = None

    def shape(self, width: int) -> tuple[int, ...]:
        """The shape of an input or output of this width."""
        return (sum(self.batch_sizes or ()), width) if self.packed else (self.steps, self.rows, width)

    def pack(self, padded: Tensor) -> Tensor:
        """The active rows `[N, width]` of `[T, B, width]`; unchanged unless packed."""
        if not self.packed:
            return padded
        return padded.flatten(0, 1).index_select(0, self._positions(padded.device))

    def pad(self, packed: Tensor) -> Tensor:
        """`[T, B, width]`, 0 where a sequence is not active, of `[N, width]`; unchanged unless packed."""
        if not self.packed:
            return packed
        padded = packed.new_zeros(self.steps * self.rows, *packed.shape[1:])
        positions = self._positions(packed.device)
        return padded.index_copy(0, positions, packed).view(self.steps, self.rows, *packed.shape[1:])

    def restored(self, x: Tensor, axis: int) -> Tensor:
        """A tensor whose sequences, along an axis, are in the caller's order again."""
        return x if self.restore is None else x.index_select(axis, self.restore)

    def _positions(self, device: torch.device) -> Tensor:
        if self.positions is not None:
            return self.positions
        assert self.batch_sizes is not None
        return packed_positions(self.rows, self.batch_sizes).to(device)


def packed_positions(rows: int, batch_sizes: Sequence[int]) -> Tensor:
    """For each row of packed data its position in padded data whose first two axes are flattened."""
    import torch  # streaming runs the native engine without it

    counts = torch.tensor(batch_sizes, dtype=torch.long)
    step = torch.arange(len(batch_sizes)).repeat_interleave(counts)
    row = torch.arange(len(step)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return step * rows + row


class Result(NamedTuple):
    """What a run returns.

    Attributes:
        outputs: a `[T, B, width]` for each output of the program; `[N, width]` if packed.
        states: the final `[B, width]` of each state.
        reductions: a tensor of a parameter's shape for each reduction.
    """

    outputs: list[Any]
    states: list[Any]
    reductions: list[Any]


class Constants(tuple[Any, ...]):
    """Parameters that will not change, so that an engine may keep what it derives from them.

    Attributes:
        made: what engines keep, by keys of theirs.
    """

    def __init__(self, tensors: Iterable[Any]) -> None:
        self.made: dict[Any, Any] = {}


def declared_states(program: Program, operands: Operands, layout: Layout) -> list[Any]:
    """The initial states that a program declares.

    States of one width and value share a tensor, as nobody writes to it.
    """
    like = next(t for t in (*operands.inputs, *operands.parameters) if t.is_floating_point())
    made: dict[tuple[int, float], Any] = {}
    for s in program.states:
        if (s.width, s.initial) not in made:
            made[s.width, s.initial] = like.new_full((layout.rows, s.width), s.initial)
    return [made[s.width, s.initial] for s in program.states]


class Engine(Protocol):
    """Runs programs.

    Attributes:
        name: by which it is chosen.
        traceable: whether it runs torch operations, which autograd, function transforms and tracers follow. If not, the
            gradient of a run is a run of the gradient program.
        supports_one_hot: whether it runs a one-hot input as a lookup instead of a matrix product.
    """

    name: str
    traceable: bool
    supports_one_hot: bool

    def refuses(self, program: Program, like: Tensor) -> str | None:
        """Why the engine cannot run a program on tensors like this one; None if it can."""
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
            operands: its tensors.
            layout: how the sequences lie in them.
            accumulate_into: tensors that the reductions are added to, in place; zeros if None.
        """
        ...

    def chunk_steps(self, rows: int) -> int:
        """The number of steps whose reductions are summed together.

        A run in pieces of a multiple of these, the last steps first, each accumulating into the one before, has the
        same bits as the whole.
        """
        ...

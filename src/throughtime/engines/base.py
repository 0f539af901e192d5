"""What an engine is: something that runs a program over steps and rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.program.core import Program


class Result(NamedTuple):
    """What a run gives.

    Attributes:
        outputs: a `[T, B, width]` for each output of the program; `[N, width]` if packed.
        states: the final `[B, width]` of each state.
        reductions: a tensor of a parameter's shape for each reduction.
    """

    outputs: list[Tensor]
    states: list[Tensor]
    reductions: list[Tensor]


class Constants(tuple[Any, ...]):
    """Parameters of a run that stay as they are, so that an engine may keep what it made of them.

    Attributes:
        made: what engines keep, by keys of theirs.
    """

    def __init__(self, tensors: Iterable[Any]) -> None:
        self.made: dict[Any, Any] = {}


def declared(program: Program, like: Tensor, rows: int) -> list[Tensor]:
    """What a program's states start with, as it declares it.

    One tensor for states that are alike, as nobody writes to it.
    """
    made: dict[tuple[int, float], Tensor] = {}
    for s in program.states:
        if (s.width, s.initial) not in made:
            made[s.width, s.initial] = like.new_full((rows, s.width), s.initial)
    return [made[s.width, s.initial] for s in program.states]


def declared_for(
    program: Program,
    inputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    batch_sizes: Sequence[int] | None,
    packed: bool,
) -> list[Tensor]:
    """The same for a run that is given these, and no states; see `Engine.run`."""
    like = next(t for t in (*inputs, *parameters) if t.is_floating_point())
    return declared(program, like, next(iter(batch_sizes or ()), 0) if packed else inputs[0].shape[1])


class Engine(Protocol):
    """Runs programs.

    Attributes:
        name: by which it is chosen.
        transparent: whether torch's autograd and function transforms see through it; if not, its gradient is a run of
            the gradient program.
        looks_up: whether a one-hot input costs it hardly more than reading what its symbols name.
    """

    name: str
    transparent: bool
    looks_up: bool

    def refuses(self, program: Program, like: Tensor) -> str | None:
        """Why the engine cannot run a program on tensors like this one; None if it can."""
        ...

    def run(
        self,
        program: Program,
        steps: int,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor] | None,
        parameters: Sequence[Tensor],
        batch_sizes: Sequence[int] | None = None,
        *,
        packed: bool = False,
        onto: Sequence[Tensor] | None = None,
    ) -> Result:
        """Runs a program.

        Args:
            program: a legal program.
            steps: the number of steps T.
            inputs: a `[T, B, width]` for each input of the program.
            states: a `[B, width]` for each state: what it starts with. If not given, what the program declares, for the
                rows of the inputs; where these are packed, for those of the first step.
            parameters: a tensor of each parameter's shape; `Constants` if they stay as they are.
            batch_sizes: for each step how many rows are active, the first ones; never growing with t. A row that is
                not active keeps its state and its outputs are 0. All rows if not given.
            packed: whether inputs and outputs are `[N, width]`, of active rows alone: those of the first step, then
                those of the second, and so on. Goes with `batch_sizes`, whose sum is N.
            onto: what the reductions are added to, in place; zeros if not given.
        """
        ...

    def steps_together(self, rows: int) -> int:
        """After how many steps sums over steps and rows begin anew.

        A run in pieces of a multiple of these, from the first that is done, each with `onto` the one before, has the
        same bits as the whole.
        """
        ...

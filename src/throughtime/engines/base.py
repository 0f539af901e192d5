"""What an engine is: something that runs a program over steps and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.program.core import Program


class Result(NamedTuple):
    """What a run gives.

    Attributes:
        outputs: a `[T, B, width]` for each output of the program.
        states: the final `[B, width]` of each state.
        reductions: a tensor of a parameter's shape for each reduction.
    """

    outputs: list[Tensor]
    states: list[Tensor]
    reductions: list[Tensor]


class Engine(Protocol):
    """Runs programs.

    Attributes:
        name: by which it is chosen.
        transparent: whether torch's autograd and function transforms see through it; if not, its gradient is a run of
            the gradient program.
    """

    name: str
    transparent: bool

    def refuses(self, program: Program, like: Tensor) -> str | None:
        """Why the engine cannot run a program on tensors like this one; None if it can."""
        ...

    def run(
        self,
        program: Program,
        steps: int,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        batch_sizes: Sequence[int] | None = None,
    ) -> Result:
        """Runs a program.

        Args:
            program: a legal program.
            steps: the number of steps T.
            inputs: a `[T, B, width]` for each input of the program.
            states: a `[B, width]` for each state: what it starts with.
            parameters: a tensor of each parameter's shape.
            batch_sizes: for each step how many rows are active, the first ones; never growing with t. A row that is
                not active keeps its state and its outputs are 0. All rows if not given.
        """
        ...

"""Hooks: what intercepts the runs of a stack's layers, by rewriting their programs and adding inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.engines.base import Engine, Layout
from throughtime.engines.taps import Tap
from throughtime.errors import UserError
from throughtime.program.core import Program
from throughtime.program.rewrite import RESET, RESET_LEARNED, STATES, with_reset, with_states

Starts = Sequence[Sequence[Sequence[Tensor]]]  # of each layer each direction's learned initial states, each [width]


class LayerDirection(NamedTuple):
    """One direction of one layer of a stack."""

    layer: int
    reverse: bool

    def __str__(self) -> str:
        return f"layer{self.layer}.reverse" if self.reverse else f"layer{self.layer}"


class Hook:
    """Intercepts the runs of a stack's layers.

    A call of the stack calls `begin` once, then for each layer and direction `inputs`, `rewrite`, `tap`, `engine` and,
    after the run, `receive`.

    Attributes:
        leaves_graph: whether torch.compile must break its graph for it.
        takes_token_ids: whether it works where the first layer's input is token ids instead of vectors.
    """

    leaves_graph = False
    takes_token_ids = False

    def begin(self, layout: Layout) -> None:
        """Take the layout of the call that begins."""

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """The program with this hook in it; inputs and outputs that it adds come last."""
        return program

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """The inputs that the rewrite added, each `[T, B, width]`; x has the layer input's shape and type."""
        return []

    def receive(self, direction: LayerDirection, outputs: list[Tensor]) -> None:
        """Take the outputs that the rewrite added, each `[T, B, width]`."""

    def tap(self, direction: LayerDirection, program: Program) -> Tap | None:
        """What to hand out of the run of a program that all hooks have rewritten."""
        return None

    def engine(self, direction: LayerDirection, program: Program, chosen: Engine) -> Engine:
        """The engine for a program that all hooks have rewritten, in place of the chosen one."""
        return chosen

    def adds(self, program: Program) -> int:
        """The number of outputs that the rewrite adds, if it can be part of a captured graph."""
        return 0

    def in_graph(self) -> str | None:
        """The name of the rewrite in `throughtime.program.rewrite.REWRITES`, for a graph that is being captured.

        Returns:
            None if there is nothing to rewrite.

        Raises:
            UserError: if this hook cannot be part of a graph.
        """
        raise UserError(
            f"{type(self).__name__} cannot be part of a graph that torch.compile or torch.export captures: run the "
            "original model."
        )


class Hookable:
    """A module whose runs hooks intercept while they are attached; a copy of it has none.

    Attributes:
        hooks: what records or edits.
    """

    hooks: tuple[Hook, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """The state that is copied and pickled: everything except the hooks."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "hooks"}


class Reset(Hook):
    """Resets the states to their initial values where a mask `[T, B]` is not 0.

    Args:
        mask: the mask.
        starts: learned initial states, if there are any.
    """

    def __init__(self, mask: Tensor, starts: Starts | None = None) -> None:
        self.mask, self.starts = mask, starts

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """The program that takes the mask."""
        return with_reset(program, self.starts is not None)

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """The mask, and the initial states at each step."""
        learned = [] if self.starts is None else self.starts[direction.layer][direction.reverse]
        initial = [start.to(x.dtype).expand(*x.shape[:2], -1) for start in learned]
        return [self.mask.to(x.dtype).unsqueeze(-1), *initial]

    def in_graph(self) -> str:
        """The rewrite's name."""
        return RESET if self.starts is None else RESET_LEARNED


class StateSequence(Hook):
    """The states at the end of every step."""

    def __init__(self) -> None:
        self._found: list[list[Tensor]] = []

    @property
    def sequences(self) -> list[Tensor]:
        """For each state of the cell `[T, layers * directions, B, width]`."""
        return [torch.stack(of_layers, 1) for of_layers in zip(*self._found, strict=True)]

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """The program that gives its states out."""
        return with_states(program)

    def receive(self, direction: LayerDirection, outputs: list[Tensor]) -> None:
        """Keeps them."""
        self._found.append(outputs)

    def adds(self, program: Program) -> int:
        """One for each state."""
        return len(program.states)

    def in_graph(self) -> str:
        """The rewrite's name."""
        return STATES

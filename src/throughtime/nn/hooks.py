"""Hooks: intercept the runs of a stack's layers by rewriting their programs and adding inputs and outputs."""

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

Starts = Sequence[Sequence[Sequence[Tensor]]]  # learned initial states, [width] each, indexed by layer and direction


class LayerDirection(NamedTuple):
    """One direction of one layer of a stack."""

    layer: int
    reverse: bool

    def __str__(self) -> str:
        return f"layer{self.layer}.reverse" if self.reverse else f"layer{self.layer}"


class Hook:
    """Base class of hooks, which intercept the runs of a stack's layers.

    A call of the stack calls `begin` once. Then, for each layer and direction, it calls `inputs`, `rewrite`, `tap`,
    `engine` and, after the run, `receive`.

    Attributes:
        leaves_graph: whether torch.compile must break its graph for this hook.
        takes_token_ids: whether the hook works when the first layer's input is token ids instead of vectors.
    """

    leaves_graph = False
    takes_token_ids = False

    def begin(self, layout: Layout) -> None:
        """Prepare for a call of the stack with the given layout."""

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """Return the program with this hook's changes; inputs and outputs that it adds come last."""
        return program

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """Return the inputs that `rewrite` added, each `[T, B, width]`; x has the layer input's shape and dtype."""
        return []

    def receive(self, direction: LayerDirection, outputs: list[Tensor]) -> None:
        """Receive the outputs that `rewrite` added, each `[T, B, width]`."""

    def tap(self, direction: LayerDirection, program: Program) -> Tap | None:
        """Return a tap for the intermediate values to expose from a run of the fully rewritten program."""
        return None

    def engine(self, direction: LayerDirection, program: Program, chosen: Engine) -> Engine:
        """Return the engine for the fully rewritten program; `chosen` by default."""
        return chosen

    def adds(self, program: Program) -> int:
        """Return the number of outputs that `rewrite` adds, for hooks that can be part of a captured graph."""
        return 0

    def in_graph(self) -> str | None:
        """Return the name of the rewrite in `throughtime.program.rewrite.REWRITES`, for a graph being captured.

        Returns:
            None if there is nothing to rewrite.

        Raises:
            UserError: if this hook can't be part of a graph.
        """
        raise UserError(
            f"{type(self).__name__} can't be part of a graph that torch.compile or torch.export captures: run the "
            "original model"
        )


class Hookable:
    """A module whose runs can be intercepted by hooks; copies have none attached.

    Attributes:
        hooks: the attached hooks.
    """

    hooks: tuple[Hook, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to copy or pickle, without the hooks."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "hooks"}


class Reset(Hook):
    """A hook that resets the states to their initial values where a mask `[T, B]` is nonzero.

    Args:
        mask: the mask.
        starts: learned initial states, if any.
    """

    def __init__(self, mask: Tensor, starts: Starts | None = None) -> None:
        self.mask, self.starts = mask, starts

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """Return the program with the mask as an input."""
        return with_reset(program, self.starts is not None)

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """Return the mask and the initial states at each step."""
        learned = [] if self.starts is None else self.starts[direction.layer][direction.reverse]
        initial = [start.to(x.dtype).expand(*x.shape[:2], -1) for start in learned]
        return [self.mask.to(x.dtype).unsqueeze(-1), *initial]

    def in_graph(self) -> str:
        """Return the rewrite's name."""
        return RESET if self.starts is None else RESET_LEARNED


class StateSequence(Hook):
    """A hook that collects the states after every step."""

    def __init__(self) -> None:
        self._found: list[list[Tensor]] = []

    @property
    def sequences(self) -> list[Tensor]:
        """Return each state of the cell as `[T, layers * directions, B, width]`."""
        return [torch.stack(of_layers, 1) for of_layers in zip(*self._found, strict=True)]

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """Return the program with its states as outputs."""
        return with_states(program)

    def receive(self, direction: LayerDirection, outputs: list[Tensor]) -> None:
        """Store the states."""
        self._found.append(outputs)

    def adds(self, program: Program) -> int:
        """Return the number of states."""
        return len(program.states)

    def in_graph(self) -> str:
        """Return the rewrite's name."""
        return STATES

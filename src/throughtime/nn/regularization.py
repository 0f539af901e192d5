"""Training noise: random masks on states, passed as inputs to the layers' programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from throughtime.nn.hooks import Hook, LayerDirection
from throughtime.nn.masks import mask, scaled_mask
from throughtime.nn.options import Options
from throughtime.program.core import Program
from throughtime.program.rewrite import masked_states, with_recurrent_dropout, with_zoneout


class _ZoneoutState(NamedTuple):
    """A state's width and zoneout rate."""

    width: int
    rate: float


class Masks(Hook):
    """A hook that draws the masks of recurrent dropout and zoneout for programs from `in_training`."""

    def __init__(self, options: Options, programs: Sequence[Program]) -> None:
        self._dropout = options.recurrent_dropout
        self._dropped: list[list[int]] = []  # for each layer, the widths of its masked states
        self._kept: list[list[_ZoneoutState]] = []
        for program in programs:
            masked = masked_states(program) if self._dropout else []
            self._dropped.append([program.states[k].width for k in masked])
            rates = zip(program.states, options.zoneout_rates(program), strict=True)
            self._kept.append([_ZoneoutState(state.width, rate) for state, rate in rates if rate])

    def __bool__(self) -> bool:
        """Return whether there are any masks to draw."""
        return any(self._dropped) or any(self._kept)

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """Draw new masks."""
        steps, rows = x.shape[:2]
        masks = [
            scaled_mask(x, (rows, width), self._dropout).expand(steps, -1, -1)
            for width in self._dropped[direction.layer]
        ]
        return masks + [mask(x, (steps, rows, kept.width), kept.rate) for kept in self._kept[direction.layer]]

    def in_graph(self) -> None:
        """Return None: `in_training` has already rewritten the program."""


def in_training(options: Options, program: Program) -> Program:
    """Return a layer's program for training, with inputs for the masks that `Masks` draws."""
    rates = options.zoneout_rates(program)
    kept = tuple(k for k, rate in enumerate(rates) if rate)
    if options.recurrent_dropout:
        program = with_recurrent_dropout(program)
    return with_zoneout(program, kept) if kept else program

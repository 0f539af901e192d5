"""Noise in training: masks on states, which are inputs of the layers' programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from throughtime.nn.hooks import Hook, LayerDirection
from throughtime.nn.masks import mask, scaled_mask
from throughtime.nn.options import Options
from throughtime.program.core import Program
from throughtime.program.rewrite import masked_states, with_recurrent_dropout, with_zoneout


class _Kept(NamedTuple):
    """A state's zoneout: its width and its rate."""

    width: int
    rate: float


class Masks(Hook):
    """Draws the masks of recurrent dropout and zoneout; `in_training` has made the programs that take them."""

    def __init__(self, options: Options, programs: Sequence[Program]) -> None:
        self._dropout = options.recurrent_dropout
        self._dropped: list[list[int]] = []  # of each layer the widths of the states that have a mask
        self._kept: list[list[_Kept]] = []
        for program in programs:
            masked = masked_states(program) if self._dropout else []
            self._dropped.append([program.states[k].width for k in masked])
            rates = zip(program.states, options.zoneout_rates(program), strict=True)
            self._kept.append([_Kept(state.width, rate) for state, rate in rates if rate])

    def __bool__(self) -> bool:
        """Whether there is anything to draw."""
        return any(self._dropped) or any(self._kept)

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """Fresh masks."""
        steps, rows = x.shape[:2]
        masks = [
            scaled_mask(x, (rows, width), self._dropout).expand(steps, -1, -1)
            for width in self._dropped[direction.layer]
        ]
        return masks + [mask(x, (steps, rows, kept.width), kept.rate) for kept in self._kept[direction.layer]]

    def in_graph(self) -> None:
        """There is nothing more to rewrite."""


def in_training(options: Options, program: Program) -> Program:
    """A layer's program as it runs in training, with inputs for what `Masks` draws."""
    rates = options.zoneout_rates(program)
    kept = tuple(k for k, rate in enumerate(rates) if rate)
    if options.recurrent_dropout:
        program = with_recurrent_dropout(program)
    return with_zoneout(program, kept) if kept else program

"""The layers that torch has: for each the program that it equals and how its stored biases make the program's bias.

This is the one place that knows torch's layout: two biases a gate, `weight_ih`, `weight_hh` and `weight_hr`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from throughtime import cells
from throughtime.program.cell import Cell
from throughtime.program.core import Program


@dataclass(frozen=True)
class TorchLayer:
    """A recurrent layer of torch.

    Attributes:
        mode: torch's name for it.
        cell: the cell that it runs.
        bias: for each block of hidden-size rows of the program's bias, which block of `bias_ih` and which of
            `bias_hh` are added up to it; None for none.
    """

    mode: str
    cell: Cell
    bias: tuple[tuple[int | None, int | None], ...]

    @property
    def blocks(self) -> int:
        """The blocks of hidden-size rows in each stored tensor."""
        return sum(ih is not None for ih, _ in self.bias)

    def program(self, input_size: int, hidden_size: int, projection: int = 0, *, bias: bool = True) -> Program:
        """The program of a layer of these sizes."""
        hyper = {"projection": projection} if projection else {}
        return self.cell.program(input_size, hidden_size, bias=bias, **hyper)

    def to_program(self, stored: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        """The program's parameters from the stored tensors, in torch's order: ih, hh, [both biases], [hr]."""
        weights, rest = list(stored[:2]), list(stored[2:])
        if bias:
            bias_ih, bias_hh = rest[0].chunk(self.blocks), rest[1].chunk(self.blocks)
            if all(pair == (k, k) for k, pair in enumerate(self.bias)):
                joined = rest[0] + rest[1]
            else:
                joined = torch.cat([_sum(bias_ih, bias_hh, *pair) for pair in self.bias])
            return [*weights, *rest[2:], joined]
        return weights + rest

    def to_stored(self, parameters: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        """Stored tensors that make these parameters of the program."""
        if not bias:
            return list(parameters)
        *weights, joined = parameters
        blocks = joined.chunk(len(self.bias))
        zero = torch.zeros_like(blocks[0])
        from_ih = {ih: block for block, (ih, _) in zip(blocks, self.bias, strict=True) if ih is not None}
        from_hh = {hh: block for block, (ih, hh) in zip(blocks, self.bias, strict=True) if ih is None}
        stored = [torch.cat([source.get(k, zero) for k in range(self.blocks)]) for source in (from_ih, from_hh)]
        return [*weights[:2], *stored, *weights[2:]]


def _sum(bias_ih: Sequence[Tensor], bias_hh: Sequence[Tensor], ih: int | None, hh: int | None) -> Tensor:
    if ih is None or hh is None:
        return bias_ih[ih] if ih is not None else bias_hh[hh or 0]
    return bias_ih[ih] + bias_hh[hh]


_ALIKE = tuple((k, k) for k in range(4))
TORCH_LAYERS = {
    layer.mode: layer
    for layer in (
        TorchLayer("RNN_TANH", cells.rnn, _ALIKE[:1]),
        TorchLayer("RNN_RELU", cells.rnn_relu, _ALIKE[:1]),
        TorchLayer("LSTM", cells.lstm, _ALIKE),
        TorchLayer("GRU", cells.gru, ((0, 0), (1, 1), (2, None), (None, 2))),
    )
}


@lru_cache(maxsize=256)
def torch_layer_of(program: Program) -> TorchLayer | None:
    """The layer of torch that computes the same as a program; None if there is none."""
    if not program.states or len(program.inputs) != 1:
        return None
    input_size, hidden, out = program.inputs[0].width, program.states[-1].width, program.states[0].width
    bias = any(len(p.shape) == 1 for p in program.parameters)
    for layer in TORCH_LAYERS.values():
        if len(layer.cell.states) != len(program.states):
            continue
        if program.equivalent(layer.program(input_size, hidden, out if out != hidden else 0, bias=bias)):
            return layer
    return None

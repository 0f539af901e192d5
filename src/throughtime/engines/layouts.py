"""How other systems store a layer's parameters: the shape that every row of a table of foreign layers has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.program.core import Parameter, Part, Program

INPUT, RECURRENT, INPUT_BIAS, RECURRENT_BIAS, PEEPHOLE, PROJECTION = range(6)  # the fields of `Stored`
_OF_STATE = ".recurrent"  # ends a gate's name where the gate's own sum has nothing but what the states give


class Stored(NamedTuple):
    """What a foreign layer stores for one direction: each a stack of blocks of hidden-size rows, a gate each.

    Attributes:
        input, recurrent: the matrices that x and the state are multiplied by.
        input_bias, recurrent_bias: vectors; together None if there are none.
        peephole: vectors, one after the other.
        projection: `[projection, hidden]`.
    """

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor | None = None
    recurrent_bias: Tensor | None = None
    peephole: Tensor | None = None
    projection: Tensor | None = None


class _Piece(NamedTuple):
    """The rows `start` to `stop` of a parameter of a program: the sum of as many rows of stored tensors.

    Attributes:
        start, stop: the rows.
        terms: each a field of `Stored` and the row where it begins.
    """

    start: int
    stop: int
    terms: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """Where a foreign layer has the parameters of a program, by the names of its gates.

    A gate whose name ends in `.recurrent` is the part of the gate before the dot that the state is multiplied by.

    Attributes:
        gates: the order of the blocks of the matrices and biases.
        peepholes: the order of the peephole vectors, by the names of the program's parameters.
    """

    gates: tuple[str, ...]
    peepholes: tuple[str, ...] = ()

    def to_program(self, program: Program, stored: Stored) -> list[Tensor]:
        """The program's parameters from what is stored."""
        return [
            _joined([_summed([_rows(stored[field], row, p.stop - p.start) for field, row in p.terms]) for p in pieces])
            for pieces in _pieces(self, program)
        ]

    def to_stored(self, program: Program, parameters: Sequence[Tensor]) -> Stored:
        """What is stored so that these are the program's parameters; what two tensors add up to is in the first."""
        placed: dict[int, dict[int, Tensor]] = {}
        for tensor, pieces in zip(parameters, _pieces(self, program), strict=True):
            for piece in pieces:
                rows = tensor[piece.start : piece.stop]
                for k, (field, row) in enumerate(piece.terms):
                    placed.setdefault(field, {})[row] = torch.zeros_like(rows) if k else rows
        width = program.states[-1].width
        heights = {PEEPHOLE: len(self.peepholes) * width, PROJECTION: program.states[0].width}
        fields = [
            _stacked(placed[field], heights.get(field, len(self.gates) * width)) if field in placed else None
            for field in range(len(Stored._fields))
        ]
        return Stored(*fields)  # type: ignore[arg-type]  # every row of a table has both matrices


@lru_cache(maxsize=256)
def _pieces(layout: Layout, program: Program) -> tuple[tuple[_Piece, ...], ...]:
    """For each parameter of a program where its rows are; rows that go on in all their terms are one piece."""
    gates = {part.gate for p in program.parameters for part in p.parts}
    width = program.states[-1].width
    result = []
    for parameter in program.parameters:
        pieces: list[_Piece] = []
        for part in parameter.parts:
            terms = tuple(_terms(layout, parameter, part, gates, width))
            last = pieces[-1] if pieces else None
            if last and tuple((f, row + last.stop - last.start) for f, row in last.terms) == terms:
                pieces[-1] = _Piece(last.start, part.stop, last.terms)
            else:
                pieces.append(_Piece(part.start, part.stop, terms))
        result.append(tuple(pieces))
    return tuple(result)


def _terms(layout: Layout, parameter: Parameter, part: Part, gates: set[str], width: int) -> list[tuple[int, int]]:
    if part.gate in layout.peepholes:
        return [(PEEPHOLE, layout.peepholes.index(part.gate) * width)]
    if part.gate == "projection":
        return [(PROJECTION, 0)]
    row = layout.gates.index(part.gate.removesuffix(_OF_STATE)) * width
    if len(parameter.shape) == 2:
        return [(INPUT if parameter.name == "weight_x" else RECURRENT, row)]
    if part.gate.endswith(_OF_STATE):
        return [(RECURRENT_BIAS, row)]
    if part.gate + _OF_STATE in gates:
        return [(INPUT_BIAS, row)]
    return [(INPUT_BIAS, row), (RECURRENT_BIAS, row)]


def _rows(tensor: Tensor | None, start: int, count: int) -> Tensor:
    assert tensor is not None
    return tensor if count == tensor.shape[0] else tensor[start : start + count]


def _summed(terms: list[Tensor]) -> Tensor:
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _stacked(blocks: dict[int, Tensor], height: int) -> Tensor:
    """Blocks at their rows; 0 where there is none."""
    like = next(iter(blocks.values()))
    rows: list[Tensor] = []
    at = 0
    for start, block in sorted(blocks.items()):
        if start > at:
            rows.append(like.new_zeros(start - at, *like.shape[1:]))
        rows.append(block)
        at = start + block.shape[0]
    if at < height:
        rows.append(like.new_zeros(height - at, *like.shape[1:]))
    return _joined(rows)

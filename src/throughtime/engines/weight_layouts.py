"""Parameter layouts of other frameworks' recurrent layers, and conversion to and from programs' parameters.

Stored parameters may be NumPy arrays, as streaming runs without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from throughtime.program.core import GateRows, Parameter, Program

if TYPE_CHECKING:
    from torch import Tensor

INPUT, RECURRENT, INPUT_BIAS, RECURRENT_BIAS, PEEPHOLE, PROJECTION = range(6)  # the indices of the fields of `Stored`
_OF_STATE = ".recurrent"  # name suffix of the part of a gate's sum that depends only on states


class Stored(NamedTuple):
    """The tensors that a foreign layer stores for one direction; each stacks a block of hidden-size rows per gate.

    Attributes:
        input, recurrent: the matrices that multiply x and the state.
        input_bias, recurrent_bias: the bias vectors; both None in a layer without biases.
        peephole: the concatenated peephole vectors; None if there are none.
        projection: the projection matrix `[projection, hidden]`; None if there is none.
    """

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor | None = None
    recurrent_bias: Tensor | None = None
    peephole: Tensor | None = None
    projection: Tensor | None = None


class RowMapping(NamedTuple):
    """Rows of a program's parameter, expressed as a sum of rows of stored tensors. The unit is the hidden size.

    Attributes:
        start, stop: the rows of the parameter.
        terms: the summands, each a field of `Stored` and its first row.
    """

    start: int
    stop: int
    terms: tuple[tuple[int, int], ...]


WeightMapping = tuple[tuple[RowMapping, ...], ...]  # for each parameter of a program


@dataclass(frozen=True)
class WeightLayout:
    """The position of a program's parameters in a foreign layer, by gate names.

    A name that ends in `.recurrent` refers to the recurrent part of the gate before the dot.

    Attributes:
        gates: the order of blocks in the matrices and biases.
        peepholes: the order of the peephole vectors, as names of the program's parameters.
    """

    gates: tuple[str, ...]
    peepholes: tuple[str, ...] = ()

    def row(self, gate: str) -> int:
        """Return the position of a gate among the blocks."""
        return self.gates.index(gate.removesuffix(_OF_STATE))

    def mapping(self, program: Program) -> WeightMapping:
        """Return the mapping of each parameter's rows; the same for programs that differ only in sizes."""
        return _mapping(self, program)

    def to_program(self, mapping: WeightMapping, stored: Stored) -> list[Tensor]:
        """Convert stored tensors to the program's parameters."""
        width, found = stored.recurrent.shape[0] // len(self.gates), []
        for pieces in mapping:
            rows = _single(pieces, stored, width)
            found.append(_joined([_piece(stored, piece, width) for piece in pieces]) if rows is None else rows)
        return found

    def in_pieces(self, mapping: WeightMapping, stored: Stored) -> list[Any]:
        """Convert stored tensors as `to_program` does, but leave vectors for the native engine to assemble.

        Returns:
            For each parameter an array or, if it is a vector of several pieces, a tuple that `_native.run` accepts.
        """
        width, found = stored.recurrent.shape[0] // len(self.gates), []
        for pieces in mapping:
            rows = _single(pieces, stored, width)
            found.append((_elements(pieces, width), stored) if rows is None else rows)
        return found

    def to_stored(self, mapping: WeightMapping, parameters: Sequence[Tensor], width: int) -> Stored:
        """Convert the program's parameters to stored tensors; where two tensors are summed, the second is 0.

        Args:
            mapping: the mapping of the parameters' rows.
            parameters: the program's parameters.
            width: the hidden size.
        """
        placed: dict[int, dict[int, Tensor]] = {}
        for tensor, pieces in zip(parameters, mapping, strict=True):
            for piece in pieces:
                rows = _rows(tensor, piece.start * width, (piece.stop - piece.start) * width)
                for k, (field, row) in enumerate(piece.terms):
                    placed.setdefault(field, {})[row] = _zeros(rows, len(rows)) if k else rows
        blocks = {PEEPHOLE: len(self.peepholes), PROJECTION: 1}
        fields = [
            _stacked(placed[field], blocks.get(field, len(self.gates)), width) if field in placed else None
            for field in range(len(Stored._fields))
        ]
        return Stored(*fields)  # type: ignore[arg-type]  # every layout has both matrices


class ParameterRows(NamedTuple):
    """Rows of one of a program's parameters. The unit is the hidden size."""

    parameter: int
    start: int
    stop: int


def sources_of_gradients(mapping: WeightMapping) -> tuple[tuple[ParameterRows, ...], ...]:
    """Return the rows whose gradients form the gradient of each stored tensor, in the order of `Stored`."""
    found: dict[int, list[tuple[int, ParameterRows]]] = {}
    for parameter, pieces in enumerate(mapping):
        for start, stop, terms in pieces:
            for field, row in terms:
                found.setdefault(field, []).append((row, ParameterRows(parameter, start, stop)))
    return tuple(_contiguous([rows for _, rows in sorted(of)]) for _, of in sorted(found.items()))


def _contiguous(blocks: Sequence[ParameterRows]) -> tuple[ParameterRows, ...]:
    """Merge blocks that are contiguous in one parameter."""
    merged: list[ParameterRows] = []
    for block in blocks:
        if merged and (merged[-1].parameter, merged[-1].stop) == (block.parameter, block.start):
            merged[-1] = merged[-1]._replace(stop=block.stop)
        else:
            merged.append(block)
    return tuple(merged)


def joined_gradients(
    sources: Sequence[ParameterRows], gradients: Mapping[int, Tensor], width: int, taken: set[int]
) -> Tensor:
    """Join the gradients of parameters' rows into the gradient of a stored tensor.

    Args:
        sources: the rows; see `sources_of_gradients`.
        gradients: the gradients by the parameters' indices.
        width: the hidden size.
        taken: the parameters whose gradients are in use. The gradient of another parameter may be returned without a
            copy; that parameter is then added to `taken`.
    """
    if len(sources) > 1:
        return _joined([_rows(gradients[k], start * width, (stop - start) * width) for k, start, stop in sources])
    ((parameter, start, stop),) = sources
    rows = _rows(gradients[parameter], start * width, (stop - start) * width)
    if rows is gradients[parameter] and parameter not in taken:
        taken.add(parameter)
        return rows
    return rows.clone()  # autograd may add to a gradient in place


@lru_cache(maxsize=256)
def _elements(pieces: tuple[RowMapping, ...], width: int) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    """Return each piece's number of elements, and the field of `Stored` and the first element of each of its terms."""
    return tuple(((p.stop - p.start) * width, tuple((field, row * width) for field, row in p.terms)) for p in pieces)


@lru_cache(maxsize=256)
def _mapping(layout: WeightLayout, program: Program) -> WeightMapping:
    gates = {part.gate for p in program.parameters for part in p.parts}
    width = program.states[-1].width
    result = []
    for parameter in program.parameters:
        pieces: list[RowMapping] = []  # rows that are contiguous in all their terms are merged
        for part in parameter.parts:
            start, stop = part.start // width, -(-part.stop // width)
            terms = tuple(_terms(layout, parameter, part, gates))
            last = pieces[-1] if pieces else None
            if last and tuple((f, row + last.stop - last.start) for f, row in last.terms) == terms:
                pieces[-1] = RowMapping(last.start, stop, last.terms)
            else:
                pieces.append(RowMapping(start, stop, terms))
        result.append(tuple(pieces))
    return tuple(result)


def _terms(layout: WeightLayout, parameter: Parameter, part: GateRows, gates: set[str]) -> list[tuple[int, int]]:
    if part.gate in layout.peepholes:
        return [(PEEPHOLE, layout.peepholes.index(part.gate))]
    if part.gate == "projection":
        return [(PROJECTION, 0)]
    row = layout.row(part.gate)
    if len(parameter.shape) == 2:
        return [(INPUT if parameter.name.partition(".")[0] == "weight_x" else RECURRENT, row)]
    if part.gate.endswith(_OF_STATE):
        return [(RECURRENT_BIAS, row)]
    if part.gate + _OF_STATE in gates:
        return [(INPUT_BIAS, row)]
    return [(INPUT_BIAS, row), (RECURRENT_BIAS, row)]


def _single(pieces: tuple[RowMapping, ...], stored: Stored, width: int) -> Tensor | None:
    """Return a parameter's rows if it is a single piece of a single tensor, as matrices are; None otherwise."""
    if len(pieces) > 1 or len(pieces[0].terms) > 1:
        return None
    start, stop, ((field, row),) = pieces[0]
    return _rows(stored[field], row * width, (stop - start) * width)


def _piece(stored: Stored, piece: RowMapping, width: int) -> Tensor:
    """Compute a piece's rows from stored tensors."""
    start, stop, terms = piece
    found = None
    for field, row in terms:
        rows = _rows(stored[field], row * width, (stop - start) * width)
        found = rows if found is None else found + rows
    assert found is not None
    return found


def _rows(tensor: Tensor | None, start: int, count: int) -> Tensor:
    assert tensor is not None
    # Whole tensors are returned as they are; a projection may have fewer rows than its one block.
    return tensor if start == 0 and count >= tensor.shape[0] else tensor[start : start + count]


def _joined(rows: list[Tensor]) -> Tensor:
    if len(rows) == 1:
        return rows[0]
    if isinstance(rows[0], np.ndarray):
        return np.concatenate(rows)
    import torch

    return torch.cat(rows)


def _zeros(like: Tensor, rows: int) -> Tensor:
    if isinstance(like, np.ndarray):
        return np.zeros((rows, *like.shape[1:]), like.dtype)
    return like.new_zeros(rows, *like.shape[1:])


def _stacked(rows: dict[int, Tensor], blocks: int, width: int) -> Tensor:
    """Stack rows at their block positions, with zeros elsewhere."""
    like = next(iter(rows.values()))
    stacked: list[Tensor] = []
    at = 0
    for start, block in sorted(rows.items()):
        if start > at:
            stacked.append(_zeros(like, (start - at) * width))
        stacked.append(block)
        at = start + -(-block.shape[0] // width)
    if at < blocks:
        stacked.append(_zeros(like, (blocks - at) * width))
    return _joined(stacked)

"""Find the state elements that each parameter affects within a step; only their sensitivities are kept.

A program uses a parameter where a matrix multiplies a value or a vector is read. The result of such a use, after all
sums that it enters, is called its *place*: changing an element of a parameter changes one row at the places of its
uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError
from throughtime.program.core import LEAVES, PARAMETER, PREVIOUS, Program
from throughtime.program.operations import OPERATIONS

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Use:
    """One use of a parameter in a program.

    Attributes:
        place: the index of the place in `Structure.places`.
        arg: the value that the matrix multiplies; None for a vector.
    """

    place: int
    arg: int | None


@dataclass(frozen=True)
class Group:
    """Rows of a parameter that reach the same number of state elements.

    Attributes:
        parameter: the index of the parameter.
        rows: the indices of the rows, `[n]`.
        reach: the state elements that each row reaches, `[n, r]`, numbered across all states.
    """

    parameter: int
    rows: Ints
    reach: Ints


@dataclass(frozen=True)
class Structure:
    """A program's uses of its parameters and the dependencies among their elements.

    Attributes:
        program: the program.
        places: the places, as values of the body.
        uses: the uses of each parameter.
    """

    program: Program
    places: tuple[int, ...]
    uses: tuple[tuple[Use, ...], ...]

    def __deepcopy__(self, memo: object) -> Structure:
        return self

    @classmethod
    def of(cls, program: Program) -> Structure:
        """Find a program's uses of its parameters.

        Raises:
            UserError: if the program multiplies by a transposed matrix.
        """
        places: dict[int, int] = {}
        uses: list[list[Use]] = [[] for _ in program.parameters]
        for id, instruction in enumerate(program.body):
            attributes: dict[str, Any] = dict(instruction.attributes)
            if instruction.op == "linear_transposed":
                raise UserError(f"{program.name!r} multiplies by a transposed matrix, so it can't learn online")
            if instruction.op == "linear" or instruction.op == PARAMETER:
                place = places.setdefault(_summed(program, id), len(places))
                arg = instruction.args[0] if instruction.args else None
                uses[attributes["weight"] if instruction.args else attributes["index"]].append(Use(place, arg))
        return cls(program, tuple(places), tuple(map(tuple, uses)))

    @property
    def states(self) -> int:
        """The number of elements of all states."""
        return sum(state.width for state in self.program.states)

    @cached_property
    def args(self) -> tuple[int, ...]:
        """The values that matrices multiply, as ids."""
        return tuple(sorted({use.arg for uses in self.uses for use in uses if use.arg is not None}))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first column of each place (the columns of the states come first), then the total number of columns."""
        widths = [self.program.body[id].width for id in self.places]
        return tuple(int(n) for n in np.cumsum([self.states, *widths]))

    def columns(self, use: Use, rows: Ints) -> Ints:
        """Return the columns of some rows of a use."""
        return self.starts[use.place] + rows

    @cached_property
    def total(self) -> Bools:
        """Whether the new state elements `[S]` depend on old ones and on elements of places, `[S, columns]`."""
        return self._next(dependencies(self))

    @cached_property
    def direct(self) -> Bools:
        """Like `total`, but through pointwise operations only, not through another matrix product or a reduction."""
        return self._next(dependencies(self, direct=True))

    def _next(self, found: Mapping[int, Bools]) -> Bools:
        return np.concatenate([found[state.next] for state in self.program.states])

    @cached_property
    def reached(self) -> Bools:
        """Whether elements of places reach state elements within any number of steps, `[S, elements of places]`."""
        recurrent, found = self.total[:, : self.states].astype(np.float32), self.total[:, self.states :]
        while True:
            more = found | (recurrent @ found.astype(np.float32) > 0)
            if np.array_equal(more, found):
                return found
            found = more

    def groups(self, reach: Bools) -> list[Group]:
        """Group the rows of all parameters by the number of state elements that they reach; omit rows that reach none.

        Args:
            reach: which elements of places reach which state elements, shaped like `reached`.
        """
        found = []
        for k, uses in enumerate(self.uses):
            rows = np.arange(self.program.parameters[k].shape[0])
            of_rows = np.zeros((len(rows), self.states), bool)
            for use in uses:
                of_rows |= reach[:, self.columns(use, rows) - self.states].T
            sizes = of_rows.sum(1)
            for size in np.unique(sizes[sizes > 0]):
                chosen = rows[sizes == size]
                found.append(Group(k, chosen, np.nonzero(of_rows[chosen])[1].reshape(len(chosen), size)))
        return found

    def elements(self, groups: Iterable[Group]) -> int:
        """Return the number of sensitivities per stream."""
        shapes = [p.shape for p in self.program.parameters]
        return sum(g.reach.size * (shapes[g.parameter][1] if len(shapes[g.parameter]) == 2 else 1) for g in groups)


def _summed(program: Program, id: int) -> int:
    """Return the final value of the sums that a value enters; a change of either has the same effect."""
    nexts = {state.next for state in program.states}
    while id not in nexts:
        users = [k for k, i in enumerate(program.body) if id in i.args]
        if len(users) != 1 or program.body[users[0]].op != "add" or program.body[users[0]].args.count(id) > 1:
            break
        id = users[0]
    return id


def dependencies(
    structure: Structure, *, direct: bool = False, masks: Mapping[int, Bools] | None = None
) -> dict[int, Bools]:
    """Find the state elements and elements of places that each element of some values depends on.

    Args:
        structure: the structure of the program.
        direct: whether to follow pointwise operations only.
        masks: for parameters, by index, which elements are nonzero; all by default.

    Returns:
        For the states' next values and the values that matrices multiply, an array `[width, columns]` each.
    """
    program, columns = structure.program, structure.starts[-1]
    at_place = {id: structure.starts[n] for n, id in enumerate(structure.places)}
    at_state = [int(n) for n in np.cumsum([0, *(state.width for state in program.states)])]
    packed: list[NDArray[np.uint8]] = []  # 8 columns per byte

    def identity(start: int, width: int) -> NDArray[np.uint8]:
        bits = np.zeros((width, columns), bool)
        bits[np.arange(width), start + np.arange(width)] = True
        return np.packbits(bits, axis=1)

    for id, instruction in enumerate(program.body):
        args = [packed[arg] for arg in instruction.args]
        if instruction.op == PREVIOUS:
            found = identity(at_state[instruction["index"]], instruction.width)
        elif instruction.op in LEAVES:
            found = np.zeros((instruction.width, -(-columns // 8)), np.uint8)
        else:
            found = _through(instruction.op, dict(instruction.attributes), instruction.width, args, direct, masks)
        if id in at_place:
            found = found | identity(at_place[id], instruction.width)
        packed.append(found)
    wanted = {state.next for state in program.states}.union(structure.args)
    return {id: _unpacked(packed[id], columns) for id in wanted}


def _through(
    op: str,
    attributes: Mapping[str, Any],
    width: int,
    args: Sequence[NDArray[np.uint8]],
    direct: bool,
    masks: Mapping[int, Bools] | None,
) -> NDArray[np.uint8]:
    """Return the dependencies of a result's elements, given those of its arguments."""
    if OPERATIONS[op].pointwise:
        return np.asarray(np.bitwise_or.reduce(args))
    if op == "slice":
        return args[0][attributes["start"] : attributes["start"] + width]
    if op == "concat":
        return np.concatenate(args)
    if op == "expand":
        return np.repeat(args[0], width, 0)
    if direct:
        return np.zeros((width, args[0].shape[1]), np.uint8)
    if op == "linear" and masks is not None and attributes["weight"] in masks:
        mask = masks[attributes["weight"]].astype(np.float32)
        return np.packbits(mask @ np.unpackbits(args[0], axis=1).astype(np.float32) > 0, axis=1)
    return np.repeat(np.bitwise_or.reduce(args[0], axis=0, keepdims=True), width, 0)


def _unpacked(packed: NDArray[np.uint8], columns: int) -> Bools:
    return np.unpackbits(packed, axis=1, count=columns).astype(bool)

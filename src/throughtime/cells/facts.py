"""What can be told of a cell without running it: what `throughtime cells` and the page of all cells show."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.program.counting import flops

_REFERENCE = re.compile(r"\(([^()]*\b[12]\d{3}\b[^()]*)\)")
_STEP = 8  # so that a cell with heads or groups can be cut at every size


@dataclass(frozen=True)
class Facts:
    """A cell in a few words.

    Attributes:
        name: the cell's name.
        meaning: the first line of its docstring.
        reference: the paper that is named there, if one is.
        parameters_per_unit: how many it has, as a formula in I, the width of x, and H, the number of hidden units.
        flops_per_unit: the arithmetic of a forward step of one row, as such a formula; a function counts as one.
        states: their names.
        inputs: the names of the inputs beside x, which are optional in named cells.
        hyper: the hyper-parameters and their values.
    """

    name: str
    meaning: str
    reference: str
    parameters_per_unit: str
    flops_per_unit: str
    states: tuple[str, ...]
    inputs: tuple[str, ...]
    hyper: Mapping[str, Any]

    @classmethod
    def of(cls, cell: Cell) -> Facts:
        """Those of a cell."""
        reference = _REFERENCE.search(cell.meaning)
        return cls(
            cell.name,
            cell.meaning,
            reference[1] if reference else "",
            per_unit(cell, lambda program: sum(prod(p.shape) for p in program.parameters)),
            per_unit(cell, flops),
            tuple(declaration.name for _, declaration in cell.states),
            tuple(declaration.name for _, declaration in cell.inputs),
            cell.hyper,
        )


def per_unit(cell: Cell, count: Callable[[Program], int]) -> str:
    """A number that a cell's program has, divided by the number of hidden units, as a formula in I and H.

    The number is a polynomial, a I H + b H^2 + c H + d I + e, found from the programs of a few sizes, in all of which
    I is not H: where they are alike some cells do with a matrix less.
    """

    def at(inputs: int, units: int) -> int:
        return count(cell.program(inputs * _STEP, units * _STEP))

    f13, f23, f14, f24, f15 = at(1, 3), at(2, 3), at(1, 4), at(2, 4), at(1, 5)
    square = (f15 - 2 * f14 + f13) / 2
    both = f24 - f23 - f14 + f13
    inputs, units = f23 - f13 - 3 * both, f14 - f13 - both - 7 * square
    rest = f13 - 3 * both - 9 * square - inputs - 3 * units
    if both * 10 + square * 25 + units * 5 + inputs * 2 + rest != at(2, 5):
        return f"{f13 / (3 * _STEP):g} at I = {_STEP}, H = {3 * _STEP}"
    terms = [
        (both / _STEP**2, " I"), (square / _STEP**2, " H"), (units / _STEP, ""), (inputs / _STEP, " I/H"), (rest, "/H")
    ]  # fmt: skip
    return " + ".join(_term(factor, unit) for factor, unit in terms if factor) or "0"


def _term(factor: float, unit: str) -> str:
    return unit.strip() if factor == 1 and unit.startswith(" ") else f"{factor:g}{unit}"

"""Static facts about cells, shown by `throughtime cells` and on the cells page."""

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
_STEP = 8  # divisible by the numbers of heads and groups


@dataclass(frozen=True)
class Facts:
    """A summary of a cell.

    Attributes:
        name: the cell's name.
        meaning: the first line of its docstring.
        reference: the paper cited there; empty if none.
        parameters_per_unit: the number of parameters per hidden unit, as a formula in I, the width of x, and H, the
            number of hidden units.
        flops_per_unit: the FLOPs of a forward step of one sequence per hidden unit, as such a formula; a function such
            as tanh counts as one.
        states: the names of the states.
        inputs: the names of the inputs other than x, all optional in named cells.
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
        """Collect the facts about a cell."""
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
    """Express a count over a cell's program, per hidden unit, as a formula in I and H.

    The count is a polynomial, a I H + b H^2 + c H + d I + e, fitted to programs of a few sizes. In all of them I
    differs from H, because some cells have one fewer matrix if I = H.
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

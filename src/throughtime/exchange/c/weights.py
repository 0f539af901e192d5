"""Write weights as constant C arrays: float32, or int8 with a scale for each row of a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError
from throughtime.exchange.c.spelling import Names, number

Array = NDArray[Any]

_PER_LINE = 8
_LEVELS = 127


@dataclass(frozen=True)
class Matrix:
    """A matrix in C, in column-major order; a table is in row-major order.

    Attributes:
        name: the name of the array.
        rows: the number of rows, which is also the distance between the columns of a column-major matrix.
        scale: the name of the array with a float scale for each row; None if the matrix is float32.
    """

    name: str
    rows: int
    scale: str | None = None

    def multiply_add(self, y: str, x: str, rows: int, columns: int, first: int = 0) -> str:
        """Return the C statement that multiplies a block of rows by x and adds the result to y."""
        start = f" + {first}" if first else ""
        if self.scale is None:
            return f"tt_multiply_add({y}, {self.name}{start}, {self.rows}, {x}, {rows}, {columns});"
        scale = f"{self.scale}{start}"
        return f"tt_multiply_add_int8({y}, {self.name}{start}, {scale}, {self.rows}, {x}, {rows}, {columns});"


class Weights:
    """The constant arrays of a file.

    Args:
        names: creates the names of the arrays.
        int8: whether to round matrices to int8.

    Attributes:
        declarations: the C declarations of the arrays.
        bytes: the total size of the arrays in bytes.
    """

    def __init__(self, names: Names, *, int8: bool) -> None:
        self.names, self.int8 = names, int8
        self.declarations: list[str] = []
        self.bytes = 0

    def vector(self, start: str, name: str, values: Array) -> str:
        """Add a float32 vector and return its name."""
        found = self.names.new(start, name)
        self._declare("float", found, f"[{len(values)}]", _lines(map(number, _singles(values, found))))
        self.bytes += 4 * len(values)
        return found

    def matrix(self, start: str, name: str, values: Array, *, exact: bool = False) -> Matrix:
        """Add a matrix `[rows, columns]` in column-major order.

        Args:
            start, name: the two parts of the array's name.
            values: the elements.
            exact: whether to keep the matrix in float32.
        """
        found = self.names.new(start, name)
        singles = _singles(values, found)
        rows, columns = singles.shape
        if exact or not self.int8:
            self._declare("float", found, f"[{rows * columns}]", _lines(map(number, singles.T.ravel())))
            self.bytes += 4 * values.size
            return Matrix(found, rows)
        levels, scale = _rounded(singles)
        self._declare("int8_t", found, f"[{rows * columns}]", _lines(map(str, levels.T.ravel())))
        self.bytes += values.size
        return Matrix(found, rows, self.vector(found, "scale", scale))

    def table(self, start: str, values: Array) -> Matrix:
        """Add a table `[rows, width]` in row-major order, because it is read row by row."""
        found = self.names.new(start)
        singles = _singles(values, found)
        rows, width = singles.shape
        size = f"[{rows}][{width}]"
        if not self.int8:
            self._declare("float", found, size, _rows(singles, number))
            self.bytes += 4 * values.size
            return Matrix(found, rows)
        levels, scale = _rounded(singles)
        self._declare("int8_t", found, size, _rows(levels, str))
        self.bytes += values.size
        return Matrix(found, rows, self.vector(found, "scale", scale))

    def _declare(self, kind: str, name: str, size: str, lines: Iterable[str]) -> None:
        self.declarations.append(f"static const {kind} {name}{size} = {{\n" + "\n".join(lines) + "\n};\n")


def dequantized(matrix: Array) -> Array:
    """Round a matrix to int8 and back, to the values that the C code uses.

    Args:
        matrix: the original matrix, `[rows, columns]`.
    """
    levels, scale = _rounded(_singles(matrix, "matrix"))
    return np.asarray(levels * scale[:, None], matrix.dtype)


def _rounded(matrix: Array) -> tuple[Array, Array]:
    largest = np.abs(matrix).max(1)
    scale = np.where(largest > 0, largest / np.float32(_LEVELS), np.float32(1)).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)  # prevents an overflow in the division
    return np.clip(np.rint(matrix / scale[:, None]), -_LEVELS, _LEVELS).astype(np.int8), scale


def _singles(values: Array, name: str) -> Array:
    with np.errstate(over="ignore"):
        singles = np.asarray(values, np.float32)
    if not np.isfinite(singles).all():
        raise UserError(f"the weights {name} must be finite in float32, but contain a NaN or an infinity")
    return singles


def _lines(texts: Iterable[str]) -> Iterable[str]:
    every = list(texts)
    return (f"    {', '.join(every[at : at + _PER_LINE])}," for at in range(0, len(every), _PER_LINE))


def _rows(matrix: Array, spelled: Any) -> Sequence[str]:
    return [f"    {{{', '.join(map(spelled, row))}}}," for row in matrix]

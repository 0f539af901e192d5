"""Symbols, the variables of a cell's equations while they are traced."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

from throughtime.errors import CellError
from throughtime.program.cell_errors import cell_error
from throughtime.program.words import word_for

if TYPE_CHECKING:
    from throughtime.program.builder import Builder

Number = int | float


class Symbol:
    """A symbolic vector, the type of every variable in a cell's equations.

    It supports `+ - * / > <`, unary minus, `abs`, `**` with a positive integer, slices `v[start:stop]`, and elements
    `v[k]`, which are vectors of width 1. Numbers and vectors of width 1 are broadcast.
    """

    __slots__ = ("builder", "id")
    __hash__ = object.__hash__

    def __init__(self, builder: Builder, id: int) -> None:
        self.builder = builder
        self.id = id

    @property
    def width(self) -> int:
        """The number of elements."""
        return self.builder.body[self.id].width

    def __repr__(self) -> str:
        return f"<symbol {self.builder.label(self.id)} of width {self.width}>"

    def _apply(self, op: str, *values: Symbol | Number) -> Symbol:
        return self.builder.pointwise(op, *values)

    def __add__(self, other: Symbol | Number) -> Symbol:
        return self._apply("add", self, other)

    def __radd__(self, other: Symbol | Number) -> Symbol:
        return self._apply("add", other, self)

    def __sub__(self, other: Symbol | Number) -> Symbol:
        return self._apply("sub", self, other)

    def __rsub__(self, other: Symbol | Number) -> Symbol:
        return self._apply("sub", other, self)

    def __mul__(self, other: Symbol | Number) -> Symbol:
        return self._apply("mul", self, other)

    def __rmul__(self, other: Symbol | Number) -> Symbol:
        return self._apply("mul", other, self)

    def __truediv__(self, other: Symbol | Number) -> Symbol:
        return self._apply("div", self, other)

    def __rtruediv__(self, other: Symbol | Number) -> Symbol:
        return self._apply("div", other, self)

    def __neg__(self) -> Symbol:
        return self._apply("neg", self)

    def __abs__(self) -> Symbol:
        return self._apply("abs", self)

    def __gt__(self, other: Symbol | Number) -> Symbol:
        return self._apply("greater", self, other)

    def __lt__(self, other: Symbol | Number) -> Symbol:
        return self._apply("greater", other, self)

    def __eq__(self, other: object) -> NoReturn:
        raise self._no_comparison()

    def __ne__(self, other: object) -> NoReturn:
        raise self._no_comparison()

    def __ge__(self, other: object) -> NoReturn:
        raise self._no_comparison()

    def __le__(self, other: object) -> NoReturn:
        raise self._no_comparison()

    @staticmethod
    def _no_comparison() -> CellError:
        return cell_error("symbols support only the comparisons `>` and `<`; they return a mask for select(mask, a, b)")

    def __pow__(self, exponent: int) -> Symbol:
        if not isinstance(exponent, int) or exponent < 1:
            raise cell_error(
                f"the exponent of `**` must be a positive integer, got {exponent!r}; use exp and log for others"
            )
        result = self
        for _ in range(exponent - 1):
            result = result * self
        return result

    def __getitem__(self, index: slice | int) -> Symbol:
        if isinstance(index, int):
            if not -self.width <= index < self.width:
                raise cell_error(
                    f"index {index} is out of range for a vector of width {self.width} (0 to {self.width - 1})"
                )
            return self.builder.slice(self, index % self.width, 1)
        bounds = (index.start, index.stop) if isinstance(index, slice) and index.step in (None, 1) else ("none",)
        if not all(bound is None or isinstance(bound, int) for bound in bounds):
            raise cell_error(f"index a symbol as `v[k]` or slice it as `v[start:stop]`; got {index!r}")
        start, stop, _ = index.indices(self.width)
        if stop <= start:
            raise cell_error(f"the slice {start}:{stop} of a vector of width {self.width} is empty")
        return self.builder.slice(self, start, stop - start)

    def __bool__(self) -> NoReturn:
        raise cell_error(
            "a symbol has no truth value, so it can't be used with `if`, `while`, `and`, `or` or `not`: the equations "
            "are traced once, before there are data. To choose by value use select(a > b, x, y); `if` may test a "
            "hyper-parameter"
        )

    def __iter__(self) -> NoReturn:
        raise cell_error("a symbol can't be iterated over or unpacked; use split(v, n) or v[start:stop]")

    def __float__(self) -> NoReturn:
        raise cell_error(
            "a symbol can't be converted to a number; use functions of throughtime.language (tanh, sigmoid, exp ...)"
        )

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise cell_error("a symbol can't be converted to a NumPy array; use functions of throughtime.language instead")

    def __array_ufunc__(self, function: Any, method: str, *values: Any, **_: object) -> Symbol:
        # NumPy calls this for its functions and for `array * symbol`; NumPy scalars are accepted as numbers.
        meant = _NUMPY_OPERATORS.get(function.__name__)
        if meant is not None and method == "__call__" and all(isinstance(v, Symbol | Real) for v in values):
            result: Symbol = meant(*(v if isinstance(v, Symbol) else float(v) for v in values))
            return result
        raise cell_error(f"NumPy's `{function.__name__}` doesn't take symbols; {_instead(function.__name__)}")

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], *_: object, **__: object) -> NoReturn:
        name = getattr(function, "__name__", str(function))
        raise cell_error(f"torch's `{name}` doesn't take symbols; {_instead(name)}")


_NUMPY_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "greater": operator.gt,
    "less": operator.lt,
}


def _instead(name: str) -> str:
    word = word_for(name)
    return f"use {f'throughtime.language.{word}' if word else 'numbers and throughtime.language'} instead"


def of(*values: Symbol | Number) -> Builder:
    """Return the builder of the symbols among the values; functions of the cell language need at least one symbol."""
    for value in values:
        if isinstance(value, Symbol):
            return value.builder
    shown = ", ".join(f"{type(value).__name__} {value!r}" for value in values)
    raise cell_error(f"expected a vector of the cell, got {shown}")

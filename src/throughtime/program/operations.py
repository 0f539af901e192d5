"""The one table of operations: for each its name, its meaning, its gradient, its bounds, how it is written elsewhere.

A row's `meaning` is written in torch's words, over a module `xp` that is handed in, so this file imports none. Its
`gradient` is written in the operations of this same table (`op.name(...)` and the operators of symbols), so the
gradient of a program is again a program. The legality check, the reference engine, the printing, the search for gates,
the export to ONNX and the export to C read their knowledge of an operation here; tests compare this list with the
native engine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)


def _unbounded(*of: Range) -> Range:
    return ANY


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    Attributes:
        name: how programs and engines call it.
        arity: the number of values that it takes; None for any number.
        meaning: `(xp, *values, **attributes)` to the result, on arrays whose last axis is the vector.
        gradient: `(op, g, y, *values, **attributes)` to the gradient of each value, from the result `y` and its
            gradient `g`, all symbols; None for a value that gets none.
        text: how an instruction is printed, with the values in place of `{0}`, `{1}` ...
        attributes: the type of each attribute of its instructions. `weight` is the number of a parameter; functions of
            this table take the parameter (or its shape) in its place.
        mismatch: for an operation that isn't pointwise, `(width, widths, **attributes)` to what is wrong with the width
            of a result and those of its values; None if they fit.
        bounds: the bounds of each value to the bounds of the result's elements.
        weight_gradient: for a product with a matrix parameter, `(g, a)` to the pair of values whose outer product is
            the parameter's gradient.
        pointwise: whether each element of the result depends on the same element of the values alone.
        cheap: whether a gradient program would rather compute it again than read it from memory.
        takes_width: whether `meaning` takes the result's `width`, too.
        onnx: the operator of ONNX that computes it; None for an operation that `exchange/onnx/scan.py` composes.
        c: of a pointwise operation, the C expression on floats; `exchange/c/functions.py` has the functions it calls.
    """

    name: str
    arity: int | None
    meaning: Callable[..., Any]
    gradient: Callable[..., tuple[Any, ...]]
    text: str
    attributes: Mapping[str, type] = field(default_factory=dict)
    mismatch: Callable[..., str | None] | None = None
    bounds: Callable[..., Range] = _unbounded
    weight_gradient: Callable[[Any, Any], tuple[Any, Any]] | None = None
    pointwise: bool = True
    cheap: bool = False
    takes_width: bool = False
    onnx: str | None = None
    c: str = ""

    def misfit(self, width: int, widths: Sequence[int], **attributes: Any) -> str | None:
        """What is wrong with the width of a result and those of its values; None if they fit."""
        if self.mismatch is not None:
            return self.mismatch(width, widths, **attributes)
        if not self.pointwise:
            return "has no rule here"
        return None if all(w == width for w in widths) else f"of width {width} takes widths {[*widths]}"


@dataclass(frozen=True)
class SliceGradient:
    """A gradient that belongs to the elements from `start` on of a wider value."""

    symbol: Any
    start: int


def _rows_alike(xp: Any, values: tuple[Any, ...]) -> list[Any]:
    # A constant or a vector parameter has no rows of its own; beside values that have, it is repeated.
    rows = xp.broadcast_shapes(*(v.shape[:-1] for v in values))
    return [xp.broadcast_to(v, (*rows, v.shape[-1])) for v in values]


def _concat_gradient(op: Any, g: Any, y: Any, *values: Any) -> tuple[Any, ...]:
    starts = [sum(v.width for v in values[:k]) for k in range(len(values))]
    return tuple(op.slice(g, start, v.width) for start, v in zip(starts, values, strict=True))


def _hull(*of: Range) -> Range:
    return min(low for low, _ in of), max(high for _, high in of)


def _product_bounds(a: Range, b: Range) -> Range:
    ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]  # 0 times infinity is 0 here
    return min(ends), max(ends)


def _wants_parameter(shape: tuple[int, int], weight: tuple[int, ...]) -> str | None:
    return None if weight == shape else f"needs a parameter {shape}, and has {weight}"


def _slice_mismatch(width: int, widths: Sequence[int], *, start: int) -> str | None:
    return None if start >= 0 and start + width <= widths[0] else f"of {widths[0]} elements leaves them"


def _concat_mismatch(width: int, widths: Sequence[int]) -> str | None:
    return None if sum(widths) == width else f"of widths {[*widths]} is called {width} wide"


def _expand_mismatch(width: int, widths: Sequence[int]) -> str | None:
    return None if widths[0] == 1 else f"takes a vector of one element, not {widths[0]}"


def _reduction_mismatch(width: int, widths: Sequence[int]) -> str | None:
    return None if width == 1 else f"gives one element, not {width}"


def _row_max_gradient(op: Any, g: Any, y: Any, a: Any) -> tuple[Any]:
    largest = op.select(op.greater(y, a), 0.0, 1.0)
    return (largest * (g / op.max(op.row_sum(largest), 1.0)),)  # there is one at least, unless y is of another run


_ROWS = (
    # arithmetic
    Operation(
        "add",
        2,
        lambda xp, a, b: a + b,
        lambda op, g, y, a, b: (g, g),
        "{0} + {1}",
        bounds=lambda a, b: (a[0] + b[0], a[1] + b[1]),
        cheap=True,
        onnx="Add",
        c="{0} + {1}",
    ),
    Operation(
        "sub",
        2,
        lambda xp, a, b: a - b,
        lambda op, g, y, a, b: (g, -g),
        "{0} - {1}",
        bounds=lambda a, b: (a[0] - b[1], a[1] - b[0]),
        cheap=True,
        onnx="Sub",
        c="{0} - {1}",
    ),
    Operation(
        "mul",
        2,
        lambda xp, a, b: a * b,
        lambda op, g, y, a, b: (g * b, g * a),
        "{0} * {1}",
        bounds=_product_bounds,
        cheap=True,
        onnx="Mul",
        c="{0} * {1}",
    ),
    Operation(
        "div",
        2,
        lambda xp, a, b: a / b,
        lambda op, g, y, a, b: (g / b, -(g * y) / b),
        "{0} / {1}",
        onnx="Div",
        c="{0} / {1}",
    ),
    Operation(
        "neg",
        1,
        lambda xp, a: -a,
        lambda op, g, y, a: (-g,),
        "-{0}",
        bounds=lambda a: (-a[1], -a[0]),
        cheap=True,
        onnx="Neg",
        c="-{0}",
    ),
    # comparison and choice
    Operation(
        "greater",  # 1 where a > b, else 0
        2,
        lambda xp, a, b: (a > b).to(a.dtype),
        lambda op, g, y, a, b: (None, None),
        "{0} > {1}",
        cheap=True,
        bounds=lambda a, b: (0.0, 1.0),
        c="{0} > {1} ? 1.0f : 0.0f",
    ),
    Operation(
        "select",  # b where the mask is not 0, else c
        3,
        lambda xp, mask, b, c: xp.where(mask != 0, b, c),
        lambda op, g, y, mask, b, c: (None, op.select(mask, g, 0.0), op.select(mask, 0.0, g)),
        "{0} ? {1} : {2}",
        cheap=True,
        bounds=lambda mask, b, c: _hull(b, c),
        c="{0} != 0.0f ? {1} : {2}",
    ),
    Operation(
        "max",  # where both are equal each gets half the gradient, as torch has it
        2,
        lambda xp, a, b: xp.maximum(a, b),
        lambda op, g, y, a, b: (
            op.select(op.greater(a, b), g, op.select(op.greater(b, a), 0.0, 0.5 * g)),
            op.select(op.greater(b, a), g, op.select(op.greater(a, b), 0.0, 0.5 * g)),
        ),
        "max({0}, {1})",
        cheap=True,
        bounds=lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
        onnx="Max",
        c="{0} > {1} || {0} != {0} ? {0} : {1}",  # NaN if either is
    ),
    Operation(
        "relu",
        1,
        lambda xp, a: xp.relu(a),
        lambda op, g, y, a: (op.select(op.greater(y, 0.0), g, 0.0),),
        "relu({0})",
        bounds=lambda a: (max(a[0], 0.0), max(a[1], 0.0)),
        onnx="Relu",
        c="{0} < 0.0f ? 0.0f : {0}",
    ),
    Operation(
        "abs",  # at 0 the gradient is 0, as in torch
        1,
        lambda xp, a: xp.abs(a),
        lambda op, g, y, a: (op.select(op.greater(a, 0.0), g, op.select(op.greater(0.0, a), -g, 0.0)),),
        "abs({0})",
        cheap=True,
        bounds=lambda a: (max(a[0], -a[1], 0.0), max(-a[0], a[1])),
        onnx="Abs",
        c="fabsf({0})",
    ),
    # functions
    Operation(
        "tanh",
        1,
        lambda xp, a: xp.tanh(a),
        lambda op, g, y, a: (g * (1.0 - y * y),),
        "tanh({0})",
        bounds=lambda a: (-1.0, 1.0),
        onnx="Tanh",
        c="tt_tanh({0})",
    ),
    Operation(
        "sigmoid",
        1,
        lambda xp, a: xp.sigmoid(a),
        lambda op, g, y, a: (g * (y * (1.0 - y)),),
        "sigmoid({0})",
        bounds=lambda a: (0.0, 1.0),
        onnx="Sigmoid",
        c="tt_sigmoid({0})",
    ),
    Operation(
        "exp",
        1,
        lambda xp, a: xp.exp(a),
        lambda op, g, y, a: (g * y,),
        "exp({0})",
        bounds=lambda a: (0.0, math.inf),
        onnx="Exp",
        c="tt_exp({0})",
    ),
    Operation("log", 1, lambda xp, a: xp.log(a), lambda op, g, y, a: (g / a,), "log({0})", onnx="Log", c="logf({0})"),
    Operation(
        "sqrt",
        1,
        lambda xp, a: xp.sqrt(a),
        lambda op, g, y, a: (g * 0.5 / y,),
        "sqrt({0})",
        bounds=lambda a: (0.0, math.inf),
        onnx="Sqrt",
        c="sqrtf({0})",
    ),
    Operation(
        "softplus",  # log(1 + exp(a))
        1,
        lambda xp, a: xp.logaddexp(a, xp.zeros_like(a)),
        lambda op, g, y, a: (g * op.sigmoid(a),),
        "softplus({0})",
        bounds=lambda a: (0.0, math.inf),
        c="tt_softplus({0})",
    ),
    Operation(
        "sin",
        1,
        lambda xp, a: xp.sin(a),
        lambda op, g, y, a: (g * op.cos(a),),
        "sin({0})",
        bounds=lambda a: (-1.0, 1.0),
        onnx="Sin",
        c="sinf({0})",
    ),
    Operation(
        "cos",
        1,
        lambda xp, a: xp.cos(a),
        lambda op, g, y, a: (-(g * op.sin(a)),),
        "cos({0})",
        bounds=lambda a: (-1.0, 1.0),
        onnx="Cos",
        c="cosf({0})",
    ),
    # structure
    Operation(
        "linear",  # the matrix parameter `weight` times the vector
        1,
        lambda xp, a, *, weight: a @ weight.T,
        lambda op, g, y, a, *, weight: (op.linear_transposed(g, weight),),
        "{weight} @ {0}",
        weight_gradient=lambda g, a: (g, a),
        pointwise=False,
        attributes={"weight": int},
        mismatch=lambda width, widths, *, weight: _wants_parameter((width, widths[0]), weight),
    ),
    Operation(
        "linear_transposed",
        1,
        lambda xp, a, *, weight: a @ weight,
        lambda op, g, y, a, *, weight: (op.linear(g, weight),),
        "{weight}.T @ {0}",
        weight_gradient=lambda g, a: (a, g),
        pointwise=False,
        attributes={"weight": int},
        mismatch=lambda width, widths, *, weight: _wants_parameter((widths[0], width), weight),
    ),
    Operation(
        "slice",
        1,
        lambda xp, a, *, start, width: a[..., start : start + width],
        lambda op, g, y, a, *, start: (SliceGradient(g, start),),
        "{0}[{start}:{stop}]",
        pointwise=False,
        cheap=True,
        attributes={"start": int},
        mismatch=_slice_mismatch,
        bounds=_hull,
        takes_width=True,
    ),
    Operation(
        "concat",
        None,
        lambda xp, *values: xp.cat(_rows_alike(xp, values), -1),
        _concat_gradient,
        "concat({*})",
        pointwise=False,
        cheap=True,
        mismatch=_concat_mismatch,
        bounds=_hull,
    ),
    Operation(
        "expand",  # one element repeated
        1,
        lambda xp, a, *, width: xp.broadcast_to(a, (*a.shape[:-1], width)),
        lambda op, g, y, a: (op.row_sum(g),),
        "expand({0})",
        pointwise=False,
        cheap=True,
        mismatch=_expand_mismatch,
        bounds=_hull,
        takes_width=True,
    ),
    Operation(
        "row_sum",  # the sum of a vector's elements
        1,
        lambda xp, a: a.sum(-1, keepdim=True),
        lambda op, g, y, a: (op.expand(g, a.width),),
        "row_sum({0})",
        pointwise=False,
        mismatch=_reduction_mismatch,
    ),
    Operation(
        "row_max",  # the largest of a vector's elements; equal ones share the gradient, as in torch's amax
        1,
        lambda xp, a: a.amax(-1, keepdim=True),
        _row_max_gradient,
        "row_max({0})",
        pointwise=False,
        mismatch=_reduction_mismatch,
        bounds=_hull,
    ),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
PRODUCTS = frozenset(row.name for row in _ROWS if row.weight_gradient)  # with a matrix parameter
REDUCTIONS = ("row_sum", "row_max")  # of a vector to one element

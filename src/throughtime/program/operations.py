"""The table of operations: the definition, gradient, bounds and exported forms of each.

A row's `meaning` calls torch functions through a module `xp` passed as an argument, so this file doesn't import torch.
Its `gradient` is written in operations of the same table (`op.name(...)` and the operators of symbols), so the gradient
of a program is again a program. The legality check, the reference engine, printing, the search for gates, and the ONNX
and C exporters all read this table; tests compare it with the native engine's list.
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
        name: the operation's name in programs and engines.
        arity: the number of arguments; None for any number.
        meaning: a function `(xp, *values, **attributes)` that computes the result on arrays whose last axis is the
            vector.
        gradient: a function `(op, g, y, *values, **attributes)` that returns the gradient of each argument from the
            result `y` and its gradient `g`, all symbols; None for an argument without a gradient.
        text: the printed form of an instruction, with placeholders `{0}`, `{1}`, ... for the arguments.
        attributes: the type of each attribute of its instructions. `weight` is the index of a parameter; functions of
            this table take the parameter itself (or its shape) instead.
        mismatch: for an operation that isn't pointwise, a function `(width, widths, **attributes)` that describes what
            is wrong with the widths of the result and the arguments, or returns None if they fit.
        bounds: a function from the bounds of each argument to the bounds of the result's elements.
        weight_gradient: for a product with a matrix parameter, a function from `(g, a)` to the pair of values whose
            outer product is the parameter's gradient.
        pointwise: whether each element of the result depends only on the same element of the arguments.
        cheap: whether gradient programs recompute it instead of reading it from memory.
        takes_width: whether `meaning` also takes the result's `width`.
        onnx: the equivalent ONNX operator; None for an operation that `exchange/onnx/scan.py` composes.
        c: the C expression on floats, for a pointwise operation; `exchange/c/functions.py` has the functions it calls.
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
        """Describe what is wrong with the widths of a result and its arguments; None if they fit."""
        if self.mismatch is not None:
            return self.mismatch(width, widths, **attributes)
        if not self.pointwise:
            return "has no width rule"
        return None if all(w == width for w in widths) else f"of width {width} has arguments of widths {[*widths]}"


@dataclass(frozen=True)
class SliceGradient:
    """The gradient of a slice of a value, starting at element `start`."""

    symbol: Any
    start: int


def _rows_alike(xp: Any, values: tuple[Any, ...]) -> list[Any]:
    # Constants and vector parameters have no batch axis; they are broadcast to the other values.
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
    return None if weight == shape else f"needs a parameter of shape {shape}, got {weight}"


def _slice_mismatch(width: int, widths: Sequence[int], *, start: int) -> str | None:
    return None if start >= 0 and start + width <= widths[0] else f"is out of range for a vector of width {widths[0]}"


def _concat_mismatch(width: int, widths: Sequence[int]) -> str | None:
    return None if sum(widths) == width else f"of widths {[*widths]} must have width {sum(widths)}, got {width}"


def _expand_mismatch(width: int, widths: Sequence[int]) -> str | None:
    return None if widths[0] == 1 else f"takes a vector of width 1, got {widths[0]}"


def _reduction_mismatch(width: int, widths: Sequence[int]) -> str | None:
    return None if width == 1 else f"returns a vector of width 1, got {width}"


def _row_max_gradient(op: Any, g: Any, y: Any, a: Any) -> tuple[Any]:
    largest = op.select(op.greater(y, a), 0.0, 1.0)
    return (largest * (g / op.max(op.row_sum(largest), 1.0)),)  # at least one, unless y is from another run


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
    # comparison and selection
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
        "max",  # equal values get half the gradient each, as in torch
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
PRODUCTS = frozenset(row.name for row in _ROWS if row.weight_gradient)  # multiply by a matrix parameter
REDUCTIONS = ("row_sum", "row_max")  # reduce a vector to width 1

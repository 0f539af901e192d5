"""The one table of operations: for each its name, its meaning, its gradient and how it is printed.

A row's `meaning` is written in torch's words, over a module `xp` that is handed in, so this file imports none. Its
`gradient` is written in the operations of this same table (`op.name(...)` and the operators of symbols), so the
gradient of a program is again a program. The C++ engine takes its list of opcodes from here: to add an operation, add
its row here and its line to the engine's pointwise functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
        weight_gradient: for a product with a matrix parameter, `(g, a)` to the pair of values whose outer product is
            the parameter's gradient.
        pointwise: whether each element of the result depends on the same element of the values alone.
        cheap: whether a gradient program would rather compute it again than read it from memory.
    """

    name: str
    arity: int | None
    meaning: Callable[..., Any]
    gradient: Callable[..., tuple[Any, ...]]
    text: str
    weight_gradient: Callable[[Any, Any], tuple[Any, Any]] | None = None
    pointwise: bool = True
    cheap: bool = False


@dataclass(frozen=True)
class Piece:
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


def _row_max_gradient(op: Any, g: Any, y: Any, a: Any) -> tuple[Any]:
    largest = op.select(op.greater(y, a), 0.0, 1.0)
    return (largest * (g / op.max(op.row_sum(largest), 1.0)),)  # there is one at least, unless y is of another run


_ROWS = (
    # arithmetic
    Operation("add", 2, lambda xp, a, b: a + b, lambda op, g, y, a, b: (g, g), "{0} + {1}", cheap=True),
    Operation("sub", 2, lambda xp, a, b: a - b, lambda op, g, y, a, b: (g, -g), "{0} - {1}", cheap=True),
    Operation(
        "mul",
        2,
        lambda xp, a, b: a * b,
        lambda op, g, y, a, b: (g * b, g * a),
        "{0} * {1}",
        cheap=True,
    ),
    Operation(
        "div",
        2,
        lambda xp, a, b: a / b,
        lambda op, g, y, a, b: (g / b, -(g * y) / b),
        "{0} / {1}",
    ),
    Operation("neg", 1, lambda xp, a: -a, lambda op, g, y, a: (-g,), "-{0}", cheap=True),
    # comparison and choice
    Operation(
        "greater",  # 1 where a > b, else 0
        2,
        lambda xp, a, b: (a > b).to(a.dtype),
        lambda op, g, y, a, b: (None, None),
        "{0} > {1}",
        cheap=True,
    ),
    Operation(
        "select",  # b where the mask is not 0, else c
        3,
        lambda xp, mask, b, c: xp.where(mask != 0, b, c),
        lambda op, g, y, mask, b, c: (None, op.select(mask, g, 0.0), op.select(mask, 0.0, g)),
        "{0} ? {1} : {2}",
        cheap=True,
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
    ),
    Operation(
        "relu",
        1,
        lambda xp, a: xp.relu(a),
        lambda op, g, y, a: (op.select(op.greater(y, 0.0), g, 0.0),),
        "relu({0})",
    ),
    Operation(
        "abs",  # at 0 the gradient is 0, as in torch
        1,
        lambda xp, a: xp.abs(a),
        lambda op, g, y, a: (op.select(op.greater(a, 0.0), g, op.select(op.greater(0.0, a), -g, 0.0)),),
        "abs({0})",
        cheap=True,
    ),
    # functions
    Operation("tanh", 1, lambda xp, a: xp.tanh(a), lambda op, g, y, a: (g * (1.0 - y * y),), "tanh({0})"),
    Operation(
        "sigmoid",
        1,
        lambda xp, a: xp.sigmoid(a),
        lambda op, g, y, a: (g * (y * (1.0 - y)),),
        "sigmoid({0})",
    ),
    Operation("exp", 1, lambda xp, a: xp.exp(a), lambda op, g, y, a: (g * y,), "exp({0})"),
    Operation("log", 1, lambda xp, a: xp.log(a), lambda op, g, y, a: (g / a,), "log({0})"),
    Operation("sqrt", 1, lambda xp, a: xp.sqrt(a), lambda op, g, y, a: (g * 0.5 / y,), "sqrt({0})"),
    Operation(
        "softplus",  # log(1 + exp(a))
        1,
        lambda xp, a: xp.logaddexp(a, xp.zeros_like(a)),
        lambda op, g, y, a: (g * op.sigmoid(a),),
        "softplus({0})",
    ),
    Operation("sin", 1, lambda xp, a: xp.sin(a), lambda op, g, y, a: (g * op.cos(a),), "sin({0})"),
    Operation("cos", 1, lambda xp, a: xp.cos(a), lambda op, g, y, a: (-(g * op.sin(a)),), "cos({0})"),
    # structure
    Operation(
        "linear",  # the matrix parameter `weight` times the vector
        1,
        lambda xp, a, *, weight: a @ weight.T,
        lambda op, g, y, a, *, weight: (op.linear_transposed(g, weight),),
        "{weight} @ {0}",
        weight_gradient=lambda g, a: (g, a),
        pointwise=False,
    ),
    Operation(
        "linear_transposed",
        1,
        lambda xp, a, *, weight: a @ weight,
        lambda op, g, y, a, *, weight: (op.linear(g, weight),),
        "{weight}.T @ {0}",
        weight_gradient=lambda g, a: (a, g),
        pointwise=False,
    ),
    Operation(
        "slice",
        1,
        lambda xp, a, *, start, width: a[..., start : start + width],
        lambda op, g, y, a, *, start: (Piece(g, start),),
        "{0}[{start}:{stop}]",
        pointwise=False,
        cheap=True,
    ),
    Operation(
        "concat",
        None,
        lambda xp, *values: xp.cat(_rows_alike(xp, values), -1),
        _concat_gradient,
        "concat({*})",
        pointwise=False,
        cheap=True,
    ),
    Operation(
        "expand",  # one element repeated
        1,
        lambda xp, a, *, width: xp.broadcast_to(a, (*a.shape[:-1], width)),
        lambda op, g, y, a: (op.row_sum(g),),
        "expand({0})",
        pointwise=False,
        cheap=True,
    ),
    Operation(
        "row_sum",  # the sum of a vector's elements
        1,
        lambda xp, a: a.sum(-1, keepdim=True),
        lambda op, g, y, a: (op.expand(g, a.width),),
        "row_sum({0})",
        pointwise=False,
    ),
    Operation(
        "row_max",  # the largest of a vector's elements; equal ones share the gradient, as in torch's amax
        1,
        lambda xp, a: a.amax(-1, keepdim=True),
        _row_max_gradient,
        "row_max({0})",
        pointwise=False,
    ),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
# Those that take a vector and give one element.
REDUCTIONS = ("row_sum", "row_max")

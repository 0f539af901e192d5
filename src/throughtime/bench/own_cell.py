"""A user-defined cell that no library has built in, and a hand-written step of it for other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from throughtime.language import affine, cell, parameter, sigmoid, tanh
from throughtime.program.symbols import Symbol


@cell
def peephole_lstm(x: Symbol, h: Symbol, c: Symbol) -> tuple[Symbol, Symbol]:
    """LSTM whose gates see the cell state through a vector of weights (Gers, Schraudolph & Schmidhuber 2002)."""
    i = sigmoid(affine("input", x, h) + parameter("peephole.input") * c)
    f = sigmoid(affine("forget", x, h) + parameter("peephole.forget") * c)
    g = tanh(affine("candidate", x, h))
    c = f * c + i * g
    o = sigmoid(affine("output", x, h) + parameter("peephole.output") * c)
    h = o * tanh(c)
    return h, c


def by_hand(
    w: Mapping[str, Any], from_x: Any, h: Any, c: Any, *, sigmoid: Any, tanh: Any, split: Any
) -> tuple[Any, Any]:
    """Compute one step with another library's operations.

    Args:
        w: the parameters by their names in a layer.
        from_x: `W_x x + b`, `[B, 4 hidden]`, computed for all steps at once.
        h, c: the states `[B, hidden]`.
        sigmoid, tanh: the library's functions.
        split: splits the last axis into four.
    """
    i, f, g, o = split(from_x + h @ w["weight_h_l0"].T)
    i = sigmoid(i + w["peephole_input_l0"] * c)
    f = sigmoid(f + w["peephole_forget_l0"] * c)
    c = f * c + i * tanh(g)
    o = sigmoid(o + w["peephole_output_l0"] * c)
    return o * tanh(c), c

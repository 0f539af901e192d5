"""What a gradient's flow means, in plain words, and what to try."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from throughtime.program.core import Program
from throughtime.sight.gating.analysis import retention_gates
from throughtime.sight.gradients.horizon import Horizon

VANISHES, EXPLODES = "vanishes", "explodes"
SHORT, LARGE = 20, 10.0


class Advice(NamedTuple):
    """What is wrong with a layer's gradient, and what to try.

    Attributes:
        layer: the layer's name.
        kind: "vanishes" or "explodes".
        lag: at which lag 1 % is left, or the gradient is largest.
        text: all of it in plain words.
    """

    layer: str
    kind: str
    lag: int
    text: str

    def __str__(self) -> str:
        return self.text


def advice(layer: str, found: Horizon, program: Program, *, short: int = SHORT, large: float = LARGE) -> Advice | None:
    """What a layer's horizon means for training; None if nothing is wrong.

    Args:
        layer: the layer's name.
        found: its horizon.
        program: its program, which says whether it has gates that keep a state.
        short: a horizon under so many steps is a vanishing gradient, as long as the window is not shorter.
        large: a gradient that is so many times as large at some lag as at lag 0 explodes.
    """
    if found.largest >= large:
        text = (
            f"{layer}: the gradient explodes: {found.largest_lag} steps back it is {found.largest:.3g} times as large "
            "as at the step of the loss. Try "
            + _listed(["to clip it by its norm (clip=1; gradient_clip_val=1 of Lightning's trainer)",
                       "a lower learning rate", "an orthogonal start (init='orthogonal')"])
        )  # fmt: skip
        return Advice(layer, EXPLODES, found.largest_lag, text)
    if found.lag is not None and found.lag < min(short, found.window):
        text = (
            f"{layer}: the gradient vanishes: {found.lag} steps back {found.fraction:.0%} of it is left, so what "
            "happened before that is hardly learned from. Try " + _listed(_against_vanishing(program))
        )
        return Advice(layer, VANISHES, found.lag, text)
    return None


def _against_vanishing(program: Program) -> Iterable[str]:
    kept = retention_gates(program)
    if any(k.gate == "forget" and k.keeps == "gate" for k in kept):
        yield "a larger bias of the forget gate (forget_bias=1 or more)"
    elif kept:
        yield f"a start at which the gate {kept[0].gate!r} keeps more of the state (its bias)"
    else:
        yield "a gated cell (lstm, gru)"
    yield "an orthogonal start (init='orthogonal')"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}." if first else f"{last}."

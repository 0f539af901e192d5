"""Diagnose vanishing and exploding gradients, and suggest remedies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from throughtime.program.core import Program
from throughtime.sight.gating.analysis import retention_gates
from throughtime.sight.gradients.horizon import Horizon

VANISHES, EXPLODES = "vanishes", "explodes"
SHORT, LARGE = 20, 10.0


class Advice(NamedTuple):
    """A diagnosis of a layer's gradient, with suggested remedies.

    Attributes:
        layer: the layer's name.
        kind: "vanishes" or "explodes".
        lag: the lag at which 1% is left, or at which the gradient is largest.
        text: the full message.
    """

    layer: str
    kind: str
    lag: int
    text: str

    def __str__(self) -> str:
        return self.text


def advice(layer: str, found: Horizon, program: Program, *, short: int = SHORT, large: float = LARGE) -> Advice | None:
    """Diagnose a layer's horizon; None if the gradient neither vanishes nor explodes.

    Args:
        layer: the layer's name.
        found: its horizon.
        program: its program, from which its gates are derived.
        short: horizons below this lag are reported as vanishing, unless the window is shorter.
        large: growth by this factor over lag 0 is reported as exploding.
    """
    if found.largest >= large:
        text = (
            f"{layer}: the gradient explodes: {found.largest_lag} steps back it is {found.largest:.3g} times as large "
            "as at the step of the loss. Try "
            + _listed(["clipping it by its norm (clip=1; gradient_clip_val=1 of Lightning's trainer)",
                       "a lower learning rate", "orthogonal initialization (init='orthogonal')"])
        )  # fmt: skip
        return Advice(layer, EXPLODES, found.largest_lag, text)
    if found.lag is not None and found.lag < min(short, found.window):
        text = (
            f"{layer}: the gradient vanishes: {found.lag} steps back {found.fraction:.0%} of it is left, so the "
            "network hardly learns from anything earlier. Try " + _listed(_against_vanishing(program))
        )
        return Advice(layer, VANISHES, found.lag, text)
    return None


def _against_vanishing(program: Program) -> Iterable[str]:
    kept = retention_gates(program)
    if any(k.gate == "forget" and k.keeps == "gate" for k in kept):
        yield "a larger forget-gate bias (forget_bias=1 or more)"
    elif kept:
        yield f"an initial bias with which the gate {kept[0].gate!r} keeps more of the state"
    else:
        yield "a gated cell (lstm, gru)"
    yield "orthogonal initialization (init='orthogonal')"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}." if first else f"{last}."

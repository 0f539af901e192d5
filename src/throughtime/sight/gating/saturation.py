"""What gates do: how often they are shut or open, and how long they keep a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from throughtime.errors import UserError
from throughtime.sight.arrays import Array, as_array

LOW, HIGH = 0.1, 0.9


@dataclass(frozen=True)
class Saturation:
    """How often each unit's gate is shut and how often it is open.

    Attributes:
        low: the fraction of steps at which each unit's gate is under `below`, `[H]`.
        high: the fraction at which it is over `above`, `[H]`.
        below, above: the bounds.
    """

    low: Array
    high: Array
    below: float
    above: float

    def figure(self, title: str = "") -> Any:
        """Each unit as a point, shut to the right and open to the top; a plotly figure."""
        from throughtime.sight.figures import saturation_scatter

        return saturation_scatter(self, title)


def saturation(values: Any, below: float = LOW, above: float = HIGH) -> Saturation:
    """The fraction of steps at which each unit's gate is left- or right-saturated.

    As Karpathy, Johnson & Fei-Fei (2015, arXiv:1506.02078) define it: under 0.1 and over 0.9.

    Args:
        values: a gate's values, from 0 to 1, `[T, B, H]` or `[T, H]`.
        below, above: the bounds.

    Raises:
        UserError: if the values are none of a gate, or the bounds not in order.
    """
    gate = _gate(values)
    if not 0 <= below < above <= 1:
        raise UserError(f"the bounds must be in order between 0 and 1; given {below!r} and {above!r}.")
    return Saturation((gate < below).mean((0, 1)), (gate > above).mean((0, 1)), below, above)


@dataclass(frozen=True)
class Timescale:
    """How long each unit keeps what its state holds, by its gate.

    Attributes:
        mean: the mean over steps and rows of the share of the old state that is kept, `[H]`.
        steps: after how many steps 1/e of it is left, by the geometric mean of that share: -1 / mean(ln kept), `[H]`;
            infinite where the gate is 1 throughout, 0 where it is 0 at some step.
        leak: the same from the arithmetic mean, 1 / (1 - mean), `[H]`: the time constant of a leaky unit.
    """

    mean: Array
    steps: Array
    leak: Array

    def figure(self, title: str = "") -> Any:
        """The units from the shortest timescale to the longest; a plotly figure."""
        from throughtime.sight.figures import timescale_line

        return timescale_line(self, title)


def timescale(values: Any, keeps: str = "gate") -> Timescale:
    """After how many steps a gate has let go of what a state holds.

    Along the state itself, c' = f c + ..., what was in it is multiplied by the gate at each step, so after n steps the
    product of n gates is left of it: exp(-n / tau) with tau = -1 / mean(ln f). Tallec & Ollivier (2018,
    arXiv:1804.11188) read 1 / (1 - f) for a gate that does not change, which is the same for tau well above 1.
    Assumed: nothing comes back by another way, as through the other gates; gates of one step and the next are as one
    would see them drawn from this record.

    Args:
        values: a gate's values, from 0 to 1, `[T, B, H]` or `[T, H]`.
        keeps: `"gate"` if the gate is the share of the old state that is kept, as a forget gate is, and as the update
            gate of our GRU is, h' = (1 - z) n + z h; `"complement"` if one less the gate is, as in
            h' = (1 - z) h + z n. `throughtime.sight.retention_gates` reads it off a cell.

    Raises:
        UserError: if the values are none of a gate.
    """
    gate = _gate(values).astype(np.float64)
    if keeps not in ("gate", "complement"):
        raise UserError(f"keeps is 'gate' or 'complement'; given {keeps!r}.")
    kept = gate if keeps == "gate" else 1 - gate
    mean = kept.mean((0, 1))
    with np.errstate(divide="ignore"):
        return Timescale(mean, 1 / np.abs(np.log(kept).mean((0, 1))), 1 / (1 - mean))


def _gate(values: Any) -> Array:
    gate = as_array(values, "a gate's values", "T B H")
    if gate.min() < 0 or gate.max() > 1:
        raise UserError(
            f"a gate's values are from 0 to 1; given {gate.min():.3g} to {gate.max():.3g}: record the gate's own name "
            "(`forget`), not its pre-activation (`forget.pre`) or a state."
        )
    return gate

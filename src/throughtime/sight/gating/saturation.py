"""Measure gates: how often they are shut or open, and how long they retain a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from throughtime.errors import UserError
from throughtime.sight.arrays import Array, as_array

LOW, HIGH = 0.1, 0.9


@dataclass(frozen=True)
class Saturation:
    """The fractions of steps at which each unit's gate is shut and open.

    Attributes:
        low: the fraction of steps at which each unit's gate is below `below`, `[H]`.
        high: the fraction of steps at which it is above `above`, `[H]`.
        below, above: the bounds.
    """

    low: Array
    high: Array
    below: float
    above: float

    def figure(self, title: str = "") -> Any:
        """Return a plotly figure with a point per unit: x is the fraction of steps shut, y the fraction open."""
        from throughtime.sight.figures import saturation_scatter

        return saturation_scatter(self, title)


def saturation(values: Any, below: float = LOW, above: float = HIGH) -> Saturation:
    """Compute the fraction of steps at which each unit's gate is left- or right-saturated.

    Karpathy, Johnson & Fei-Fei (2015, arXiv:1506.02078) define saturation as below 0.1 and above 0.9.

    Args:
        values: a gate's values, from 0 to 1, `[T, B, H]` or `[T, H]`.
        below, above: the bounds.

    Raises:
        UserError: if the values are not those of a gate, or the bounds are out of order.
    """
    gate = _gate(values)
    if not 0 <= below < above <= 1:
        raise UserError(f"bounds must satisfy 0 <= below < above <= 1, got {below!r} and {above!r}")
    return Saturation((gate < below).mean((0, 1)), (gate > above).mean((0, 1)), below, above)


@dataclass(frozen=True)
class Timescale:
    """The number of steps for which each unit retains its state, according to its gate.

    Attributes:
        mean: the mean over steps and sequences of the fraction of the old state that is kept, `[H]`.
        steps: the number of steps after which 1/e of the state is left, from the geometric mean of that fraction:
            -1 / mean(ln kept), `[H]`; infinite if the gate is always 1, 0 if it is 0 at any step.
        leak: the same from the arithmetic mean, 1 / (1 - mean), `[H]`: the time constant of a leaky unit.
    """

    mean: Array
    steps: Array
    leak: Array

    def figure(self, title: str = "") -> Any:
        """Return a plotly figure of the units, sorted by timescale."""
        from throughtime.sight.figures import timescale_line

        return timescale_line(self, title)


def timescale(values: Any, keeps: str = "gate") -> Timescale:
    """Compute the number of steps over which a gate lets a state decay to 1/e.

    In c' = f c + ..., each step multiplies the old state by the gate, so after n steps the product of n gates is left:
    exp(-n / tau) with tau = -1 / mean(ln f). Tallec & Ollivier (2018, arXiv:1804.11188) use 1 / (1 - f) for a constant
    gate, which agrees for tau well above 1. The estimate assumes that the state does not return along other paths, such
    as the other gates, and that gates at successive steps are independent draws from this record.

    Args:
        values: a gate's values, from 0 to 1, `[T, B, H]` or `[T, H]`.
        keeps: `"gate"` if the gate is the fraction of the old state that is kept, as for a forget gate or our GRU's
            update gate, h' = (1 - z) n + z h; `"complement"` if one minus the gate is, as in h' = (1 - z) h + z n.
            `throughtime.sight.retention_gates` derives it from a cell.

    Raises:
        UserError: if the values are not those of a gate.
    """
    gate = _gate(values).astype(np.float64)
    if keeps not in ("gate", "complement"):
        raise UserError(f"keeps must be 'gate' or 'complement', got {keeps!r}")
    kept = gate if keeps == "gate" else 1 - gate
    mean = kept.mean((0, 1))
    with np.errstate(divide="ignore"):
        return Timescale(mean, 1 / np.abs(np.log(kept).mean((0, 1))), 1 / (1 - mean))


def _gate(values: Any) -> Array:
    gate = as_array(values, "a gate's values", "T B H")
    if gate.min() < 0 or gate.max() > 1:
        raise UserError(
            f"gate values must be from 0 to 1, got {gate.min():.3g} to {gate.max():.3g}: record the gate's own name "
            "(`forget`), not its pre-activation (`forget.pre`) or a state"
        )
    return gate

"""Seeing inside a recurrent network: what its gates do, what its gradients reach, where its states go.

Each function gives arrays, and a figure on request (the extra `report`); each says what it computes, and where the
definition comes from.
"""

from __future__ import annotations

from throughtime.sight.fixed import FixedPoints, fixed_points
from throughtime.sight.flow import Connectivity, Flow, connectivity, gradient_flow
from throughtime.sight.interesting import Interest, interest
from throughtime.sight.matching import Match, Place, match
from throughtime.sight.openness import Saturation, Timescale, saturation, timescale
from throughtime.sight.reach import Horizon, horizon
from throughtime.sight.reading import Keeper, gates, keepers
from throughtime.sight.spectrum import Exponents, lyapunov

__all__ = [
    "Connectivity", "Exponents", "FixedPoints", "Flow", "Horizon", "Interest", "Keeper", "Match", "Place", "Saturation",
    "Timescale", "connectivity", "fixed_points", "gates", "gradient_flow", "horizon", "interest", "keepers", "lyapunov",
    "match", "saturation", "timescale",
]  # fmt: skip

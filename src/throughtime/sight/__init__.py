"""Look inside a recurrent network: gates, gradients and the dynamics of states.

Each function returns arrays and can draw a figure (requires the extra `report`). Its docstring states the definition
and its source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throughtime.sight.comparison import Comparison, Side, compare
from throughtime.sight.dynamics.fixed_points import FixedPoints, fixed_points
from throughtime.sight.dynamics.lyapunov import Exponents, lyapunov
from throughtime.sight.gating.analysis import RetentionGate, gates, retention_gates
from throughtime.sight.gating.saturation import Saturation, Timescale, saturation, timescale
from throughtime.sight.gradients.advice import Advice, advice
from throughtime.sight.gradients.flow import Connectivity, Flow, connectivity, gradient_flow
from throughtime.sight.gradients.horizon import Horizon, horizon
from throughtime.sight.units.interest import Interest, interest
from throughtime.sight.units.matching import Match, Occurrence, match
from throughtime.sight.untrained import untrained_model

if TYPE_CHECKING:
    from throughtime.sight.gradients.callback import GradientWatch

__all__ = [
    "Advice", "Comparison", "Connectivity", "Exponents", "FixedPoints", "Flow", "GradientWatch", "Horizon", "Interest",
    "Match", "Occurrence", "RetentionGate", "Saturation", "Side", "Timescale", "advice", "compare", "connectivity",
    "fixed_points", "gates", "gradient_flow", "horizon", "interest", "lyapunov", "match", "retention_gates",
    "saturation", "timescale", "untrained_model",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "GradientWatch":  # the only name that requires Lightning
        from throughtime.sight.gradients.callback import GradientWatch

        return GradientWatch
    raise AttributeError(f"module 'throughtime.sight' has no attribute {name!r}")

"""The learning rate over the steps."""

from __future__ import annotations

import math
from typing import Any

from throughtime.training.config import TrainingOptions
from throughtime.training.run_config import Plan

_WARM_UP = 0.1  # of all steps, or of the time, for `cosine`
_FIRST = 0.01  # of the peak: the first step's learning rate where the time decides, which is 0 by then


class Schedule:
    """What the learning rate is multiplied by at each step.

    Only `plateau` has a state. The others are functions of the step and, where the time ends the run, of the time
    spent: the learning rate reaches its end when the time does, however fast the machine is.

    Args:
        training: which schedule, its `decay` and `decay_after`.
        plan: how many steps there are, or how much time, and how many steps in an epoch.
    """

    def __init__(self, training: TrainingOptions, plan: Plan) -> None:
        self._kind = training.schedule
        self._decay, self._patience = training.decay_factor, training.decay_patience
        self._plan = plan
        self._best, self._worse, self._factor = math.inf, 0, 1.0

    def factor(self, step: int, seconds: float = 0.0) -> float:
        """The factor of a step.

        Args:
            step: the step, the first being 0.
            seconds: the training time spent before it.
        """
        plan = self._plan
        match self._kind:
            case "cosine" if plan.seconds is not None:
                return plan.peak * _warmed_cosine(plan.share(step, seconds))
            case "cosine":
                assert plan.steps is not None
                at, steps = step - plan.from_step, plan.steps - plan.from_step
                warm_up = max(1, round(_WARM_UP * steps))
                if at < warm_up:
                    return plan.peak * ((at + 1) / warm_up)
                return plan.peak * ((1 + math.cos(math.pi * (at - warm_up) / (steps - warm_up))) / 2)
            case "step":
                return float(self._decay ** max(0, step // plan.epoch_steps + 1 - self._patience))
            case "plateau":
                return self._factor
        return 1.0

    def validated(self, loss: float) -> None:
        """Take note of a validation's loss: `plateau` decays after too many that were no better than the best."""
        if loss < self._best:
            self._best, self._worse = loss, 0
            return
        self._worse += 1
        if self._worse > self._patience:
            self._factor *= self._decay
            self._worse = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"best": self._best, "worse": self._worse, "factor": self._factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._best, self._worse, self._factor = state["best"], state["worse"], state["factor"]


def _warmed_cosine(share: float) -> float:
    """Up in the first tenth, then down to 0 along half a cosine."""
    if share < _WARM_UP:
        return max(_FIRST, share / _WARM_UP)
    return (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2

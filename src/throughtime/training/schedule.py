"""The learning rate over the steps."""

from __future__ import annotations

import math
from typing import Any

from throughtime.training.config import TrainingOptions
from throughtime.training.record import Plan

_WARM_UP = 0.1  # of all steps, for `cosine`


class Schedule:
    """What the learning rate is multiplied by at each step.

    Only `plateau` has a state; the others are functions of the step.

    Args:
        training: which schedule, its `decay` and `decay_after`.
        plan: how many steps there are, and how many in an epoch.
    """

    def __init__(self, training: TrainingOptions, plan: Plan) -> None:
        self._kind = training.schedule
        self._decay, self._patience = training.decay_factor, training.decay_patience
        self._steps, self._epoch_steps = plan.steps, plan.epoch_steps
        self._best, self._worse, self._factor = math.inf, 0, 1.0

    def factor(self, step: int) -> float:
        """The factor of a step, the first being 0."""
        match self._kind:
            case "cosine":
                warm_up = max(1, round(_WARM_UP * self._steps))
                if step < warm_up:
                    return (step + 1) / warm_up
                return (1 + math.cos(math.pi * (step - warm_up) / (self._steps - warm_up))) / 2
            case "step":
                return float(self._decay ** max(0, step // self._epoch_steps + 1 - self._patience))
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

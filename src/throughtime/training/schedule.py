"""Learning rate schedules."""

from __future__ import annotations

import math
from typing import Any

from throughtime.training.config import TrainingOptions
from throughtime.training.run_config import Plan

_WARM_UP = 0.1  # the warm-up of `cosine` as a fraction of all steps, or of the time
_FIRST = 0.01  # the minimum factor during a warm-up by time, which would otherwise start at 0


class Schedule:
    """The learning rate schedule, as a factor of `lr` for each step.

    Only `plateau` has a state. The others depend on the step or, if time ends the run, on the elapsed time: the
    schedule is then complete when the time is up, however fast the machine is.

    Args:
        training: the training options, with the schedule, `decay` and `decay_after`.
        plan: the plan, with the number of steps or the time, and the steps per epoch.
    """

    def __init__(self, training: TrainingOptions, plan: Plan) -> None:
        self._kind = training.schedule
        self._decay, self._patience = training.decay_factor, training.decay_patience
        self._plan = plan
        self._best, self._worse, self._factor = math.inf, 0, 1.0

    def factor(self, step: int, seconds: float = 0.0) -> float:
        """Return the factor of a step.

        Args:
            step: the step, counted from 0.
            seconds: the training time in seconds before the step.
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
        """Record a validation loss; `plateau` decays after too many validations without improvement."""
        if loss < self._best:
            self._best, self._worse = loss, 0
            return
        self._worse += 1
        if self._worse > self._patience:
            self._factor *= self._decay
            self._worse = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {"best": self._best, "worse": self._worse, "factor": self._factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        self._best, self._worse, self._factor = state["best"], state["worse"], state["factor"]


def _warmed_cosine(share: float) -> float:
    """Return the factor at a fraction of the schedule: linear warm-up, then half a cosine down to 0."""
    if share < _WARM_UP:
        return max(_FIRST, share / _WARM_UP)
    return (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2

"""The learning rate over the steps."""

import math
from itertools import pairwise

import pytest

from throughtime.training.config import TrainingOptions
from throughtime.training.record import Plan
from throughtime.training.schedule import Schedule


def schedule(steps=1000, epoch_steps=100, **options):
    plan = Plan(steps=steps, epoch_steps=epoch_steps, batch=1, validate_every=1, validate_terms=1, evaluate_terms=1)
    return Schedule(TrainingOptions(**options), plan)


def test_constant_stays():
    assert {schedule(schedule="constant").factor(step) for step in range(1000)} == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_cosine_goes_up_once_and_then_down_to_nothing(steps):
    factors = [schedule(steps, schedule="cosine").factor(step) for step in range(steps)]
    top = factors.index(max(factors))
    assert max(factors) == 1
    assert top <= max(1, steps // 10)
    assert all(0 < a < b for a, b in pairwise(factors[: top + 1]))
    assert all(a >= b > 0 for a, b in pairwise(factors[top:]))
    assert steps < 1000 or factors[-1] < 1e-4


def test_step_decays_each_epoch_after_some():
    factors = schedule(schedule="step", decay=0.5, decay_after=3)
    by_epoch = [{factors.factor(step) for step in range(100 * e, 100 * e + 100)} for e in range(6)]
    assert by_epoch == [{1.0}, {1.0}, {1.0}, {0.5}, {0.25}, {0.125}]


def test_plateau_decays_where_validation_is_no_better():
    plateau = schedule(schedule="plateau", decay=0.1, decay_after=1)
    factors = []
    for loss in (3.0, 2.0, 2.0, 2.5, 1.9, 2.0, 2.0, 2.0):
        plateau.validated(loss)
        factors.append(plateau.factor(0))
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_goes_on_from_its_state():
    one, other = schedule(schedule="plateau"), schedule(schedule="plateau")
    for loss in (3.0, math.inf, 4.0):
        one.validated(loss)
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.validated(5.0)
    assert one.state_dict() == other.state_dict()
    assert one.factor(0) == 0.5

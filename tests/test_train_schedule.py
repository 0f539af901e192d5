"""Learning rate schedules."""

import math
from itertools import pairwise

import pytest

from throughtime.training.config import TrainingOptions
from throughtime.training.run_config import Plan
from throughtime.training.schedule import Schedule


def schedule(steps=1000, epoch_steps=100, **options):
    return Schedule(TrainingOptions(**options), plan(steps, epoch_steps))


def plan(steps=1000, epoch_steps=100, **more):
    return Plan(
        steps=steps, expected_steps=1000, epoch_steps=epoch_steps, batch=1, validate_every=1, validate_terms=1,
        evaluate_terms=1, losses=1, **more,
    )  # fmt: skip


def test_constant_keeps_the_learning_rate():
    assert {schedule(schedule="constant").factor(step) for step in range(1000)} == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_cosine_warms_up_and_decays_to_zero(steps):
    factors = [schedule(steps, schedule="cosine").factor(step) for step in range(steps)]
    top = factors.index(max(factors))
    assert max(factors) == 1
    assert top <= max(1, steps // 10)
    assert all(0 < a < b for a, b in pairwise(factors[: top + 1]))
    assert all(a >= b > 0 for a, b in pairwise(factors[top:]))
    assert steps < 1000 or factors[-1] < 1e-4


def test_step_decays_every_epoch_after_a_delay():
    factors = schedule(schedule="step", decay=0.5, decay_after=3)
    by_epoch = [{factors.factor(step) for step in range(100 * e, 100 * e + 100)} for e in range(6)]
    assert by_epoch == [{1.0}, {1.0}, {1.0}, {0.5}, {0.25}, {0.125}]


def test_plateau_decays_when_validation_stops_improving():
    plateau = schedule(schedule="plateau", decay=0.1, decay_after=1)
    factors = []
    for loss in (3.0, 2.0, 2.0, 2.5, 1.9, 2.0, 2.0, 2.0):
        plateau.validated(loss)
        factors.append(plateau.factor(0))
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_resumes_from_its_state():
    one, other = schedule(schedule="plateau"), schedule(schedule="plateau")
    for loss in (3.0, math.inf, 4.0):
        one.validated(loss)
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.validated(5.0)
    assert one.state_dict() == other.state_dict()
    assert one.factor(0) == 0.5


@pytest.mark.parametrize("seconds", [0.0, 10.0, 99.9])
def test_with_a_time_budget_the_step_is_ignored(seconds):
    timed = Schedule(TrainingOptions(), plan(None, seconds=100.0))
    assert timed.factor(3, seconds) == timed.factor(30_000, seconds)


def test_the_schedule_by_time_matches_the_schedule_by_steps():
    timed, stepped = Schedule(TrainingOptions(), plan(None, seconds=1000.0)), schedule(1000)
    # Warm-up by steps counts the current step; warm-up by time counts only the time before it.
    for step in range(0, 1000, 7):
        assert timed.factor(0, step) == pytest.approx(stepped.factor(step), abs=0.011)


def test_the_schedule_follows_whichever_end_is_nearer():
    both = Schedule(TrainingOptions(), plan(1000, seconds=100.0))
    assert both.factor(500, 10.0) == both.factor(100, 50.0) < both.factor(100, 10.0) == 1


@pytest.mark.parametrize("more", [{"steps": 2000}, {"steps": None, "seconds": 2000.0, "from_seconds": 1000.0}])
def test_a_finished_run_warms_up_again_to_a_fraction_of_the_peak(more):
    again = Schedule(TrainingOptions(), plan(**{"from_step": 1000, "peak": 0.3, **more}))
    factors = [again.factor(step, float(step)) for step in range(1000, 2000)]
    assert factors[0] <= 0.01
    assert max(factors) == factors[100] == 0.3
    assert factors[-1] < 1e-5

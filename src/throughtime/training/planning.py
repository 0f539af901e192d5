"""Plan a training run: the number of steps, and how often and on how much data to validate."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from throughtime.errors import RunError, TrainingError, UserError
from throughtime.nn.forms import State
from throughtime.nn.sequence_model import SequenceModel, detached
from throughtime.paths import display_path
from throughtime.runs import Run
from throughtime.sight.gradients.sampling import LOSSES, followed, reach_of
from throughtime.spelling import counted, duration, setting
from throughtime.tasks.base import Data, Task
from throughtime.training.building import device_for
from throughtime.training.config import TrainConfig, TrainingOptions
from throughtime.training.evaluation import OnDevice, total
from throughtime.training.optimizers import clipped_norm, make_optimizer
from throughtime.training.run_config import Plan

_VALIDATION_SHARE = 0.05  # the fraction of the training time that validations take
_FORWARD_SHARE = 1 / 3  # the fraction of a training step's time that the forward pass takes
_MAX_VALIDATIONS, _MIN_VALIDATIONS = 100, 20
_MIN_VALIDATED = 2000  # terms; fewer would be too noisy
_NEARLY_ALL = 0.95  # a validation that would read a larger fraction of the data reads all of them
_LOOP = 1e-4  # the overhead of the loop per step in seconds, in addition to the measured time
_TIMED_LOSSES = 5
_MEASURED_STEPS, _MEASURED_SECONDS, _MEASURED_SHARE = 60, 2.0, 1 / 60  # the share is a fraction of the budget
# Time is reserved for three things after training: the evaluation, the measurement of the gradients' reach, and the
# rest: loading and writing files (_REST seconds of CPU time) and drawing samples (the time of _REST_STEPS steps).
_RESERVED = 0.09  # the fraction of the budget to reserve
_EVALUATION_SHARE = 0.6  # the evaluation's fraction of the reserved time without the rest
_FEWEST_EVALUATED, _FEWEST_LOSSES = 1000, 8
_REST, _REST_STEPS, _MAX_REST = 1.2, 8, 0.2  # _MAX_REST is a fraction of the budget
_SAFETY = 1.2
_MIN_BUDGET = 1.5  # relative to the time for everything except training, which varies from run to run
_FURTHER_PEAK = 0.3  # the peak learning rate, relative to `lr`, when a finished run is trained further


@dataclass(frozen=True)
class Throughput:
    """The measured speed of this machine.

    Attributes:
        step: seconds per training step.
        term: seconds per evaluated loss term, at the batch size of the evaluation at the end.
        stream: seconds to read one of the sequences on which the gradients' reach is measured.
        loss: seconds to follow one loss back through time.
        waiting: the ratio of wall time to this thread's CPU time, which is above 1 if other processes compete.
    """

    step: float
    term: float
    stream: float = 0.0
    loss: float = 0.0
    waiting: float = 1.0

    def reach(self, streams: int, losses: int) -> float:
        """Return the seconds needed to measure how far gradients reach; at most one sequence per loss is read."""
        return min(streams, losses) * self.stream + losses * self.loss


def make_plan(
    task: Task[Any],
    data: Data[Any],
    config: TrainConfig,
    model: SequenceModel,
    started: float,
    clock: Callable[[], float] = time.monotonic,
    *,
    report: bool = True,
) -> Plan:
    """Plan a training run.

    Args:
        task: the task.
        data: the data.
        config: the configuration.
        model: the network to be trained; it and torch's generators are left unchanged.
        started: the start of the time budget, by the clock.
        clock: a function that returns the time in seconds.
        report: whether an evaluation and a report follow the training, for which time is reserved.

    Raises:
        DataError: if there is too little training data for a batch.
        TrainingError: if a time budget is too short for a single step.
    """
    training = config.training
    batch = task.fitting_batch(data, training.batch, training.processes)
    batches = task.batches(data.train, batch)
    epoch_steps = len(batches)
    ends = [] if training.steps is None else [training.steps]
    if training.epochs is not None:
        ends.append(math.ceil(training.epochs * epoch_steps))
    steps = min(ends, default=None)
    expected = ends
    held_out = [task.reading(part).terms for part in (data.valid, data.test) if part is not None]
    evaluated, losses, seconds, reserve = task.max_evaluated, LOSSES, None, 0.0
    if training.minutes is not None:
        speed = _measured(task, data, training, model, batch, report)
        budget = 60 * training.minutes
        if report:
            evaluated, losses, reserve = _after_training(task, data, speed, budget, held_out)
        elif _reads_in(task, "calibrate"):
            evaluated, reserve = _calibration(task, speed, budget, held_out[0])
        before = clock() - started
        seconds = max(0.0, budget - reserve - before)
        if report and seconds < speed.step:
            least = math.ceil(_MIN_BUDGET * (before + reserve + speed.step) / 60 * 10) / 10
            asked, enough = (setting("minutes", f"{minutes:g}") for minutes in (training.minutes, least))
            raise TrainingError(
                f"{asked} leaves no time to train: {duration(before)} were needed before the first step, and "
                f"{duration(reserve)} are reserved for the report; use at least {enough}"
            )
        expected = [*ends, max(1, int(seconds / (1 + _VALIDATION_SHARE) / speed.step))]
    validate_every = _interval(min(expected), epoch_steps)
    affordable = _VALIDATION_SHARE / _FORWARD_SHARE * validate_every * batches.terms / epoch_steps
    validated = max(_MIN_VALIDATED, math.ceil(affordable))
    return Plan(
        steps=steps,
        expected_steps=min(expected),
        epoch_steps=epoch_steps,
        batch=batch,
        validate_every=validate_every,
        validate_terms=validated if validated < _NEARLY_ALL * held_out[0] else held_out[0],
        evaluate_terms=evaluated,
        losses=losses,
        seconds=seconds,
        reserve=reserve,
    )


def later_end(
    run: Run, *, steps: int | None = None, epochs: float | None = None, minutes: float | None = None
) -> tuple[TrainConfig, Plan]:
    """Plan a later end for a run; the rest of its plan is kept.

    For a finished run, whose learning rate had decayed to almost nothing, the rate warms up again to a fraction of
    `lr` and decays once more.

    Args:
        run: the run.
        steps: the new end, in steps counted from the run's first step.
        epochs: the new end in epochs.
        minutes: the new end in minutes of training.

    Raises:
        TrainingError: if a value is out of range, or the run has already trained that long.
    """
    given = {"steps": steps, "epochs": epochs, "minutes": minutes}
    config = TrainConfig.of(**{**run.config.given, **given})
    done = max((int(row["step"] or 0) for row in run.metrics()), default=0)
    took = max((row["time"] or 0.0 for row in run.metrics()), default=0.0)
    ends, seconds = [] if steps is None else [steps], None
    if epochs is not None:
        ends.append(math.ceil(epochs * run.plan.epoch_steps))
    expected = list(ends)
    if minutes is not None:
        seconds = max(0.0, 60 * minutes - run.plan.reserve)
        expected.append(max(1, int(done / took * seconds)) if took else run.plan.expected_steps)
    if min(ends, default=done + 1) <= done or (seconds is not None and seconds <= took):
        so_far = f"{counted(done, 'step')} ({done / run.plan.epoch_steps:.3g} epochs, {took / 60:.2f} minutes)"
        asked = ", ".join(setting(name, f"{value:g}") for name, value in given.items() if value is not None)
        raise TrainingError(
            f"{display_path(run.path)} has already trained for {so_far}, so {asked} is not a later end; steps, epochs "
            "and minutes count from the run's first step"
        )
    update: dict[str, Any] = {
        "steps": min(ends, default=None), "seconds": seconds, "expected_steps": min(expected), "validate_at": None
    }  # fmt: skip
    if run.finished:
        update |= {"from_step": done, "from_seconds": took, "peak": _FURTHER_PEAK}
    return config, run.plan.model_copy(update=update)


def replay_of(run: Run, out: str | Path | None = None) -> tuple[TrainConfig, Plan]:
    """Plan a run that repeats another run's steps, validating after the same steps.

    Args:
        run: the run to replay.
        out: the directory of the new run; named by date by default.

    Raises:
        RunError: if the run has no steps yet.
    """
    steps = len(run.rates())
    if not steps:
        raise RunError(f"{display_path(run.path)} has no steps yet, so it can't be replayed")
    config = TrainConfig.of(**{**run.config.given, "epochs": None, "minutes": None, "steps": steps, "out": out})
    validated = (int(row["step"] or 0) for row in run.metrics() if row["valid_loss"] is not None)
    update = {
        "steps": steps, "expected_steps": steps, "seconds": None, "from_step": 0, "from_seconds": 0.0, "peak": 1.0,
        "validate_at": tuple(step for step in validated if step <= steps),
    }  # fmt: skip
    return config, run.plan.model_copy(update=update)


def _interval(steps: int, epoch_steps: int) -> int:
    """Return the validation interval in steps: whole epochs if they are short, else a fraction of the run."""
    often, seldom = math.ceil(steps / _MAX_VALIDATIONS), math.ceil(steps / _MIN_VALIDATIONS)
    if epoch_steps <= 2 * seldom:
        return epoch_steps * math.ceil(often / epoch_steps)
    return seldom


def _after_training(
    task: Task[Any], data: Data[Any], speed: Throughput, budget: float, held_out: Sequence[int]
) -> tuple[int, int, float]:
    """Plan the evaluation and the report after training.

    Args:
        task: the task.
        data: the data.
        speed: the measured speed.
        budget: the whole time in seconds.
        held_out: the number of loss terms of each held-out part, the validation part first.

    Returns:
        The number of loss terms to evaluate in each part, the number of losses to follow back through time, and the
        number of seconds to reserve.
    """
    rest = min(_REST * speed.waiting + _REST_STEPS * speed.step, _MAX_REST * budget)
    left = max(0.0, _RESERVED * budget - rest) / _SAFETY
    parts = list(held_out) * (1 + _reads_in(task, "extra_figures"))
    parts += [held_out[0]] * (task.reads_again + _reads_in(task, "calibrate"))
    share = _EVALUATION_SHARE if task.shows_reach else 1.0
    evaluated = min(task.max_evaluated, max(_FEWEST_EVALUATED, int(share * left / len(parts) / speed.term)))
    taken, losses = speed.term * sum(min(terms, evaluated) for terms in parts), LOSSES
    if task.shows_reach:
        streams = len(followed(task, data.valid))
        while losses > _FEWEST_LOSSES and 2 * speed.reach(streams, losses) > max(left - taken, (1 - share) * left):
            losses -= 1
        taken += 2 * speed.reach(streams, losses)  # before and after training
    return evaluated, losses, rest + min(_SAFETY * taken, max(0.0, _RESERVED * budget - rest))


def _calibration(task: Task[Any], speed: Throughput, budget: float, held_out: int) -> tuple[int, float]:
    """Return the number of loss terms for calibrating predictions, and the number of seconds to reserve for it."""
    affordable = int(_RESERVED * budget / _SAFETY / speed.term)
    terms = min(task.max_evaluated, max(_FEWEST_EVALUATED, affordable))
    return terms, min(_RESERVED * budget, _SAFETY * speed.term * min(terms, held_out))


def _reads_in(task: Task[Any], method: str) -> bool:
    """Return whether a task overrides an optional method that runs the network on held-out data."""
    return getattr(type(task), method) is not getattr(Task, method)


def _measured(
    task: Task[Any], data: Data[Any], training: TrainingOptions, model: SequenceModel, batch: int, report: bool
) -> Throughput:
    """Briefly train and evaluate a copy of the model to measure its speed."""
    limit = min(_MEASURED_SECONDS, (training.minutes or 1) * 60 * _MEASURED_SHARE)
    wall, processor = time.monotonic(), time.thread_time()
    step = step_seconds(task, data, training, model, batch, limit)
    waiting = (time.monotonic() - wall) / max(1e-3, time.thread_time() - processor)
    with torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(model).to(device_for(training))
        total(copied, task.reading(data.valid, terms=9))
        before = time.monotonic()
        found = total(copied, task.reading(data.valid, terms=1 + int(300 * min(1.0, limit))))
        term = (time.monotonic() - before) / found.terms
        stream, loss = (0.0, 0.0)
        if report and task.shows_reach:
            stream, loss = _reach_speed(copied.cpu(), task, data)  # the report runs on the CPU
    return Throughput(step, term, stream, loss, max(1.0, waiting))


def _reach_speed(model: SequenceModel, task: Task[Any], data: Data[Any]) -> tuple[float, float]:
    """Measure the seconds to run a sequence, and the seconds to backpropagate each of its losses."""
    (sequence, *_) = followed(task, data.valid)
    times = {}
    for losses in (1, 1, _TIMED_LOSSES):  # the first call also derives the gradient's programs
        before = time.monotonic()
        with suppress(UserError):  # if the loss doesn't depend on the layers, the report omits the reach
            reach_of(model, [sequence], losses=losses)
        times[losses] = time.monotonic() - before
    loss = max(0.0, times[_TIMED_LOSSES] - times[1]) / (_TIMED_LOSSES - 1)
    return (times[1], loss) if model.per_step else (times[1], 0.0)


def step_seconds(
    task: Task[Any],
    data: Data[Any],
    training: TrainingOptions,
    model: SequenceModel,
    batch: int,
    limit: float,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Measure the time of a training step on a copy of a model; the model and torch's generators are left unchanged.

    Args:
        task: the task.
        data: the data.
        training: the training options.
        model: the network.
        batch: the batch size.
        limit: the number of seconds to measure for; at least three steps are taken.
        clock: a function that returns the time in seconds.

    Returns:
        The mean time of several steps in seconds. The median would be too optimistic if other processes compete.
    """
    device = device_for(training)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copied = copy.deepcopy(model).to(device).train()
        optimizer = make_optimizer(training, copied)
        batches = task.batches(data.train, batch, rank=0, ranks=training.processes)
        state: State | None = None
        times: list[float] = []
        began = clock()
        while len(times) < _MEASURED_STEPS and (len(times) < 3 or clock() - began < limit):
            before = clock()
            given = batches.batch(len(times))
            on = OnDevice.of(given, device, torch.float32)
            carried = state if given.carry else None
            loss, state = copied.loss(
                on.inputs, on.targets, carried, lengths=on.lengths, weights=on.weights, branches=on.branches
            )
            (loss / given.terms).backward()  # type: ignore[no-untyped-call]
            clipped_norm(copied, training.clip).item()
            optimizer.step()
            optimizer.zero_grad()
            state = detached(state)
            times.append(clock() - before)
        return fmean(times[len(times) // 3 :]) + _LOOP

"""What is settled before the first step: how many steps, and how often to validate on how much."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from throughtime.errors import RunError, TrainingError
from throughtime.nn.forms import State
from throughtime.nn.sequence_model import SequenceModel, detached
from throughtime.paths import display_path
from throughtime.runs import Run
from throughtime.spelling import setting
from throughtime.tasks.base import Data, Task
from throughtime.training.building import device_for
from throughtime.training.config import TrainConfig, TrainingOptions
from throughtime.training.evaluation import OnDevice, total
from throughtime.training.optimizers import clipped_norm, make_optimizer
from throughtime.training.run_config import Plan

_VALIDATION_SHARE = 0.05  # of the training time
_FORWARD_SHARE = 1 / 3  # what predicting takes of a training step's time
_MOST_VALIDATIONS, _LEAST_VALIDATIONS = 100, 20
_LEAST_VALIDATED = 2000  # terms; fewer say nothing
_LOOP = 1e-4  # seconds that the loop takes of a step, besides what is measured
_MEASURED_STEPS, _MEASURED_SECONDS, _MEASURED_SHARE = 60, 2.0, 1 / 60  # the last of the budget
_EVALUATION_SHARE = 0.04  # of the time, for the figures at the end
_REPORT, _REPORT_STEPS = 2.0, 8  # what the report takes: seconds of a processor, and the time of training steps
_MOST_RESERVED = 0.08  # of the time: the rest is for training
_AGAIN = 0.3  # of `lr`: to what share of it the rate warms up where a finished run is trained further


@dataclass(frozen=True)
class Throughput:
    """How fast this machine is.

    Attributes:
        step: seconds of a training step.
        term: seconds for evaluating a term, in the batches that the figures at the end are measured by.
        waiting: by how much the time is longer than this thread's time on a processor, beside other processes.
    """

    step: float
    term: float
    waiting: float = 1.0


def make_plan(
    task: Task[Any],
    data: Data[Any],
    config: TrainConfig,
    model: SequenceModel,
    started: float,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Settles what a training will do.

    Args:
        task: what is learned.
        data: from what.
        config: what was asked.
        model: as it will be trained; it is left as it was, and so are torch's generators.
        started: when the training's minutes began, by the clock.
        clock: tells the time in seconds.

    Raises:
        DataError: the training data are too few for a batch.
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
    evaluated, seconds, reserve = task.most_evaluated, None, 0.0
    if training.minutes is not None:
        speed = _measured(task, data, training, model, batch)
        budget = 60 * training.minutes
        evaluated = min(evaluated, max(1000, int(budget * _EVALUATION_SHARE / len(held_out) / speed.term)))
        reserve = 1.2 * sum(min(terms, evaluated) for terms in held_out) * speed.term
        reserve = min(reserve + _REPORT * speed.waiting + _REPORT_STEPS * speed.step, _MOST_RESERVED * budget)
        seconds = max(0.0, budget - reserve - (clock() - started))
        expected = [*ends, max(1, int(seconds / (1 + _VALIDATION_SHARE) / speed.step))]
    validate_every = _interval(min(expected), epoch_steps)
    affordable = _VALIDATION_SHARE / _FORWARD_SHARE * validate_every * batches.terms / epoch_steps
    return Plan(
        steps=steps,
        expected_steps=min(expected),
        epoch_steps=epoch_steps,
        batch=batch,
        validate_every=validate_every,
        validate_terms=min(held_out[0], max(_LEAST_VALIDATED, math.ceil(affordable))),
        evaluate_terms=evaluated,
        seconds=seconds,
        reserve=reserve,
    )


def later_end(
    run: Run, *, steps: int | None = None, epochs: float | None = None, minutes: float | None = None
) -> tuple[TrainConfig, Plan]:
    """Settles a later end for a run; the rest of its plan stays.

    The learning rate of a run that had finished, which had come down to almost nothing, warms up again to a share of
    `lr` and comes down once more.

    Args:
        run: the run.
        steps: the new end, in steps from the run's first.
        epochs: the same in times through the data.
        minutes: the same in training time.

    Raises:
        TrainingError: a value is out of range, or the run has already trained as far.
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
        asked = ", ".join(setting(name, f"{value:g}") for name, value in given.items() if value is not None)
        raise TrainingError(
            f"{display_path(run.path)} has already trained {done:,} steps ({took / 60:.2f} minutes), and {asked} ends "
            "no later; steps, epochs and minutes count from the run's first step"
        )
    update: dict[str, Any] = {
        "steps": min(ends, default=None), "seconds": seconds, "expected_steps": min(expected), "validate_at": None
    }  # fmt: skip
    if run.finished:
        update |= {"from_step": done, "from_seconds": took, "peak": _AGAIN}
    return config, run.plan.model_copy(update=update)


def replay_of(run: Run, out: str | Path | None = None) -> tuple[TrainConfig, Plan]:
    """Settle a run that takes another run's steps again: as many, validated after the same ones.

    Args:
        run: the run to replay.
        out: the directory of the new run; chosen by date if not given.

    Raises:
        RunError: the run has taken no step.
    """
    steps = len(run.rates())
    if not steps:
        raise RunError(f"{display_path(run.path)} has taken no step yet, so it cannot be replayed")
    config = TrainConfig.of(**{**run.config.given, "epochs": None, "minutes": None, "steps": steps, "out": out})
    validated = (int(row["step"] or 0) for row in run.metrics() if row["valid_loss"] is not None)
    update = {
        "steps": steps, "expected_steps": steps, "seconds": None, "from_step": 0, "from_seconds": 0.0, "peak": 1.0,
        "validate_at": tuple(step for step in validated if step <= steps),
    }  # fmt: skip
    return config, run.plan.model_copy(update=update)


def _interval(steps: int, epoch_steps: int) -> int:
    """Steps from a validation to the next: whole epochs where they are short, a share of the run where not."""
    often, seldom = math.ceil(steps / _MOST_VALIDATIONS), math.ceil(steps / _LEAST_VALIDATIONS)
    if epoch_steps <= 2 * seldom:
        return epoch_steps * math.ceil(often / epoch_steps)
    return seldom


def _measured(
    task: Task[Any], data: Data[Any], training: TrainingOptions, model: SequenceModel, batch: int
) -> Throughput:
    """Trains and evaluates a copy of the model for a moment."""
    limit = min(_MEASURED_SECONDS, (training.minutes or 1) * 60 * _MEASURED_SHARE)
    wall, processor = time.monotonic(), time.thread_time()
    step = step_seconds(task, data, training, model, batch, limit)
    waiting = (time.monotonic() - wall) / max(1e-3, time.thread_time() - processor)
    with torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(model).to(device_for(training))
        total(copied, task.reading(data.valid, terms=9))
        before = time.monotonic()
        found = total(copied, task.reading(data.valid, terms=1 + int(300 * min(1.0, limit))))
        return Throughput(step, (time.monotonic() - before) / found.terms, max(1.0, waiting))


def step_seconds(
    task: Task[Any],
    data: Data[Any],
    training: TrainingOptions,
    model: SequenceModel,
    batch: int,
    limit: float,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Measure a training step of a copy of a model; the model and torch's generators are left as they were.

    Args:
        task: what is learned.
        data: from what.
        training: how.
        model: the network.
        batch: rows of a batch.
        limit: seconds to measure for; at least three steps are taken.
        clock: tells the time in seconds.

    Returns:
        Seconds, the mean of several steps: beside other processes the median would promise too much.
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
            loss, state = copied.loss(on.inputs, on.targets, carried, lengths=on.lengths, weights=on.weights)
            (loss / given.terms).backward()  # type: ignore[no-untyped-call]
            clipped_norm(copied, training.clip).item()
            optimizer.step()
            optimizer.zero_grad()
            state = detached(state)
            times.append(clock() - before)
        return fmean(times[len(times) // 3 :]) + _LOOP

"""What is settled before the first step: how many steps, and how often to validate on how much."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from throughtime.errors import TrainingError
from throughtime.nn.recurrent import State
from throughtime.nn.sequence_model import SequenceModel, detached
from throughtime.paths import display_path
from throughtime.runs import Run
from throughtime.spelling import setting
from throughtime.tasks.base import Data, Task
from throughtime.training.building import device_for
from throughtime.training.config import TrainConfig, TrainingOptions
from throughtime.training.evaluation import OnDevice, total
from throughtime.training.optimizers import clipped_norm, make_optimizer
from throughtime.training.record import Plan

_VALIDATION_SHARE = 0.05  # of the training time
_FORWARD_SHARE = 1 / 3  # what predicting takes of a training step's time
_MOST_VALIDATIONS, _LEAST_VALIDATIONS = 100, 20
_LEAST_VALIDATED = 2000  # terms; fewer say nothing
_LOOP = 1e-4  # seconds that the loop takes of a step, besides what is measured
_MEASURED_STEPS, _MEASURED_SECONDS = 60, 3.0
_MARGIN = 0.90  # of the time left is planned for: a machine is not always as fast as when it was measured
_MARGIN_SHARED = 0.60  # likewise for several processes, whose exchange of gradients is not measured
_LATEST = 0.95  # of the time left is when training ends, come what may: measuring may take longer than it did


@dataclass(frozen=True)
class Throughput:
    """How fast this machine is.

    Attributes:
        step: seconds of a training step.
        term: seconds for evaluating a term, in the batches that the figures at the end are measured by.
    """

    step: float
    term: float


def make_plan(task: Task[Any], data: Data[Any], config: TrainConfig, model: SequenceModel, started: float) -> Plan:
    """Settles what a training will do.

    Args:
        task: what is learned.
        data: from what.
        config: what was asked.
        model: as it will be trained; it is left as it was, and so are torch's generators.
        started: when the training's minutes began, by `time.monotonic`.

    Raises:
        DataError: the training data are too few for a batch.
    """
    training = config.training
    batch = task.fitting_batch(data, training.batch, training.processes)
    batches = task.batches(data.train, batch)
    epoch_steps = len(batches)
    wanted = [] if training.steps is None else [training.steps]
    if training.epochs is not None:
        wanted.append(math.ceil(training.epochs * epoch_steps))
    held_out = [task.reading(part).terms for part in (data.valid, data.test) if part is not None]
    evaluated, seconds = task.most_evaluated, None
    if training.minutes is not None:
        speed = _measured(task, data, training, model, batch)
        left = 60 * training.minutes - (time.monotonic() - started)
        evaluated = min(evaluated, max(1000, int(left * 0.15 / len(held_out) / speed.term)))
        left -= sum(min(terms, evaluated) for terms in held_out) * speed.term * 1.2
        margin = _MARGIN if training.processes == 1 else _MARGIN_SHARED
        wanted.append(max(1, int(left * margin / (1 + _VALIDATION_SHARE) / speed.step)))
        seconds = max(0.0, _LATEST * left)
    steps = min(wanted)
    validate_every = _interval(steps, epoch_steps)
    affordable = _VALIDATION_SHARE / _FORWARD_SHARE * validate_every * batches.terms / epoch_steps
    return Plan(
        steps=steps,
        epoch_steps=epoch_steps,
        batch=batch,
        validate_every=validate_every,
        validate_terms=min(held_out[0], max(_LEAST_VALIDATED, math.ceil(affordable))),
        evaluate_terms=evaluated,
        seconds=seconds,
    )


def later_end(
    run: Run, *, steps: int | None = None, epochs: float | None = None, minutes: float | None = None
) -> tuple[TrainConfig, Plan]:
    """Settles a later end for a run; all else of its plan stays.

    Args:
        run: the run.
        steps: the new end, in steps from the run's first.
        epochs: the same in times through the data.
        minutes: the same in training time; how many steps fit is estimated from the steps already trained.

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
    if minutes is not None:
        seconds = 60 * minutes
        ends.append(int(done / took * seconds) if took else run.plan.steps)
    end = min(ends)
    if end <= done:
        asked = ", ".join(setting(name, f"{value:g}") for name, value in given.items() if value is not None)
        raise TrainingError(
            f"{display_path(run.path)} has already trained {done:,} steps ({took / 60:.2f} minutes), and {asked} ends "
            "no later; steps, epochs and minutes count from the run's first step"
        )
    return config, run.plan.model_copy(update={"steps": end, "seconds": seconds})


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
    device = device_for(training)
    limit = min(_MEASURED_SECONDS, 60 * (training.minutes or 1) / 20)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copied = copy.deepcopy(model).to(device).train()
        optimizer = make_optimizer(training, copied)
        batches = task.batches(data.train, batch, rank=0, ranks=training.processes)
        state: State | None = None
        times: list[float] = []
        began = time.monotonic()
        while len(times) < _MEASURED_STEPS and (len(times) < 3 or time.monotonic() - began < limit):
            before = time.monotonic()
            given = batches.batch(len(times))
            on = OnDevice.of(given, device, torch.float32)
            carried = state if given.carry else None
            loss, state = copied.loss(on.inputs, on.targets, carried, lengths=on.lengths, weights=on.weights)
            (loss / given.terms).backward()  # type: ignore[no-untyped-call]
            clipped_norm(copied, training.clip).item()
            optimizer.step()
            optimizer.zero_grad()
            state = detached(state)
            times.append(time.monotonic() - before)
        settled = times[len(times) // 3 :]
        total(copied, task.reading(data.valid, terms=9))
        before = time.monotonic()
        found = total(copied, task.reading(data.valid, terms=1 + int(300 * min(1.0, limit))))
        return Throughput(sum(settled) / len(settled) + _LOOP, (time.monotonic() - before) / found.terms)

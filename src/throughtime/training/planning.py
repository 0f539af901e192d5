"""What is settled before the first step: how many steps, and how often to validate on how much."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import torch

from throughtime.data import Corpus, Part, Streams, fitting_batch
from throughtime.errors import TrainingError
from throughtime.nn.language_model import LanguageModel, detached
from throughtime.paths import display_path
from throughtime.runs import Run
from throughtime.spelling import setting
from throughtime.training.building import device_for
from throughtime.training.config import TrainConfig
from throughtime.training.evaluation import total_loss
from throughtime.training.optimizers import clipped_norm, make_optimizer
from throughtime.training.record import Plan

_VALIDATION_SHARE = 0.05  # of the training time
_FORWARD_SHARE = 1 / 3  # what predicting takes of a training step's time
_MOST_VALIDATIONS, _LEAST_VALIDATIONS = 100, 20
_LEAST_VALIDATED = 2000  # symbols; fewer say nothing
_EVALUATED = 1_000_000  # symbols of a held-out text that the figures at the end are of, at most
_LOOP = 1e-3  # seconds that the loop takes of a step, besides what is measured
_MEASURED_STEPS, _MEASURED_SECONDS = 60, 3.0
_MARGIN = 0.90  # of the time left is planned for: a machine is not always as fast as when it was measured
_MARGIN_SHARED = 0.60  # likewise for several processes, whose exchange of gradients is not measured
_LATEST = 0.95  # of the time left is when training ends, come what may: measuring may take longer than it did


@dataclass(frozen=True)
class Throughput:
    """How fast this machine is.

    Attributes:
        step: seconds of a training step.
        symbol: seconds for evaluating a symbol, in one stream.
    """

    step: float
    symbol: float


def make_plan(config: TrainConfig, corpus: Corpus, model: LanguageModel, started: float) -> Plan:
    """Settle what a run will do.

    Args:
        config: what was asked.
        corpus: the data.
        model: as it will be trained; it is left as it was, and so are torch's generators.
        started: when the run's minutes began, by `time.monotonic`.

    Raises:
        DataError: the training text is shorter than a window.
    """
    batch = fitting_batch(corpus.train.symbols, config.batch, config.window, config.processes)
    epoch_steps = len(Streams(corpus.train.ids, batch, config.window))
    wanted = [] if config.steps is None else [config.steps]
    if config.epochs is not None:
        wanted.append(math.ceil(config.epochs * epoch_steps))
    evaluated, seconds = _EVALUATED, None
    if config.minutes is not None:
        speed = _measured(config, corpus, model, batch)
        left = 60 * config.minutes - (time.monotonic() - started)
        held_out = [part.symbols - 1 for part in (corpus.valid, corpus.test) if part is not None]
        evaluated = min(evaluated, max(1000, int(left * 0.15 / len(held_out) / speed.symbol)))
        left -= sum(min(symbols, evaluated) for symbols in held_out) * speed.symbol * 1.2
        margin = _MARGIN if config.processes == 1 else _MARGIN_SHARED
        wanted.append(max(1, int(left * margin / (1 + _VALIDATION_SHARE) / speed.step)))
        seconds = max(0.0, _LATEST * left)
    steps = min(wanted)
    validate_every = _interval(steps, epoch_steps)
    affordable = _VALIDATION_SHARE / _FORWARD_SHARE * validate_every * batch * config.window
    return Plan(
        steps=steps,
        epoch_steps=epoch_steps,
        batch=batch,
        validate_every=validate_every,
        validate_symbols=min(corpus.valid.symbols, max(_LEAST_VALIDATED, math.ceil(affordable))),
        evaluate_symbols=evaluated,
        seconds=seconds,
    )


def later_end(
    run: Run, *, steps: int | None = None, epochs: float | None = None, minutes: float | None = None
) -> tuple[TrainConfig, Plan]:
    """Settle a later end for a run; all else of its plan stays.

    Args:
        run: the run.
        steps: the new end, in steps from the run's first.
        epochs: the same in times through the data.
        minutes: the same in training time; how many steps fit is estimated from the steps already trained.

    Raises:
        TrainingError: a value is out of range, or the run has already trained as far.
    """
    given = {"steps": steps, "epochs": epochs, "minutes": minutes}
    fields = run.config.model_dump(exclude_unset=True, exclude=set(given))
    config = TrainConfig.of(**fields, **given)
    done = max((int(row["step"] or 0) for row in run.metrics()), default=0)
    took = max((row["time"] or 0.0 for row in run.metrics()), default=0.0)
    ends, seconds = [] if config.steps is None else [config.steps], None
    if config.epochs is not None:
        ends.append(math.ceil(config.epochs * run.plan.epoch_steps))
    if config.minutes is not None:
        seconds = 60 * config.minutes
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


def validation_streams(part: Part, plan: Plan, window: int, rank: int = 0, ranks: int = 1) -> Streams:
    """A validation text in parallel streams, which is quick and approximate: each stream begins without a past.

    A text that is too short for the processes to share is read whole by each.
    """
    ids = part.ids[: plan.validate_symbols]
    batch = max(1, min(plan.batch, (len(ids) - 1) // window))
    if batch < ranks:
        return Streams(ids, 1, window)
    return Streams(ids, batch // ranks * ranks, window, rank, ranks)


def _measured(config: TrainConfig, corpus: Corpus, model: LanguageModel, batch: int) -> Throughput:
    """Train and evaluate a copy of the model for a moment."""
    device = device_for(config)
    limit = min(_MEASURED_SECONDS, 60 * (config.minutes or 1) / 20)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copied = copy.deepcopy(model).to(device).train()
        optimizer = make_optimizer(config, copied)
        streams = Streams(corpus.train.ids, batch, config.window, 0, config.processes)
        state = None
        times: list[float] = []
        began = time.monotonic()
        while len(times) < _MEASURED_STEPS and (len(times) < 3 or time.monotonic() - began < limit):
            before = time.monotonic()
            symbols, targets = (torch.from_numpy(a).to(device) for a in streams[len(times) % len(streams)])
            loss, state = copied.loss(symbols, targets, state)
            (loss / targets.numel()).backward()  # type: ignore[no-untyped-call]
            clipped_norm(copied, config.clip).item()
            optimizer.step()
            optimizer.zero_grad()
            state = detached(state)
            times.append(time.monotonic() - before)
        settled = times[len(times) // 3 :]
        ids = corpus.valid.ids[: 2 + int(300 * min(1.0, limit))]
        total_loss(copied, Streams(ids[:10], 1, 10))
        before = time.monotonic()
        _, symbols_done = total_loss(copied, Streams(ids, 1, 500))
        return Throughput(sum(settled) / len(settled) + _LOOP, (time.monotonic() - before) / symbols_done)

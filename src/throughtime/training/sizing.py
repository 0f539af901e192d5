"""Choose a network size and a number of threads that suit a time budget on this machine.

The size is the largest of 64, 128, 192, 256, 384 and 512 units, up to the task's default size, for which the budget
allows 8 training steps per unit on this machine (1,024 steps for 128 units) and which has at most 8 parameters per
token or step of the training data. Dropout is reduced in proportion. Each size is timed with one thread and with all
threads, and the faster setting is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from throughtime.spelling import setting
from throughtime.tasks.base import Data, Interface
from throughtime.training.building import build_model, device_for
from throughtime.training.config import TrainConfig
from throughtime.training.planning import step_seconds
from throughtime.training.start import Start

SIZES = (64, 128, 192, 256, 384, 512)
STEPS_PER_UNIT = 8
MAX_PARAMETERS = 8  # per token or step of the training data
_TRIAL_SHARE = 1 / 200  # the fraction of the budget to time one size with one number of threads
_CLEARLY = 0.9  # all threads are used if their time is below this fraction of one thread's


@dataclass(frozen=True)
class Fitted:
    """A configuration fitted to a time budget.

    Attributes:
        config: the configuration.
        why: sentences that explain the choices.
    """

    config: TrainConfig
    why: list[str]


def fitted(start: Start, data: Data[Any], interface: Interface, clock: Callable[[], float] = time.monotonic) -> Fitted:
    """Choose the options that a run with a time budget leaves open.

    Args:
        start: the starting point of the run; options that the user set are kept.
        data: the data.
        interface: the network's inputs and outputs.
        clock: a function that returns the time in seconds.

    Returns:
        The configuration, unchanged without a budget. Torch's number of threads is set to the chosen one; its
        generators are left unchanged.
    """
    config = start.config
    minutes = config.training.minutes
    if minutes is None:
        return Fitted(config, [])
    sizes = [config.network.hidden_size]
    if start.run is None and not {"hidden_size", "embed"} & set(start.given):
        sizes = [size for size in SIZES if size < config.network.hidden_size] + sizes
    counts = [torch.get_num_threads()]
    timed = config.training.threads is None and config.training.processes == 1 and counts[0] > 1
    if timed and device_for(config.training).type == "cpu":
        counts = [1, *counts]
    if len(sizes) == len(counts) == 1:
        return Fitted(config, [])
    trials = _Trials(start, data, interface, counts, 60 * minutes, clock)
    chosen = trials.of(sizes[0])
    for size in sizes[1:]:
        tried = trials.of(size)
        if tried.seconds * STEPS_PER_UNIT * size > 60 * minutes or tried.parameters > MAX_PARAMETERS * trials.data_size:
            break
        chosen = tried
    torch.set_num_threads(chosen.threads)
    why = []
    if len(sizes) > 1:
        network = chosen.config.network
        why.append(
            f"{setting('hidden_size', network.hidden_size)} and {setting('dropout', f'{network.dropout:g}')}: chosen "
            f"for {minutes:g} min on this machine and the amount of data"
        )
    training = chosen.config.training
    if len(counts) > 1:
        training = training.model_copy(update={"threads": chosen.threads})
        other = sum(counts) - chosen.threads
        why.append(f"{setting('threads', chosen.threads)}: faster than {other} on this machine at the moment")
    return Fitted(chosen.config.model_copy(update={"training": training}), why)


@dataclass(frozen=True)
class _Tried:
    config: TrainConfig
    seconds: float
    threads: int
    parameters: int


class _Trials:
    """Times training steps for several network sizes."""

    def __init__(
        self,
        start: Start,
        data: Data[Any],
        interface: Interface,
        counts: list[int],
        budget: float,
        clock: Callable[[], float],
    ) -> None:
        training = start.config.training
        task = start.task
        self._start, self._task, self._data, self._interface = start, task, data, interface
        self._counts, self._limit, self._clock = counts, budget * _TRIAL_SHARE, clock
        self._batch = task.fitting_batch(data, training.batch, training.processes)
        batches = task.batches(data.train, self._batch)
        first = batches.batch(0).inputs
        self.data_size = int(first.shape[0] * first.shape[1] * len(batches))

    def of(self, size: int) -> _Tried:
        """Time a size with each number of threads and return the faster."""
        config = self._start.config
        if size != config.network.hidden_size:
            update: dict[str, Any] = {"hidden_size": size}
            if "dropout" not in self._start.given:
                update["dropout"] = round(config.network.dropout * size / config.network.hidden_size, 2)
            config = config.model_copy(update={"network": config.network.model_copy(update=update)})
        with torch.random.fork_rng(devices=[]):
            programs = replace(self._start, config=config).programs(self._interface)
            model = build_model(config.network, programs, self._interface, config.training.engine)
        found = {}
        before = torch.get_num_threads()
        for count in self._counts:
            torch.set_num_threads(count)
            found[count] = step_seconds(
                self._task, self._data, config.training, model, self._batch, self._limit, self._clock
            )
        torch.set_num_threads(before)
        one, most = self._counts[0], self._counts[-1]
        threads = most if found[most] < _CLEARLY * found[one] or one == most else one
        return _Tried(config, found[threads], threads, sum(p.numel() for p in model.parameters()))

"""Times all who take a case in turn, in one process, and compares what they computed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import STREAMING, Case
from throughtime.bench.contestant import Contestant, Ready, Results, missing
from throughtime.bench.contestants import CONTESTANTS
from throughtime.bench.memory import peak_memory
from throughtime.bench.quiet import Look, Quiet, quiet
from throughtime.errors import UserError

_ROUNDS = 3  # at least
_PATIENCE = 40  # times as long before rounds count in which others took the processors, who come and go in minutes
_MOST_ROUNDS = 15  # at least that many before they do
_TURN = 0.02  # seconds of one turn, and more where a call takes longer
_WARM = 0.002  # seconds before a turn that are not counted: caches and threads get going
_REST = 0.003  # seconds between turns, in which the threads of the one before stop spinning


@dataclass(frozen=True)
class Time:
    """What one contestant took for a case.

    Attributes:
        contestant: its name.
        seconds: the median, of a call, or of a step where single steps are run.
        ratio: the median, over the rounds, of its time as a multiple of the first contestant's in the same round.
        error: how far its results are from torch's, as a share of the largest element of an array; None if it
            computes something else.
        memory: the bytes that a call took at its peak besides what it was given and returned; None if not measured.
    """

    contestant: str
    seconds: float
    ratio: float
    error: float | None
    memory: int | None = None


@dataclass(frozen=True)
class Measurement:
    """A case's times, and the memory where it is measured.

    Attributes:
        case: what was measured.
        times: of each contestant, ours first.
        peak: FLOP a second that the processor did in the same rounds without touching memory.
        rounds: how many turns each had that count.
        left_out: how many do not, as others took the processors meanwhile.
        disturbed: how many of those that count were such rounds all the same, where there were too few others.
    """

    case: Case
    times: Sequence[Time]
    peak: float
    rounds: int
    left_out: int = 0
    disturbed: int = 0

    @property
    def rate(self) -> float:
        """Our FLOP a second."""
        return self.case.flops / (self.times[0].seconds * _repeats(self.case))

    @property
    def wrong(self) -> list[str]:
        """Those whose results are further from torch's than the case's bound."""
        return [t.contestant for t in self.times if t.error is not None and not t.error <= self.case.bound]


def measure_all(
    cases: Iterable[Case], *, seconds: float, threads: int, begin: Callable[[Case], None] = lambda case: None
) -> list[Measurement]:
    """Measures cases, each with `threads` processors and no more; `begin` is told of each.

    Raises:
        UserError: if there is no native engine to be measured.
    """
    if missing(("throughtime._native",)):
        raise UserError("the native engine's extension module is not built, and there is nothing to measure.")
    measurements = []
    with processors(threads):
        for case in cases:
            if not any(contestant.is_ours for contestant in present(case)):
                continue
            begin(case)
            measurements.append(measure(case, seconds=seconds, threads=threads))
    return measurements


def measure(case: Case, *, seconds: float = 1.0, threads: int = 1) -> Measurement:
    """Times a case, and compares the results of all who take it.

    Args:
        case: what to measure.
        seconds: for how long; longer where a call is slow.
        threads: how many threads each may use, but for single steps.
    """
    threads = 1 if case.mode == STREAMING else threads  # one step of one row is no work for two
    arguments = Arguments.of(case)
    names, entries, results, memory = [], [], [], []
    with torch_threads(threads):
        for contestant in present(case):
            ready = contestant.prepare(case, arguments, threads)
            names.append(contestant.name)
            entries.append(ready)
            results.append(_results(ready))
            memory.append(peak_memory(contestant, case, threads) if case.weighs else None)
        found = in_turn([turn_of(entry) for entry in entries], seconds, quiet(threads))
    wanted = next(of for of, name in zip(results, names, strict=True) if name.startswith("torch"))
    assert wanted is not None
    errors = [None if of is None else error(of, wanted) for of in results]
    taken = list(zip(*found.times, strict=True))
    times = [
        Time(name, median(own) / _repeats(case), median(a / b for a, b in zip(own, taken[0], strict=True)), off, took)
        for name, own, off, took in zip(names, taken, errors, memory, strict=True)
    ]
    peak = median(look.peak for look in found.looks)
    return Measurement(case, times, peak, len(found.times), found.left_out, found.disturbed)


def present(case: Case) -> list[Contestant]:
    """Those who take a case and whose packages are there."""
    return [c for c in CONTESTANTS if c.takes(case) and missing(c.packages) is None]


def absent(cases: Sequence[Case]) -> dict[str, str]:
    """Those who would take one of the cases but can't, and why."""
    reasons = {c.name: missing(c.packages) for c in CONTESTANTS if any(map(c.takes, cases))}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def error(found: Results, wanted: Results) -> float:
    """The largest difference between two results, as a share of the largest element of the array where it is."""
    if found.keys() != wanted.keys():
        raise ValueError(f"results {', '.join(found)} can't be compared with {', '.join(wanted)}")
    # NumPy's maximum passes NaN on, Python's does not.
    return float(np.max([np.abs(found[name] - array).max() / np.abs(array).max() for name, array in wanted.items()]))


@contextmanager
def processors(number: int) -> Iterator[None]:
    """Gives the process as many processors, so that all who take part have the same."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Gives torch, and the native engine with it, as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _repeats(case: Case) -> int:
    """What one call is counted as: its steps where these are what is measured."""
    return case.steps if case.mode == STREAMING else 1


def _results(ready: Ready) -> Results | None:
    given = ready.call()
    return None if ready.results is None else ready.results(given)


def turn_of(ready: Ready) -> Callable[[], float]:
    """Makes the seconds of a call, the median of those of one turn."""

    def turn() -> float:
        time.sleep(_REST)
        if said is not None:
            return said(ready.call())
        if slow > _TURN:
            return _timed(ready.call)
        start = time.perf_counter()
        while time.perf_counter() - start < _WARM:
            ready.call()
        taken: list[float] = []
        while sum(taken) < _TURN:
            taken.append(_timed(ready.call))
        return median(taken)

    said = ready.seconds
    slow = 0.0 if said is not None else _timed(ready.call)
    return turn


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Rounds:
    """What turns gave.

    Attributes:
        times: of each round that counts, what each turn gave.
        looks: how the processors did after each of these.
        left_out: how many rounds do not count, as others took the processors meanwhile.
        disturbed: how many of those that count were such rounds all the same.
    """

    times: Sequence[Sequence[float]]
    looks: Sequence[Look]
    left_out: int = 0
    disturbed: int = 0


def in_turn(turns: Sequence[Callable[[], float]], seconds: float, judge: Quiet) -> Rounds:
    """Takes turns, round by round, for so many seconds; for longer where others take the processors.

    Where these are not left alone for long enough, all rounds count.
    """
    times: list[list[float]] = []
    looks = [judge.look()]
    start = time.perf_counter()
    while True:
        times.append([turn() for turn in turns])
        looks.append(judge.look())
        passed = time.perf_counter() - start
        held = [judge.held(look) for look in looks]
        alone = [k for k in range(len(times)) if held[k] and held[k + 1]]
        others = len(times) - len(alone)
        if len(alone) >= _ROUNDS and passed >= seconds:
            return Rounds([times[k] for k in alone], [looks[k + 1] for k in alone], left_out=others)
        if len(alone) < _ROUNDS and passed >= _PATIENCE * seconds and len(times) >= _MOST_ROUNDS:
            return Rounds(times, looks[1:], disturbed=others)

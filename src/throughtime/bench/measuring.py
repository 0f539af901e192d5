"""Time all contestants of a case in turn, in one process, and compare their results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
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

_MIN_ROUNDS = 3
_PATIENCE = 40  # accept disturbed rounds after this multiple of `seconds`; disturbances last minutes
_MIN_DISTURBED_ROUNDS = 15  # required before disturbed rounds are accepted
_TURN = 0.02  # seconds per turn; more if a call takes longer
_WARM = 0.002  # untimed seconds before a turn, to warm caches and wake threads
_REST = 0.003  # seconds between turns, while the previous contestant's threads stop spinning


@dataclass(frozen=True)
class Time:
    """A contestant's time for a case.

    Attributes:
        contestant: its name.
        seconds: the median time per call, or per step where single steps are run.
        ratio: the median over rounds of its time divided by the first contestant's in the same round.
        error: the largest deviation from torch's results, relative to the largest element of the array; None if the
            results can't be compared.
        memory: the peak memory of a call in bytes, excluding inputs and results; None if not measured.
    """

    contestant: str
    seconds: float
    ratio: float
    error: float | None
    memory: int | None = None


@dataclass(frozen=True)
class Measurement:
    """A case's times, and its memory where measured.

    Attributes:
        case: the case.
        times: one per contestant, ours first.
        peak: the processor's peak arithmetic rate in the same rounds, in FLOP/s.
        rounds: the number of rounds that count.
        left_out: the number of rounds excluded because other processes disturbed them.
        disturbed: the number of disturbed rounds that count because there were too few others.
    """

    case: Case
    times: Sequence[Time]
    peak: float
    rounds: int
    left_out: int = 0
    disturbed: int = 0

    @property
    def rate(self) -> float:
        """Our rate in FLOP/s."""
        return self.case.flops / (self.times[0].seconds * _repeats(self.case))

    @property
    def wrong(self) -> list[str]:
        """Contestants whose results deviate from torch's by more than the case's bound."""
        return [t.contestant for t in self.times if t.error is not None and not t.error <= self.case.bound]


def measure_all(
    cases: Sequence[Case],
    *,
    seconds: float,
    threads: int,
    begin: Callable[[Case], None] = lambda case: None,
    until: float | None = None,
) -> list[Measurement]:
    """Measure cases, each with exactly `threads` processors.

    Args:
        cases: the cases.
        seconds: the minimum time per case; longer if a call is slow or other processes disturb it.
        threads: the number of processors, and of threads per contestant.
        begin: called before each case.
        until: the time, by `time.perf_counter`, after which no further case is measured. Until then, the cases share
            the time.

    Returns:
        One measurement per case, in the same order. Cases for which no time was left are omitted.

    Raises:
        UserError: if the native engine is not available.
    """
    if missing(("throughtime._native",)):
        raise UserError("the native engine is not built, so there is nothing to measure")
    measurements = []
    with processors(threads):
        for done, case in enumerate(cases):
            if not any(contestant.is_ours for contestant in present(case)):
                continue
            left = None if until is None else until - time.perf_counter()
            if left is not None and left <= 0:
                break
            begin(case)
            patience = None if left is None else left / (len(cases) - done)
            measurements.append(measure(case, seconds=seconds, threads=threads, patience=patience))
    return measurements


def measure(case: Case, *, seconds: float = 1.0, threads: int = 1, patience: float | None = None) -> Measurement:
    """Time a case and compare the results of all its contestants.

    Args:
        case: the case.
        seconds: the minimum duration; longer if a call is slow.
        threads: the number of threads per contestant, except for single steps.
        patience: see `in_turn`.
    """
    threads = 1 if case.mode == STREAMING else threads  # one step of one sequence is too little work for two
    arguments = Arguments.of(case)
    names, entries, results, memory = [], [], [], []
    with torch_threads(threads):
        for contestant in present(case):
            ready = contestant.prepare(case, arguments, threads)
            names.append(contestant.name)
            entries.append(ready)
            results.append(_results(ready))
            memory.append(peak_memory(contestant, case, threads) if case.measures_memory else None)
        found = in_turn([turn_of(entry) for entry in entries], seconds, quiet(threads), patience)
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
    """Return the contestants that support a case and whose packages are installed."""
    return [c for c in CONTESTANTS if c.takes(case) and missing(c.packages) is None]


def absent(cases: Sequence[Case]) -> dict[str, str]:
    """Return the contestants that support one of the cases but can't run, with the reasons."""
    reasons = {c.name: missing(c.packages) for c in CONTESTANTS if any(map(c.takes, cases))}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def error(found: Results, wanted: Results) -> float:
    """Return the largest difference between two results, relative to the largest element of each array."""
    if found.keys() != wanted.keys():
        raise ValueError(f"results {', '.join(found)} can't be compared with {', '.join(wanted)}")
    # NumPy's maximum propagates NaN; Python's does not.
    return float(np.max([np.abs(found[name] - array).max() / np.abs(array).max() for name, array in wanted.items()]))


@contextmanager
def processors(number: int) -> Iterator[None]:
    """Restrict the process to a number of processors, so that all contestants use the same ones."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set the number of threads for torch, and with it for the native engine."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _repeats(case: Case) -> int:
    """Return the number by which to divide a call's time: the number of steps for single steps, otherwise 1."""
    return case.steps if case.mode == STREAMING else 1


def _results(ready: Ready) -> Results | None:
    given = ready.call()
    return None if ready.results is None else ready.results(given)


def turn_of(ready: Ready) -> Callable[[], float]:
    """Return a function that takes one turn and returns the median seconds per call."""

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
    """The results of several rounds.

    Attributes:
        times: the turns' times for each round that counts.
        looks: the processors' state after each of these rounds.
        left_out: the number of rounds excluded because other processes disturbed them.
        disturbed: the number of disturbed rounds that count anyway.
    """

    times: Sequence[Sequence[float]]
    looks: Sequence[Look]
    left_out: int = 0
    disturbed: int = 0


def in_turn(
    turns: Sequence[Callable[[], float]], seconds: float, judge: Quiet, patience: float | None = None
) -> Rounds:
    """Take turns round by round for the given time, or longer if other processes disturb them.

    Args:
        turns: functions that take one turn each and return the seconds per call.
        seconds: the minimum time.
        judge: detects disturbances.
        patience: the time in seconds after which disturbed rounds count too, if there are too few others; 40 times
            `seconds`, and at least 15 rounds, by default.
    """
    min_seconds, min_rounds = (
        (_PATIENCE * seconds, _MIN_DISTURBED_ROUNDS) if patience is None else (patience, _MIN_ROUNDS)
    )
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
        if len(alone) >= _MIN_ROUNDS and passed >= seconds:
            return Rounds([times[k] for k in alone], [looks[k + 1] for k in alone], left_out=others)
        if len(alone) < _MIN_ROUNDS and passed >= min_seconds and len(times) >= min_rounds:
            return Rounds(times, looks[1:], disturbed=others)

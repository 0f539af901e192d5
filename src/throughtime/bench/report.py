"""What was measured, as figures for a program and as tables for a reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import Any

from throughtime.bench.cases import MODES, STREAMING, Case
from throughtime.bench.contestants import CONTESTANTS
from throughtime.bench.machine import Machine
from throughtime.bench.measuring import Measurement
from throughtime.markdown import table

_OURS = {c.name for c in CONTESTANTS if c.is_ours}
FASTEST = "the fastest of them"
PEAK = "the processor's peak"
_HOW = ". All who can take part come with `pip install 'throughtime[bench]'`."
_READING = (
    "Float32; one layer of one direction, the input as wide as the layer, its product included; 100 steps, where no "
    "other number is said. Times are medians of runs in turn; a ratio is the median over the rounds, and above 1 where "
    "ours is quicker. GFLOP/s counts the matrix products alone. All results were compared with torch's."
)
# Where the matrix products are large enough for the processor's arithmetic to be the limit.
_LARGE_BATCH, _LARGE_HIDDEN = 32, 256


@dataclass(frozen=True)
class Summary:
    """Several shapes of one cell in one figure.

    Attributes:
        mode, cell: what was measured.
        beside: a contestant, `FASTEST` of those that are not ours in each shape, or `PEAK`.
        shapes: how many.
        mean: the geometric mean of its time in ours; for `PEAK` of our share of it.
        least: the smallest of these.
        at: where that was.
    """

    mode: str
    cell: str
    beside: str
    shapes: int
    mean: float
    least: float
    at: str


@dataclass(frozen=True)
class Report:
    """All that was measured in one run.

    Attributes:
        machine: on which.
        threads: that each contestant might use.
        seconds: for which each case was measured at least.
        measurements: the cases.
        absent: who was not there, and why.
    """

    machine: Machine
    threads: int
    seconds: float
    measurements: Sequence[Measurement]
    absent: Mapping[str, str]

    @property
    def wrong(self) -> list[str]:
        """Contestants whose results were off, with the case."""
        return [f"{name} in {m.case.name}" for m in self.measurements for name in m.wrong]

    @property
    def summaries(self) -> list[Summary]:
        """Each cell's shapes in one figure beside each contestant."""
        groups: dict[tuple[str, str], list[Measurement]] = {}
        for m in self.measurements:
            groups.setdefault((m.case.mode, m.case.cell), []).append(m)
        return [summary for group in groups.values() for summary in _summaries(group)]

    def data(self) -> dict[str, Any]:
        """The figures: times in seconds, rates in FLOP a second."""
        return {
            "machine": asdict(self.machine),
            "threads": self.threads,
            "seconds": self.seconds,
            "absent": dict(self.absent),
            "summaries": [asdict(s) for s in self.summaries],
            "cases": [_case_data(m) for m in self.measurements],
        }

    def markdown(self) -> str:
        """The tables."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# Speed"
        yield ""
        yield f"Measured by `throughtime bench` on {self.machine}."
        yield ""
        yield f"{self._threads()} {_READING}"
        yield ""
        if self.absent:
            yield "Not here: " + ", ".join(f"{name} ({reason})" for name, reason in self.absent.items()) + _HOW
            yield ""
        if self.wrong:
            yield "**Wrong results:** " + ", ".join(self.wrong) + "."
            yield ""
        yield from self._summary_lines()
        for mode, title in MODES.items():
            for built_in in (True, False):
                group = [m for m in self.measurements if m.case.mode == mode and m.case.is_built_in == built_in]
                if group:
                    yield f"## {title}{'' if built_in else ', of a cell of the user’s own'}"
                    yield ""
                    yield from table(_detail(group))

    def _threads(self) -> str:
        peaks = [m.peak for m in self.measurements if m.case.mode != STREAMING]
        reach = f", which multiply and add {median(peaks) / 1e9:.0f} GFLOP a second at most" if peaks else ""
        many = f"{self.threads} threads" if self.threads > 1 else "one thread"
        return f"Everyone may use {many}{reach}; for single steps one."

    def _summary_lines(self) -> Iterator[str]:
        ratios = [s for s in self.summaries if s.beside != PEAK]
        shares = [s for s in self.summaries if s.beside == PEAK]
        yield "## In short: how many times as fast"
        yield ""
        head = ["mode", "cell", "beside", "shapes", "geometric mean", "least", "at"]
        rows = [[s.mode, s.cell, s.beside, str(s.shapes), f"{s.mean:.2f}", f"{s.least:.2f}", s.at] for s in ratios]
        yield from table([head, *rows])
        if shares:
            yield f"Share of the peak, at batch {_LARGE_BATCH} or more and hidden {_LARGE_HIDDEN} or more:"
            yield ""
            head = ["mode", "cell", "shapes", "geometric mean", "least", "at"]
            rows = [[s.mode, s.cell, str(s.shapes), f"{s.mean:.0%}", f"{s.least:.0%}", s.at] for s in shares]
            yield from table([head, *rows])


def _summaries(group: Sequence[Measurement]) -> Iterator[Summary]:
    names = list(dict.fromkeys(t.contestant for m in group for t in m.times[1:]))
    others = [name for name in names if name not in _OURS]
    for name in names:
        yield _summary(name, ((m.case, t.ratio) for m in group for t in m.times if t.contestant == name))
    if len(others) > 1:
        yield _summary(FASTEST, ((m.case, min(t.ratio for t in m.times if t.contestant in others)) for m in group))
    large = [m for m in group if m.case.batch >= _LARGE_BATCH and m.case.hidden >= _LARGE_HIDDEN]
    if large:
        yield _summary(PEAK, ((m.case, m.rate / m.peak) for m in large))


def _summary(beside: str, found: Iterable[tuple[Case, float]]) -> Summary:
    figures = list(found)
    at, least = min(figures, key=lambda figure: figure[1])
    mean = geometric_mean(figure for _, figure in figures)
    return Summary(at.mode, at.cell, beside, len(figures), mean, least, f"batch {at.batch}, hidden {at.hidden}")


def _detail(group: Sequence[Measurement]) -> list[list[str]]:
    others = list(dict.fromkeys(t.contestant for m in group for t in m.times[1:]))
    unit, scale = ("µs", 1e6) if group[0].case.mode == STREAMING else ("ms", 1e3)
    head = ["cell", "batch", "hidden", f"throughtime {unit}", "GFLOP/s", "of peak"]
    rows = [head + [column for name in others for column in (f"{name} {unit}", "ratio")]]
    for m in group:
        case, times = m.case, {t.contestant: t for t in m.times}
        row = [case.cell, str(case.batch), str(case.hidden), f"{m.times[0].seconds * scale:.3f}"]
        row += [f"{m.rate / 1e9:.1f}", f"{m.rate / m.peak:.0%}"]
        for name in others:
            row += [f"{times[name].seconds * scale:.3f}", f"{times[name].ratio:.2f}"] if name in times else ["", ""]
        rows.append(row)
    return rows


def _case_data(m: Measurement) -> dict[str, Any]:
    return {
        "name": m.case.name,
        **asdict(m.case),
        "flops": m.case.flops,
        "bound": m.case.bound,
        "rounds": m.rounds,
        "rate": m.rate,
        "peak": m.peak,
        "times": [asdict(t) for t in m.times],
    }

"""What was measured, as figures for a program and as tables for a reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import Any

from throughtime.bench.cases import MODES, STREAMING, Case
from throughtime.bench.contestants import CONTESTANTS
from throughtime.bench.machine import Machine
from throughtime.bench.measuring import Measurement, Time
from throughtime.bench.quiet import LEAST_PEAK, MOST_HANDOVER
from throughtime.tables import markdown_table

_OURS = {c.name for c in CONTESTANTS if c.is_ours}
FASTEST = "the fastest of them"
PEAK = "the processor's peak"
TIME, MEMORY, RATE = "time", "memory", "rate"
_HOW = ". All who can take part come with `pip install 'throughtime[bench]'`."
_READING = (
    "Float32; one layer of one direction, the input as wide as the layer, its product included. Times are medians "
    "of runs in turn; a ratio is the median over the rounds, and above 1 where ours is quicker. GFLOP/s counts the "
    "matrix products alone. MB are what a call takes at its peak besides what it is given and returns, in a process of "
    "its own. All results were compared with torch's. "
    "Forward runs are of a frozen layer, whose weights are ready, as in a session of ONNX Runtime; `throughtime "
    "thawed` makes them ready at every call."
)
_TAKEN = (
    f"before or after which the processors multiplied and added less than {LEAST_PEAK:.0%} of their best, or took "
    f"{MOST_HANDOVER:g} times as long or more to see what the other had written, as where a host gives them to others"
)
# Where the matrix products are large enough for the processor's arithmetic to be the limit.
_LARGE_BATCH, _LARGE_HIDDEN = 32, 256
# What the tables in short say, and how each writes its figures.
_SHORT = {
    TIME: ("## In short: how many times as fast", "{:.2f}"),
    MEMORY: ("How many times less memory:", "{:.1f}"),
    RATE: (f"Share of the peak, at batch {_LARGE_BATCH} or more and hidden {_LARGE_HIDDEN} or more:", "{:.0%}"),
}


@dataclass(frozen=True)
class Summary:
    """Several shapes of one cell in one figure.

    Attributes:
        mode, cell: what was measured.
        quantity: what is compared: `TIME`, `MEMORY`, or the `RATE` of the arithmetic.
        beside: a contestant, `FASTEST` of those that are not ours in each shape, or `PEAK`.
        shapes: how many.
        mean: the geometric mean of its time or memory in ours; for `PEAK` of our share of it.
        least: the smallest of these.
        at: where that was.
    """

    mode: str
    cell: str
    quantity: str
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
        """Each cell's shapes in one figure beside each contestant; of single steps each size by itself."""
        groups: dict[tuple[str, str, int | None], list[Measurement]] = {}
        for m in self.measurements:
            # What a step takes besides its arithmetic is all there is to a small one, and little of a large one.
            size = m.case.hidden if m.case.mode == STREAMING else None
            groups.setdefault((m.case.mode, m.case.cell, size), []).append(m)
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
                    yield from markdown_table(_detail(group))

    def _threads(self) -> str:
        peaks = [m.peak for m in self.measurements if m.case.mode != STREAMING]
        reach = f", which multiply and add {median(peaks) / 1e9:.0f} GFLOP a second at most" if peaks else ""
        many = f"{self.threads} threads" if self.threads > 1 else "one thread"
        return f"Everyone may use {many}{reach}; for single steps one.{self._taken()}"

    def _taken(self) -> str:
        """What came of the rounds in which others took the processors."""
        left_out = sum(m.left_out for m in self.measurements)
        kept = [m.case.name for m in self.measurements if m.disturbed]
        if not left_out and not kept:
            return ""
        rounds = left_out + sum(m.rounds for m in self.measurements)
        told = f" Left out are {left_out} of {rounds} rounds, {_TAKEN}."
        return told + (f" These count in {', '.join(kept)}, which had too few others." if kept else "")

    def _summary_lines(self) -> Iterator[str]:
        head = ["mode", "cell", "beside", "shapes", "geometric mean", "least", "at"]
        for quantity, (title, form) in _SHORT.items():
            rows = [
                [s.mode, s.cell, s.beside, str(s.shapes), form.format(s.mean), form.format(s.least), s.at]
                for s in self.summaries
                if s.quantity == quantity
            ]
            if rows:
                yield title
                yield ""
                yield from markdown_table([head, *rows])


def _summaries(group: Sequence[Measurement]) -> Iterator[Summary]:
    names = list(dict.fromkeys(t.contestant for m in group for t in m.times[1:]))
    others = [name for name in names if name not in _OURS]
    for name in names:
        taken = [(m, t) for m in group for t in m.times if t.contestant == name]
        yield from _summary(TIME, name, ((m.case, t.ratio) for m, t in taken))
        less = ((m.case, t.memory / m.times[0].memory) for m, t in taken if t.memory and m.times[0].memory)
        yield from _summary(MEMORY, name, less)
    if len(others) > 1:
        fastest = ((m.case, min(t.ratio for t in m.times if t.contestant in others)) for m in group)
        yield from _summary(TIME, FASTEST, fastest)
    large = (m for m in group if m.case.batch >= _LARGE_BATCH and m.case.hidden >= _LARGE_HIDDEN)
    yield from _summary(RATE, PEAK, ((m.case, m.rate / m.peak) for m in large))


def _summary(quantity: str, beside: str, found: Iterable[tuple[Case, float]]) -> Iterator[Summary]:
    figures = list(found)
    if figures:
        at, least = min(figures, key=lambda figure: figure[1])
        mean = geometric_mean(figure for _, figure in figures)
        yield Summary(at.mode, at.cell, quantity, beside, len(figures), mean, least, at.shape)


def _detail(group: Sequence[Measurement]) -> list[list[str]]:
    unit, scale = ("µs", 1e6) if group[0].case.mode == STREAMING else ("ms", 1e3)
    rows = []
    for m in group:
        case, (ours, *others) = m.case, m.times
        row = {"cell": case.cell, "batch": str(case.batch), "hidden": str(case.hidden), "steps": str(case.steps)}
        row |= _taken(ours, unit, scale) | {"GFLOP/s": f"{m.rate / 1e9:.1f}", "of peak": f"{m.rate / m.peak:.0%}"}
        for other in others:
            row |= _taken(other, unit, scale) | {f"{other.contestant} ratio": f"{other.ratio:.2f}"}
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [columns, *([row.get(column, "") for column in columns] for row in rows)]


def _taken(time: Time, unit: str, scale: float) -> dict[str, str]:
    taken = {f"{time.contestant} {unit}": f"{time.seconds * scale:.3f}"}
    return taken if time.memory is None else taken | {f"{time.contestant} MB": f"{time.memory / 1e6:.1f}"}


def _case_data(m: Measurement) -> dict[str, Any]:
    return {
        "name": m.case.name,
        **asdict(m.case),
        "flops": m.case.flops,
        "bound": m.case.bound,
        "rounds": m.rounds,
        "left_out": m.left_out,
        "disturbed": m.disturbed,
        "rate": m.rate,
        "peak": m.peak,
        "times": [asdict(t) for t in m.times],
    }

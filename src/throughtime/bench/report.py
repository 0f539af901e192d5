"""Format measurements as plain data, as a page of summaries, and as tables of all sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from statistics import geometric_mean, median
from typing import Any

from throughtime.bench.cases import MODES, STREAMING, Case
from throughtime.bench.contestants import CONTESTANTS
from throughtime.bench.machine import Machine
from throughtime.bench.measuring import Measurement, Time
from throughtime.bench.quiet import MAX_HANDOVER, MIN_PEAK
from throughtime.tables import markdown_table

_OURS = {c.name for c in CONTESTANTS if c.is_ours}
FASTEST = "the fastest other"
PEAK = "the processor's peak"
TIME, MEMORY, RATE = "time", "memory", "rate"
_INSTALL = ". To install all contestants, run `pip install '.[bench]'` in a checkout of throughtime."
_READING = (
    "One unidirectional float32 layer, including its input product. A time is the median over rounds in which the "
    "contestants took turns. A ratio is the median over rounds of another contestant's time divided by ours; above "
    "1, ours is faster. GFLOP/s count only the matrix products. Every result was compared with torch's. Forward passes "
    "use a frozen layer, whose weights are packed once, as ONNX Runtime packs them in a session; `throughtime thawed` "
    "packs them on every call."
)
_DISTURBED = (
    f"because just before or after them the processors reached less than {MIN_PEAK:.0%} of their peak, or "
    f"communication between them took {MAX_HANDOVER:g} times its usual time or more, as when a host runs other guests"
)
_UNRELIABLE, _SINGLE = " (disturbed)", " (one size)"  # notes beside figures
# Sizes at which the peak arithmetic rate of the processor limits the speed.
_LARGE_BATCH, _LARGE_HIDDEN = 32, 256
_WORST = 10  # number of sizes to list first
# Each summary table's title and number format.
_SUMMARY_TABLES = {
    TIME: ("## Speed relative to other engines", "{:.2f}"),
    MEMORY: ("## Memory of others relative to ours", "{:.1f}"),
    RATE: (
        f"## Share of the peak arithmetic rate, batch {_LARGE_BATCH} or larger and hidden {_LARGE_HIDDEN} or larger",
        "{:.0%}",
    ),
}


@dataclass(frozen=True)
class Summary:
    """One summary number over several sizes of a cell.

    Attributes:
        mode, cell, grid: what was measured, and the name of the grid of sizes.
        quantity: `TIME`, `MEMORY`, or `RATE`, the arithmetic rate.
        compared_with: a contestant; `FASTEST`, the fastest other one at each size; or `PEAK`.
        shapes: the number of sizes.
        mean: the geometric mean of the contestant's time or memory divided by ours; for `PEAK`, of our fraction of it.
        minimum: the smallest value.
        at: the size with the smallest value.
        disturbed: the number of sizes whose figures include disturbed rounds.
    """

    mode: str
    cell: str
    grid: str
    quantity: str
    compared_with: str
    shapes: int
    mean: float
    minimum: float
    at: str
    disturbed: int


@dataclass(frozen=True)
class Report:
    """The measurements of one run.

    Attributes:
        machine: the machine.
        threads: the number of threads of every contestant.
        seconds: the minimum time to measure each case.
        measurements: one per case.
        absent: the contestants that could not take part, with the reasons.
        unmeasured: the names of the cases for which no time was left.
    """

    machine: Machine
    threads: int
    seconds: float
    measurements: Sequence[Measurement]
    absent: Mapping[str, str]
    unmeasured: Sequence[str] = ()

    @property
    def wrong(self) -> list[str]:
        """Contestants with wrong results, and the cases."""
        return [f"{name} in {m.case.name}" for m in self.measurements for name in m.wrong]

    @property
    def summaries(self) -> list[Summary]:
        """Comparisons of each cell with each contestant: one per grid of sizes, or per hidden size for single steps."""
        groups: dict[tuple[str, str, str | int], list[Measurement]] = {}
        for m in self.measurements:
            # A single step of a small layer is nearly all overhead, a step of a large layer nearly all arithmetic.
            group = m.case.hidden if m.case.mode == STREAMING else m.case.grid
            groups.setdefault((m.case.mode, m.case.cell, group), []).append(m)
        return [summary for group in groups.values() for summary in _summaries(group)]

    @property
    def worst(self) -> list[tuple[Case, str, float]]:
        """The sizes with the lowest ratios: the case, the fastest other contestant, and its time over ours."""
        found = [
            (m.case, *min(((t.contestant, t.ratio) for t in m.times if t.contestant not in _OURS), key=itemgetter(1)))
            for m in self.measurements
            if any(t.contestant not in _OURS for t in m.times)
        ]
        return sorted(found, key=itemgetter(2))[:_WORST]

    def data(self) -> dict[str, Any]:
        """Return the report as plain data: times in seconds, rates in FLOP/s."""
        return {
            "machine": asdict(self.machine),
            "threads": self.threads,
            "seconds": self.seconds,
            "absent": dict(self.absent),
            "unmeasured": list(self.unmeasured),
            "summaries": [asdict(s) for s in self.summaries],
            "cases": [_case_data(m) for m in self.measurements],
        }

    def page(self) -> str:
        """Format one page of Markdown: the conditions, the slowest sizes and the summaries."""
        return "\n".join(self._page_lines()) + "\n"

    def tables(self) -> str:
        """Format the times of every size as Markdown."""
        return "\n".join(self._table_lines()) + "\n"

    def _page_lines(self) -> Iterator[str]:
        yield "# Speed"
        yield ""
        yield f"Measured by `throughtime bench` on {self.machine}."
        yield ""
        yield f"{self._conditions()} {_READING}"
        yield ""
        if self.absent:
            yield "Absent: " + ", ".join(f"{name} ({reason})" for name, reason in self.absent.items()) + _INSTALL
            yield ""
        if self.unmeasured:
            yield "There was no time to measure " + ", ".join(self.unmeasured) + "."
            yield ""
        if self.wrong:
            yield "**Wrong results:** " + ", ".join(self.wrong) + "."
            yield ""
        if self.worst:
            yield "## Lowest ratios"
            yield ""
            disturbed = {m.case for m in self.measurements if m.disturbed}
            rows = [
                [case.mode, case.cell, case.shape, name, f"{ratio:.2f}{_UNRELIABLE * (case in disturbed)}"]
                for case, name, ratio in self.worst
            ]
            yield from markdown_table([["mode", "cell", "size", "fastest other", "its time over ours"], *rows])
        yield from self._summary_lines()

    def _table_lines(self) -> Iterator[str]:
        yield "# Speed of every size"
        yield ""
        yield f"Measured by `throughtime bench` on {self.machine}."
        yield ""
        for mode, title in MODES.items():
            for built_in in (True, False):
                group = [m for m in self.measurements if m.case.mode == mode and m.case.is_built_in == built_in]
                if group:
                    yield f"## {title}{'' if built_in else ', user-defined cell'}"
                    yield ""
                    yield from markdown_table(_detail(group))

    def _conditions(self) -> str:
        peaks = [m.peak for m in self.measurements if m.case.mode != STREAMING]
        peak = f" (peak {median(peaks) / 1e9:.0f} GFLOP/s)" if peaks else ""
        threads = f"{self.threads} threads" if self.threads > 1 else "one thread"
        return f"Every contestant used {threads}{peak}, and one for single steps.{self._excluded()}"

    def _excluded(self) -> str:
        """Describe the rounds that other programs disturbed."""
        left_out = sum(m.left_out for m in self.measurements)
        kept = sum(m.disturbed for m in self.measurements)
        if not left_out and not kept:
            return ""
        rounds = left_out + sum(m.rounds for m in self.measurements)
        disturbed = f" Of {rounds} rounds, {left_out + kept} were disturbed, {_DISTURBED}."
        if not kept:
            return f"{disturbed} They are excluded."
        return (
            f"{disturbed} {f'{left_out} of them are excluded; the' if left_out else 'The'} sizes marked"
            f"{_UNRELIABLE} had too few undisturbed rounds; their figures include disturbed ones and are unreliable."
        )

    def _summary_lines(self) -> Iterator[str]:
        head = ["mode", "cell", "sizes", "compared with", "count", "geometric mean", "minimum", "at"]
        for quantity, (title, form) in _SUMMARY_TABLES.items():
            rows = [
                [
                    s.mode,
                    s.cell,
                    s.grid,
                    s.compared_with,
                    str(s.shapes),
                    form.format(s.mean) + (_UNRELIABLE if s.disturbed else "") + (_SINGLE if s.shapes == 1 else ""),
                    form.format(s.minimum),
                    s.at,
                ]
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
        yield from _summary(TIME, name, ((m, t.ratio) for m, t in taken))
        less = ((m, t.memory / m.times[0].memory) for m, t in taken if t.memory and m.times[0].memory)
        yield from _summary(MEMORY, name, less)
    if len(others) > 1:
        fastest = ((m, min(t.ratio for t in m.times if t.contestant in others)) for m in group)
        yield from _summary(TIME, FASTEST, fastest)
    large = (m for m in group if m.case.batch >= _LARGE_BATCH and m.case.hidden >= _LARGE_HIDDEN)
    yield from _summary(RATE, PEAK, ((m, m.rate / m.peak) for m in large))


def _summary(quantity: str, compared_with: str, found: Iterable[tuple[Measurement, float]]) -> Iterator[Summary]:
    figures = list(found)
    if figures:
        measured, minimum = min(figures, key=lambda figure: figure[1])
        mean, at = geometric_mean(figure for _, figure in figures), measured.case
        disturbed = sum(m.disturbed > 0 for m, _ in figures)
        yield Summary(
            at.mode, at.cell, at.grid, quantity, compared_with, len(figures), mean, minimum, at.shape, disturbed
        )


def _detail(group: Sequence[Measurement]) -> list[list[str]]:
    unit, scale = ("µs", 1e6) if group[0].case.mode == STREAMING else ("ms", 1e3)
    rows = []
    for m in group:
        case, (ours, *others) = m.case, m.times
        row = {"cell": case.cell, "batch": str(case.batch), "input": str(case.input_size), "hidden": str(case.hidden)}
        row |= (
            {"steps": str(case.steps)}
            | _taken(ours, unit, scale)
            | {"GFLOP/s": f"{m.rate / 1e9:.1f}", "of peak": f"{m.rate / m.peak:.0%}"}
        )
        for other in others:
            row |= _taken(other, unit, scale) | {
                f"{other.contestant} ratio": f"{other.ratio:.2f}{_UNRELIABLE * (m.disturbed > 0)}"
            }
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

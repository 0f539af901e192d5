"""`throughtime bench`: its measurements, files and errors."""

from __future__ import annotations

import json
import os
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

from throughtime.bench import contestant, measuring
from throughtime.bench.cases import CASES, QUICK, Case, select
from throughtime.bench.machine import Machine
from throughtime.bench.measuring import Measurement, Rounds, Time, error, in_turn, measure, measure_all
from throughtime.bench.quiet import Look, Quiet
from throughtime.bench.report import FASTEST, MEMORY, PEAK, TIME, Report
from throughtime.cli.main import main

TINY = Case("forward", "gru", 2, 8, 4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the quick list by small cases, and don't wait until other processes leave the processors alone."""
    cases = dict.fromkeys(Case(case.mode, case.cell, 2, 8, 5) for case in QUICK)
    monkeypatch.setattr("throughtime.bench.cases.QUICK", list(cases))
    monkeypatch.setattr(measuring, "quiet", lambda threads: Looking(GOOD))


def measured(
    case: Case, *times: tuple[str, float, float] | tuple[str, float, float, int], peak: float = 1e9
) -> Measurement:
    return Measurement(case, [Time(*of[:3], 0.0, *of[3:]) for of in times], peak, 3)


def report(*measurements: Measurement) -> Report:
    return Report(Machine("a processor", 2, "avx2", "Linux", 0.0, {"torch": "2"}), 2, 1.0, measurements, {"JAX": "no"})


def test_tables_contain_all_selected_cases(small, capsys) -> None:
    assert main(["bench", "--quick", "--seconds", "0.01", "--cases", "streaming/gru", "--cases", "training/*gru*"]) == 0
    shown = capsys.readouterr().out
    assert "| streaming" in shown
    assert "| training" in shown
    assert "| forward" not in shown
    assert all(name in shown for name in ("torch cell", "geometric mean", Machine.this().processor))


def test_markdown_and_json_are_written(small, tmp_path, capsys) -> None:
    out = tmp_path / "new" / "place"
    assert main(["bench", "--quick", "--seconds", "0.01", "--cases", "packed", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert (out / "bench.md").read_text(encoding="utf-8").startswith("# Speed\n")
    assert "## Packed batch" in (out / "tables.md").read_text(encoding="utf-8")
    data = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    (case,) = data["cases"]
    assert [t["contestant"] for t in case["times"]] == ["throughtime", "torch", "throughtime padded"]
    assert case["rate"] == pytest.approx(case["flops"] / case["times"][0]["seconds"])
    assert data["machine"]["versions"]["torch"]


def test_json_is_printed_on_one_line(small, capsys) -> None:
    assert main(["bench", "--quick", "--seconds", "0.01", "--cases", "streaming/rnn", "--threads", "1", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["threads"], len(data["cases"])) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cases", "trainin"], "did you mean training?"),
        (["--threads", "0"], "--threads must be between 1 and"),
        (["--seconds", "0"], "--seconds must be positive"),
    ],
)
def test_mistakes_are_reported(arguments, told, capsys) -> None:
    assert main(["bench", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_missing_contestants_are_listed_as_absent(small, monkeypatch, capsys) -> None:
    def missing(packages: tuple[str, ...]) -> str | None:
        return "not installed" if packages[0] in ("onnxruntime", "jax") else None

    monkeypatch.setattr(measuring, "missing", missing)
    assert (
        main(["bench", "--quick", "--seconds", "0.01", "--cases", "forward/peephole_lstm", "--cases", "streaming/rnn"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "Absent: ONNX Runtime (not installed), JAX (not installed). " in shown
    assert "| ONNX Runtime" not in shown


def test_missing_native_engine_raises(monkeypatch, capsys) -> None:
    monkeypatch.setattr(measuring, "missing", lambda packages: "not installed" if packages[0] != "torch" else None)
    assert main(["bench", "--quick"]) == 2
    assert "the native engine is not built" in capsys.readouterr().err


def test_missing_package_has_a_reason() -> None:
    assert contestant.missing(("json", "os")) is None
    assert contestant.missing(("json", "nothing_of_that_name")) == "nothing_of_that_name is not installed"


def test_wrong_result_fails_the_command(small, monkeypatch, capsys) -> None:
    monkeypatch.setattr(measuring, "error", lambda found, wanted: 0.0 if found is wanted else 1.0)
    assert main(["bench", "--quick", "--seconds", "0.01", "--cases", "training/rnn"]) == 1
    out, told = capsys.readouterr()
    assert "**Wrong results:** throughtime in training/rnn/b2/h8/t5." in out
    assert "results differ from torch's: throughtime in training/rnn/b2/h8/t5" in told


def test_nan_is_a_wrong_result() -> None:
    right, wrong = np.ones(3), np.array([1.0, np.nan, 1.0])
    off = error({"a": right, "b": wrong, "c": right}, {"a": right, "b": right, "c": right})
    assert np.isnan(off)
    times = [Time("throughtime", 1.0, 1.0, off), Time("torch", 1.0, 1.0, 0.0)]
    assert Measurement(TINY, times, 1e9, 3).wrong == ["throughtime"]


def test_results_with_different_names_raise() -> None:
    with pytest.raises(ValueError, match="can't be compared"):
        error({}, {"output": np.ones(3)})


class Clock:
    """A clock that advances only during calls."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_times_are_those_of_the_calls(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)

    class Sleeping:
        packages, is_ours = ("torch",), False

        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def takes(self, case):
            return True

        def prepare(self, case, arguments, threads):
            return contestant.Ready(lambda: clock.sleep(self.seconds), lambda _: {"output": arguments.x.numpy()})

    monkeypatch.setattr(measuring, "CONTESTANTS", [Sleeping("first", 0.01), Sleeping("torch", 0.03)])
    first, other = measure(TINY, seconds=0.1, threads=1).times
    assert first.seconds == pytest.approx(0.01)
    assert other.ratio == pytest.approx(3)
    streaming = Case("streaming", "gru", 1, 8, 10)
    assert measure(streaming, seconds=0.1, threads=1).times[0].seconds == pytest.approx(0.001)


class Looking(Quiet):
    """A `Quiet` that returns predefined measurements, then repeats the last one."""

    def __init__(self, *looks: Look) -> None:
        self.looks = list(looks)
        super().__init__(2)

    def _measured(self) -> Look:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


GOOD, SHARED, APART = Look(100.0, 40e-9), Look(60.0, 30e-9), Look(99.0, 160e-9)


def test_disturbed_processor_is_detected() -> None:
    quiet = Looking(SHARED, APART, GOOD)
    assert quiet.best == GOOD
    assert [quiet.held(look) for look in (GOOD, SHARED, APART)] == [True, False, False]
    assert quiet.held(Look(91.0, 79e-9))


def test_single_thread_has_no_handover() -> None:
    quiet = Quiet(1)
    assert quiet.look().handover == 0.0
    assert quiet.held(Look(quiet.best.peak, 0.0))


def test_disturbed_rounds_do_not_count() -> None:
    quiet = Looking(GOOD)
    quiet.looks = [GOOD, GOOD, APART, GOOD, SHARED, GOOD, GOOD, GOOD]
    numbers = iter(range(100))
    found = in_turn([lambda: float(next(numbers))], 1e-9, quiet)
    # A measurement at the start or the end of rounds 1 to 4 is bad.
    assert found == Rounds([[0.0], [5.0], [6.0]], [GOOD] * 3, left_out=4)


def test_all_rounds_count_if_processors_are_always_disturbed() -> None:
    quiet = Looking(GOOD)
    quiet.looks = [SHARED]
    found = in_turn([lambda: 1.0], 1e-9, quiet)
    assert len(found.times) == len(found.looks) == found.disturbed > 3
    assert found.left_out == 0


def test_report_says_how_many_rounds_are_excluded() -> None:
    times = [Time("throughtime", 1.0, 1.0, 0.0), Time("torch", 1.0, 1.0, 0.0)]
    shown = report(Measurement(TINY, times, 1e9, 3, 7)).page()
    assert "Of 10 rounds, 7 were disturbed, because just before or after them" in shown
    assert "less than 90% of their peak" in shown
    assert "They are excluded." in shown
    assert "(disturbed)" not in shown
    assert "disturbed" not in report(Measurement(TINY, times, 1e9, 3)).page()


def test_report_marks_the_figures_in_which_disturbed_rounds_count() -> None:
    times = [Time("throughtime", 1.0, 1.0, 0.0), Time("torch", 1.0, 1.0, 0.0)]
    made = report(Measurement(TINY, times, 1e9, 15, disturbed=13))
    page = made.page()
    assert "Of 15 rounds, 13 were disturbed, because" in page
    assert "The sizes marked (disturbed) had too few undisturbed rounds" in page
    assert "| 1.00 (disturbed) (one size) |" in page
    assert page.count("1.00 (disturbed)") == 2  # among the lowest ratios, and in the summary
    assert "1.00 (disturbed)" in made.tables()
    (case,) = made.data()["cases"]
    assert (case["left_out"], case["disturbed"]) == (0, 13)


def test_every_contestant_has_the_requested_processors() -> None:
    before = os.sched_getaffinity(0)
    seen = []
    measure_all([TINY], seconds=0.01, threads=1, begin=lambda case: seen.append(len(os.sched_getaffinity(0))))
    assert seen == [1]
    assert os.sched_getaffinity(0) == before


def test_disturbed_rounds_count_when_patience_ends(monkeypatch) -> None:
    clock, quiet = Clock(), Looking(GOOD)
    monkeypatch.setattr(measuring, "time", clock)
    quiet.looks = [SHARED]
    found = in_turn([lambda: clock.sleep(1.0) or 1.0], 0.5, quiet, patience=4.0)
    assert len(found.times) == found.disturbed == 4


def test_a_slow_machine_measures_only_the_cases_it_has_time_for(small, monkeypatch, capsys) -> None:
    """A quick benchmark ends within a minute, however slow the machine is."""
    clock, patience = Clock(), []

    def slow(case: Case, **options: float) -> Measurement:
        clock.sleep(14.0)
        patience.append(options["patience"])
        return measured(case, ("throughtime", 1.0, 1.0), ("torch", 2.0, 2.0))

    monkeypatch.setattr(measuring, "time", clock)
    monkeypatch.setattr("throughtime.cli.bench.time", clock)
    monkeypatch.setattr(measuring, "measure", slow)
    assert main(["bench", "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert clock.now < 60
    names = [case["name"] for case in found["cases"]]
    assert len(names) == 4
    assert names[0] == "training/lstm/b2/h8/t5"
    assert not set(names) & set(found["unmeasured"])
    assert "training/gru/b2/h8/t5" in found["unmeasured"]
    assert patience == pytest.approx([45 / 12, 31 / 11, 17 / 10, 3 / 9])  # the cases share the time
    assert main(["bench", "--quick"]) == 0
    assert "There was no time to measure training/gru/b2/h8/t5" in capsys.readouterr().out


def test_a_summary_has_the_geometric_mean_and_the_minimum_of_each_contestant() -> None:
    small, large = Case("forward", "gru", 1, 32, 100), Case("forward", "gru", 32, 256, 100)
    made = report(
        measured(small, ("throughtime", 1.0, 1.0), ("torch", 2.0, 2.0), ("ONNX Runtime", 4.0, 4.0)),
        measured(
            large, ("throughtime", 1.0, 1.0), ("torch", 8.0, 8.0), ("ONNX Runtime", 2.0, 2.0), peak=4.0 * large.flops
        ),
    )
    found = {s.compared_with: (s.shapes, s.mean, s.minimum, s.at) for s in made.summaries}
    assert found["torch"] == (2, pytest.approx(4.0), 2.0, "batch 1, hidden 32, 100 steps")
    assert found["ONNX Runtime"] == (2, pytest.approx(8**0.5), 2.0, "batch 32, hidden 256, 100 steps")
    assert found[FASTEST] == (2, pytest.approx(2.0), 2.0, "batch 1, hidden 32, 100 steps")
    assert found[PEAK] == (1, pytest.approx(0.25), pytest.approx(0.25), "batch 32, hidden 256, 100 steps")


def test_page_lists_the_lowest_ratios_first() -> None:
    cases = [Case("forward", "gru", batch, 32, 100) for batch in range(1, 13)]
    made = report(
        *(
            measured(c, ("throughtime", 1.0, 1.0), ("throughtime thawed", 0.1, 0.1), ("torch", 9.0, c.batch))
            for c in cases
        )
    )
    assert [(case.batch, name, ratio) for case, name, ratio in made.worst] == [(n, "torch", n) for n in range(1, 11)]
    listed = [line for line in made.page().splitlines() if "torch" in line and "batch" in line]
    assert "batch 1, hidden 32" in listed[0]
    assert "batch 2, hidden 32" in listed[1]


def test_each_grid_of_sizes_has_its_own_summary() -> None:
    power, everyday = Case("forward", "gru", 8, 64, 100), Case("forward", "gru", 24, 320, 50, 300)
    assert everyday in CASES
    made = report(*(measured(c, ("throughtime", 1.0, 1.0), ("torch", 2.0, 2.0)) for c in (power, everyday)))
    assert [s.grid for s in made.summaries if s.compared_with == "torch"] == ["powers of two", "everyday sizes"]
    assert everyday.name == "forward/gru/b24/i300/h320/t50"
    assert everyday.shape == "batch 24, input 300, hidden 320, 50 steps"


def test_single_steps_have_a_summary_per_size() -> None:
    cases = [Case("streaming", "gru", 1, hidden, 200) for hidden in (64, 256)]
    made = report(*(measured(c, ("throughtime", 1.0, 1.0), ("torch", 9.0, c.hidden)) for c in cases))
    assert [(s.shapes, s.mean, s.at) for s in made.summaries] == [
        (1, pytest.approx(64), "batch 1, hidden 64, 200 steps"),
        (1, pytest.approx(256), "batch 1, hidden 256, 200 steps"),
    ]


def test_memory_is_reported_with_time() -> None:
    cases = [Case("long", "gru", 1, 64, steps) for steps in (1_000, 10_000)]
    sizes = (2_000_000, 40_000_000), (4_000_000, 400_000_000)
    made = report(
        *(
            measured(case, ("throughtime", 1.0, 1.0, ours), ("throughtime, all kept", 0.5, 0.5, others))
            for case, (ours, others) in zip(cases, sizes, strict=True)
        )
    )
    found = {s.quantity: (s.shapes, s.mean, s.minimum, s.at) for s in made.summaries}
    assert found[MEMORY] == (2, pytest.approx(2000**0.5), 20.0, "batch 1, hidden 64, 1,000 steps")
    assert found[TIME][:3] == (2, pytest.approx(0.5), 0.5)
    assert "## Memory of others relative to ours" in made.page()
    *_, head, _, _, last = filter(None, made.tables().splitlines())
    columns = dict(zip(head.split("|"), last.split("|"), strict=True))
    assert {name.strip(): columns[name].strip() for name in columns if "MB" in name} == {
        "throughtime MB": "4.0",
        "throughtime, all kept MB": "400.0",
    }
    assert made.data()["cases"][1]["times"][1]["memory"] == 400_000_000


def test_every_table_is_well_formed() -> None:
    times = ("throughtime", 1.0, 1.0), ("torch", 2.0, 2.0)
    made = report(*(measured(case, *times) for case in select(QUICK, [])))
    lines = (made.page() + made.tables()).splitlines()
    columns = [line.count("|") if line.startswith("|") else 0 for line in lines]
    assert all(a == b for a, b in pairwise(columns) if a and b)
    assert any(line.startswith("Absent: JAX (no). ") for line in lines)

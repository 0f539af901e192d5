"""Comparison of cells: equal sizes and budgets, resuming, and sound statistics."""

import json
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from tiny_training import write_text

import throughtime
from throughtime import cells
from throughtime.errors import CellError, Interrupted, RunError, TrainingError, UserError
from throughtime.outputs import Categorical
from throughtime.runs import Run
from throughtime.spelling import command_line
from throughtime.studies import jobs
from throughtime.studies.comparison_page import figure_name
from throughtime.studies.jobs import _judge
from throughtime.studies.statistics import differences, holm
from throughtime.studies.widths import equal_widths, parameter_count
from throughtime.tasks.base import Interface
from throughtime.tasks.text import Text
from throughtime.training.config import NetworkOptions, TrainConfig
from throughtime.training.fitting import Fit

TINY = {"hidden_size": 8, "batch": 4, "window": 10, "steps": 4, "threads": 1, "progress": False}
TEXT = Interface("embedding", 20, Categorical(20))


@pytest.fixture(autouse=True)
def _no_reports():
    with patch("throughtime.training.loop.write_report"):
        yield


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text.txt")


def test_seeds_count_from_the_given_seed(tmp_path, text):
    found = throughtime.compare(data=text, cells=["rnn"], seeds=2, seed=3, out=tmp_path / "c", **TINY)
    assert found["seeds"] == 2
    assert sorted(path.name for path in (tmp_path / "c/runs").iterdir()) == ["rnn-seed3", "rnn-seed4"]


def test_a_comparison_writes_its_runs_table_and_page(tmp_path, text):
    found = throughtime.compare(data=text, cells=["rnn", "gru"], seeds=2, out=tmp_path / "c", **TINY)
    assert {each["cell"] for each in found["cells"]} == {"rnn", "gru"}
    assert [each["value"]["mean"] for each in found["cells"]] == sorted(e["value"]["mean"] for e in found["cells"])
    assert list(found["baselines"]) == ["tokens by frequency"]
    assert found["differences"] == []  # not tested below 5 seeds
    assert "Differences are tested with 5 or more seeds" in found["notes"][-1]
    for each in found["cells"]:
        assert abs(each["parameters"] / found["parameters"] - 1) < 0.1
        assert [Run.open(path).finished for path in each["runs"]] == [True, True]
        assert each["steps"] == 4
        assert each["horizon"] >= 1
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["cells"] == found["cells"]
    page = (tmp_path / "c" / "comparison.html").read_text()
    assert "Learning curves" in page
    header = repr(found).splitlines()[0]
    assert header.split()[:3] == ["cell", "validation", "loss"]
    assert header.split("  ")[-1].strip() == "gradient horizon after"  # a forecast has another horizon
    assert found._repr_html_().count("<tr>") == 4  # the header, two cells and the baseline
    assert "<script src" not in page


@pytest.mark.parametrize(("head", "named"), [("mse", "scaled MSE"), ("quantiles", "loss (pinball loss per value)")])
def test_the_loss_of_a_forecast_is_named_as_in_its_runs(tmp_path, head, named):
    rows = "".join(f"2024-01-01 {k // 60:02}:{k % 60:02},{np.sin(k / 5):.4f}\n" for k in range(300))
    (tmp_path / "t.csv").write_text("time,y\n" + rows)
    options = {**TINY, "data": tmp_path / "t.csv", "target": "y", "horizon": 2, "head": head}
    options.pop("window")
    found = throughtime.compare(cells=["rnn"], seeds=1, out=tmp_path / "c", **options)
    assert figure_name(found) == named


def test_metric_matches_evaluation(tmp_path, text):
    found = throughtime.compare(data=text, cells=["rnn"], seeds=1, out=tmp_path / "c", **TINY)
    run = Run.open(found["cells"][0]["runs"][0])
    # Ten streams start without context, compared with one in an evaluation.
    assert found["cells"][0]["value"]["mean"] == pytest.approx(run.result["valid"]["loss"], rel=0.02)


def test_comparison_is_resumed_and_extended(tmp_path, text):
    options = {"data": text, "cells": ["rnn", "gru"], "out": tmp_path / "c", **TINY}
    resume, calls = jobs.resume, []

    def interrupted_at_second(path, **rest):
        calls.append(path.name)
        if len(calls) == 2:
            raise Interrupted("stopped")
        return resume(path, **rest)

    with patch.object(jobs, "resume", interrupted_at_second), pytest.raises(Interrupted, match="after 1 of 2 runs"):
        throughtime.compare(seeds=1, **options)
    done = (tmp_path / "c/runs/rnn-seed0/result.json").stat().st_mtime_ns
    (tmp_path / "c/runs/gru-seed1").mkdir()  # as if the process was killed while writing the directory
    (tmp_path / "c/runs/gru-seed1/task.json").write_text("{")
    with patch.object(jobs, "resume", side_effect=resume) as resumed:
        found = throughtime.compare(seeds=2, **options)
    assert [call.args[0].name for call in resumed.call_args_list] == ["gru-seed0", "rnn-seed1", "gru-seed1"]
    assert (tmp_path / "c/runs/rnn-seed0/result.json").stat().st_mtime_ns == done
    assert len(found["cells"][0]["values"]) == 2
    with pytest.raises(RunError, match=r"was trained with steps=4, not 5; choose another directory"):
        throughtime.compare(seeds=1, **{**options, "steps": 5})


@pytest.mark.slow  # each process imports torch
def test_two_processes_return_the_same_result(tmp_path, text):
    options = {"data": text, "cells": ["rnn"], "seeds": 2, **TINY}
    one = throughtime.compare(out=tmp_path / "one", **options)
    two = throughtime.compare(out=tmp_path / "two", jobs=2, **options)
    assert one["cells"][0]["values"] == two["cells"][0]["values"]


def test_sequences_are_compared_by_their_metric(tmp_path):
    draw = np.random.default_rng(0)
    for label, letters in (("ab", "ab"), ("bc", "bc")):
        lines = ["".join(draw.choice(list(letters), 6)) for _ in range(60)]
        (tmp_path / "names").mkdir(exist_ok=True)
        (tmp_path / "names" / f"{label}.txt").write_text("\n".join(lines))
    tiny = {name: value for name, value in TINY.items() if name != "window"}
    found = throughtime.compare(
        data=tmp_path / "names", task="classify", cells=["rnn"], seeds=1, out=tmp_path / "c", **tiny
    )
    assert (found["figure"], found["maximize"]) == ("accuracy", True)
    assert [name.split()[0] for name in found["baselines"]] == ["always"]
    value, run = found["cells"][0]["value"]["mean"], Run.open(found["cells"][0]["runs"][0])
    assert value == pytest.approx(run.result["valid"]["accuracy"])


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ({"cells": ["rnx", "gru", "lstn"]}, CellError, "(?s)'rnx'.*'lstn'"),
        ({"cells": []}, CellError, "cells is empty"),
        ({"seeds": 0}, UserError, "seeds must be at least 1, got 0"),
        ({"params": 10}, UserError, r"(?s)too few for 3 of 3 cells: rnn has .*lstm has .*gru has"),
        ({"jobs": 2, "minutes": 1}, UserError, "jobs=2 can't be used with minutes"),
        ({"cell": "gru"}, UserError, "use cells"),
    ],
)
def test_mistakes_are_reported(tmp_path, text, given, kind, told):
    with pytest.raises(kind, match=told):
        throughtime.compare(**{"data": text, "out": tmp_path / "c", **TINY, **given})
    assert not (tmp_path / "c").exists()


def test_cells_with_the_same_name_raise():
    @throughtime.cell
    def gru(x, h):
        return x

    with command_line(), pytest.raises(CellError, match="two cells are named 'gru'"):
        throughtime.compare(cells=["gru", gru])


@pytest.mark.parametrize("wanted", [2_000, 50_000])
def test_widths_are_the_closest_to_the_target_number_of_parameters(wanted):
    names = ("rnn", "lstm", "gru", "mgu")
    found = equal_widths(
        {name: NetworkOptions(cell=name, num_layers=2) for name in names},
        {name: cells.get(name) for name in names},
        TEXT,
        wanted,
    )
    for name, network in found.items():
        width = network.hidden_size
        near = [
            parameter_count(network.model_copy(update={"hidden_size": w}), cells.get(name), TEXT)
            for w in (width - 1, width, width + 1)
        ]
        assert abs(near[1] - wanted) == min(abs(count - wanted) for count in near)


def test_holm_matches_r_p_adjust():
    # In R: p.adjust(c(.01, .02, .03, .04), "holm").
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])


def test_false_claims_are_rare():
    """Without a real difference, about 5% of tables claim one: 10 of 200. Seeing 17 or more has probability 1 in 50."""
    draw = np.random.default_rng(1)
    claimed = 0
    for _ in range(200):
        blocks = draw.normal(size=(1, 20))
        figures = {name: draw.normal(size=(5, 1)) * 0.1 + blocks + draw.normal(size=(5, 20)) * 0.1 for name in "abc"}
        claimed += any(each.real for each in differences(figures, np.ones(20)))
    assert claimed <= 17


def test_a_difference_is_found():
    draw = np.random.default_rng(0)
    blocks = draw.normal(size=(1, 30))
    figures = {name: add + blocks + draw.normal(size=(5, 30)) * 0.02 for name, add in (("a", 0), ("b", 0.1))}
    (found,) = differences(figures, np.ones(30))
    assert found.real
    assert found.low < -0.1 < found.high
    assert differences({name: values[:4] for name, values in figures.items()}, np.ones(30)) == []


def test_a_run_that_diverges_in_another_process_does_not_stop_the_comparison():
    error = f"error: {Fit.diverged(SimpleNamespace(config=TrainConfig.of(Text), last_norm=9.0), 3, 'the loss is nan')}"
    ended = []
    _judge(2, error, "trial", lambda trial, reason: ended.append((trial, reason)))
    assert ended == [("trial", error.removeprefix("error: "))]
    with pytest.raises(TrainingError, match="can't train a run: no such file"):
        _judge(2, "error: no such file", "trial", lambda *_: None)


def test_a_directory_of_other_files_is_rejected(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    told = "already exists and is not a {}; choose another directory with out"
    with pytest.raises(UserError, match=told.format("comparison")):
        throughtime.compare(cells=["lstm"], data=tmp_path / "notes.txt", steps=1, out=tmp_path)
    with pytest.raises(UserError, match=told.format("search")):
        throughtime.tune(data=tmp_path / "notes.txt", steps=1, out=tmp_path)

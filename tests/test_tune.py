"""The search: pruning, resuming without losing a trial, hiding test data, and writing a configuration."""

import fcntl
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import throughtime
from throughtime.cli.config_options import from_file
from throughtime.data.sequences import Sequences
from throughtime.errors import Interrupted, RunError, UserError
from throughtime.studies import tune as tuning
from throughtime.studies.search_split import split_off_test
from throughtime.studies.spaces import GENERAL, OF_TASKS, space_for
from throughtime.training import TrainConfig

optuna = pytest.importorskip("optuna")

SMALL = {"hidden_size": 6, "num_layers": 1, "batch": 16, "steps": 10, "threads": 1, "engine": "reference",
         "progress": False}  # fmt: skip


@pytest.fixture
def names(tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "names").mkdir()
    for label in ("ab", "bc"):
        lines = ["".join(draw.choice(list(label), 5)) for _ in range(100)]
        (tmp_path / "names" / f"{label}.txt").write_text("\n".join(lines))
    return {"data": tmp_path / "names", "task": "classify", "out": tmp_path / "search", **SMALL}


def test_a_search_writes_its_trials_and_the_best_options(names, tmp_path):
    found = throughtime.tune(trials=3, cells=["rnn", "gru"], **names)
    assert [each["number"] for each in found["trials"]] == [0, 1, 2]
    assert found["trials"][0]["options"]["lr"] == 3e-3  # the default options come first
    assert found["defaults"] == found["trials"][0]["value"]
    assert found["value"] == max(each["value"] for each in found["trials"] if each["value"] is not None)
    assert found["value"] >= found["defaults"]
    assert set(found["best"]) == {"cell", "dropout", "lr"}
    assert found["test"]["sequences"] == 20  # a tenth of the data
    page = (tmp_path / "search" / "search.html").read_text()
    assert "The search space" in page
    assert str(tmp_path) not in re.search("<h1>.*</h1>", page)[0]
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.S)[1])
    titles = [figure["layout"]["title"]["text"] for figure in figures[:2]]
    assert titles == ["accuracy of each trial", "best accuracy so far, during each trial"]
    assert max(x for trace in figures[1]["data"] for x in trace["x"]) == 100
    fields = from_file(tmp_path / "search" / "best.json")
    assert {name: fields[name] for name in found["best"]} == found["best"]
    assert fields["test_share"] == 0.1
    run = throughtime.train(**fields, out=tmp_path / "run", progress=False)
    assert run.result["test"]["sequences"] == 20


@pytest.mark.slow
def test_a_killed_search_is_resumed(names):
    throughtime.tune(trials=2, **names)
    study = optuna.load_study(study_name="throughtime", storage=f"sqlite:///{names['out'] / 'search.db'}")
    lost = study.ask(
        {"lr": optuna.distributions.FloatDistribution(3e-4, 3e-2, log=True)}
    )  # as a killed process leaves behind
    with patch.object(tuning, "fit", side_effect=tuning.fit) as trained:
        found = throughtime.tune(trials=4, **names)
    assert trained.call_count == 2
    assert len(found["trials"]) == 4
    again = next(each for each in found["trials"] if each["number"] > lost.number)
    assert again["options"]["lr"] == lost.params["lr"]
    with patch.object(tuning, "fit", side_effect=AssertionError):  # no trial is trained twice
        assert throughtime.tune(trials=4, **names)["trials"] == found["trials"]


def test_interrupted_trial_is_repeated(names):
    with patch.object(tuning, "fit", side_effect=KeyboardInterrupt), pytest.raises(Interrupted, match="after 0 of 1"):
        throughtime.tune(trials=1, **names)
    found = throughtime.tune(trials=1, **names)
    assert found["defaults"] == found["value"]


def test_interrupted_search_in_a_shared_storage_is_resumed(names, tmp_path):
    names["storage"] = f"sqlite:///{tmp_path / 'shared.db'}"
    throughtime.tune(trials=1, **names)
    (names["out"] / "search.json").unlink()  # written after the last trial
    assert len(throughtime.tune(trials=2, **names)["trials"]) == 2


def test_only_one_process_can_tune_in_a_folder(names):
    names["out"].mkdir()
    with (names["out"] / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"another process is tuning in .*sqlite:///"):
            throughtime.tune(trials=1, **names)
        url = f"sqlite:///{names['out'] / 'shared.db'}"
        found = throughtime.tune(trials=1, storage=url, **names)
        assert len(throughtime.tune(trials=2, storage=url, **names)["trials"]) == 2
        assert len(found["trials"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite:///{}/shared.db", "journal:{}/shared.journal"])
def test_two_processes_share_one_storage(names, tmp_path, url):
    options = ["--task", "classify", "--hidden", "6", "--batch", "16", "--steps", "10", "--threads", "1"]
    options += ["--engine", "reference", "--trials", "3", "--cells", "rnn,gru"]
    where = ["--storage", url.format(tmp_path), "--out", str(names["out"])]
    command = [sys.executable, "-m", "throughtime", "tune", str(names["data"]), *options, *where, "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    found = [json.loads(out.splitlines()[-1]) for out, _ in told]
    numbers = [{each["number"] for each in one["trials"]} for one in found]
    assert all(len(each) > 2 for each in numbers)
    assert len(numbers[0] | numbers[1]) <= 4  # a trial still running when the third is done is finished


def test_different_settings_raise(names):
    throughtime.tune(trials=1, **names)
    with pytest.raises(RunError, match=r"the search in .* has steps 10, not 11; choose another directory"):
        throughtime.tune(trials=1, **{**names, "steps": 11})


def test_the_test_part_of_a_text_is_hidden_from_the_search(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("through time and over again " * 60)
    kept = []

    def fit(task, data, *rest, **options):
        kept.append(data)
        return real(task, data, *rest, **options)

    real = tuning.fit
    with patch.object(tuning, "fit", fit):
        found = throughtime.tune(data=text, trials=1, window=8, out=tmp_path / "s", **SMALL)
    assert kept[0].test is None
    assert kept[0].valid.token_count == 84  # half of the held-out tenth
    assert found["test"]["tokens"] == 83
    assert found["test"]["bits_per_character"] == pytest.approx(found["test"]["loss"] / np.log(2), rel=1e-6)


@pytest.mark.slow
def test_bad_trials_are_pruned(names):
    """With metrics that get worse from trial to trial, all after the first five are worse than the median."""
    found = []

    def total(model, batches, metrics=None, progress=None):
        value = 1 / (2 + len(found))
        return type("Sums", (), {"loss": 1.0, "terms": 1.0, "metrics": {}, "figures": {"loss": 1.0, "accuracy": value}})

    def fit(*given, **options):
        found.append(given)
        return real(*given, **options)

    real = tuning.fit
    with patch.object(tuning, "fit", fit), patch("throughtime.training.callbacks.total", total), patch(
        "throughtime.training.callbacks.Sums", lambda *given: total(None, None)
    ), patch.object(tuning, "measured", lambda *given, **rest: {"accuracy": 1 / (2 + len(found))}):  # fmt: skip
        result = throughtime.tune(trials=7, **{**names, "steps": 20})
    assert [each["state"] for each in result["trials"]] == ["complete"] * 5 + ["pruned"] * 2


@pytest.mark.parametrize("task", ["text", "notes", "classify", "tag"])
def test_search_space_of_each_task_includes_its_defaults(task):
    usual = TrainConfig.of(task)
    space = {each.name: each for each in space_for(usual, {})}
    assert set(space) == {each.name for each in (*GENERAL, *OF_TASKS.get(task, ()))}
    values = {**usual.given, "lr": usual.training.learning_rate}
    for name, each in space.items():
        assert values[name] in each.choices if each.choices else each.low <= values[name] <= each.high
    assert "lr" not in {each.name for each in space_for(usual, {"lr": 0.1})}


def test_halves_of_sequences_are_disjoint():
    part = Sequences([np.array([k]) for k in range(7)], np.arange(7))
    data = throughtime.tasks.base.Data("x", None, part, part, None, "", {})
    search, test = split_off_test(data)
    assert sorted([*search.valid.targets, *test.targets]) == list(range(7))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"minutes": 0}, "minutes must be a positive number, got 0"),
        ({"cells": ["rnx", "grx"]}, "(?s)'rnx'.*'grx'"),
        ({"init_from": "run"}, "init_from fixes"),
        ({"storage": "nonsense"}, "storage=nonsense: expected postgresql://HOST/NAME, sqlite:///FILE or journal:FILE"),
        ({"storage": "oracel://nowhere/x"}, "storage oracel://nowhere/x can't be used"),
        ({"minutes": 1e-4}, "no trial has finished"),
    ],
)
def test_mistakes_are_reported(names, given, told):
    with pytest.raises(UserError, match=told):
        throughtime.tune(**{**names, **given})


def test_user_defined_cell_is_written_to_the_configuration(names, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import throughtime\nfrom throughtime.language import affine, tanh\n\n"
        "@throughtime.cell\ndef mine(x, h):\n    return tanh(affine('hidden', x, h))\n"
    )
    from throughtime.cli.cell_option import named_cell

    throughtime.tune(trials=1, cells=[named_cell(f"{file}:mine")], **names)
    written = json.loads((names["out"] / "best.json").read_text())
    assert named_cell(written["cell"]).name == "mine"


def test_documented_search_space_matches():
    page = (Path(__file__).parent.parent / "docs" / "studies.md").read_text()
    for each in (*GENERAL, *(each for dimensions in OF_TASKS.values() for each in dimensions)):
        assert re.search(rf"^\| `{each.name}`.*{re.escape(str(each))}", page, re.MULTILINE), each.name

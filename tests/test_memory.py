"""The long-lag tasks match their papers, and the longest lag that cells learn is measured on them."""

import inspect
import json
from unittest.mock import patch

import numpy as np
import pytest

import throughtime
from throughtime import tasks
from throughtime.errors import CellError, RunError, TrainingError, UserError
from throughtime.studies.memory import ENOUGH_STEPS, Attempt, _unfinished, claims
from throughtime.studies.memory_page import sentences
from throughtime.tasks.long_lags import LAG_TASKS, LagTask
from throughtime.tasks.sequences import all_raw_outputs
from throughtime.training import TrainConfig, fit
from throughtime.training.evaluation import measured

SMALL = {"threads": 1, "progress": False, "hidden_size": 16}


def drawn(name, lag, count=500):
    kind = LAG_TASKS[name]
    return kind(TrainConfig.of(kind, lag=lag).task).draw(np.random.default_rng(0), count)


def test_the_target_of_adding_is_the_sum_of_the_marked_numbers():
    inputs, targets = drawn("adding", 30)
    values, marks = inputs[..., 0], inputs[..., 1]
    assert inputs.shape == (30, 500, 2)
    assert ((marks[:15].sum(0) == 1) & (marks[15:].sum(0) == 1)).all()
    np.testing.assert_allclose(targets[:, 0], (values * marks).sum(0), rtol=1e-6)
    # The sum of two U(0, 1) has variance 1/6; its estimate from 500 samples deviates by about 0.009.
    assert abs(((targets - 1) ** 2).mean() - 1 / 6) < 0.03


def test_copy_repeats_the_first_ten_symbols_after_a_delay():
    inputs, targets = drawn("copy", 12)
    assert inputs.shape == (32, 500)
    assert (inputs[10:-11] == 8).all()
    assert (inputs[-11] == 9).all()
    assert (inputs[-10:] == 8).all()
    assert (targets[:-10] == 8).all()
    assert (targets[-10:] == inputs[:10]).all()
    assert set(inputs[:10].ravel()) == set(range(8))


def test_the_label_of_temporal_order_is_the_order_of_two_symbols():
    inputs, targets = drawn("temporal-order", 100)
    assert (inputs[0] == 4).all()
    assert (inputs[-1] == 5).all()
    for row, label in zip(inputs.T, targets, strict=True):
        first, second = np.flatnonzero(row >= 6)
        assert 10 <= first <= 20
        assert 40 <= second <= 50
        assert label == 2 * (row[first] - 6) + row[second] - 6
    assert set(targets) == {0, 1, 2, 3}


def test_the_target_of_parity_is_1_for_an_odd_number_of_ones():
    inputs, targets = drawn("parity", 9)
    assert (inputs.sum(0) % 2 == targets).all()


@pytest.mark.parametrize("lag", [6, 7, 8, 25, 400])
def test_reber_strings_follow_the_grammar(lag):
    ways = {0: {"B": 1}, 1: {"T": 2, "P": 3}, 2: {"S": 2, "X": 4}, 3: {"T": 3, "V": 5}, 4: {"X": 3, "S": 6},
            5: {"P": 4, "V": 6}, 6: {"E": 7}}  # fmt: skip
    inputs, targets = drawn("reber", lag, 100)
    for row, following in zip(inputs.T, targets.T, strict=True):
        assert (row[1:] == following[:-1]).all()
        text = "".join("BTPSXVE"[k] for k in [*row, following[-1]])
        assert text[0] == "B"
        assert text[1] in "TP"
        assert text[1 + lag] == text[1]
        assert text[-1] == "E"
        assert len(text) == lag + 3
        node = 0
        for symbol in text[2 : 1 + lag]:
            node = ways[node][symbol]
        assert node == 7


def test_batches_depend_on_seed_and_step():
    kind = LAG_TASKS["adding"]
    task = kind(TrainConfig.of(kind, lag=10).task)
    data = task.prepare()
    one, two = (task.batches(data.train, 4, seed=3) for _ in range(2))
    assert (one.batch(7).inputs == two.batch(7).inputs).all()
    assert (one.batch(7).inputs != one.batch(57).inputs).any()  # epochs do not repeat
    assert (one.batch(7).inputs != task.batches(data.train, 4, seed=4).batch(7).inputs).any()


@pytest.mark.parametrize("name", LAG_TASKS)
def test_each_task_is_trained_and_measured(name):
    kind = LAG_TASKS[name]
    config = TrainConfig.of(kind, lag=12, steps=3, hidden_size=8, threads=1, cell="gru")
    task = kind(config.task)
    data = task.prepare()
    model = fit(task, data, config)
    raws = all_raw_outputs(model, data.valid)
    if name == "adding":
        expected = np.mean([(raw - target) ** 2 for raw, target in zip(raws, data.valid.targets, strict=True)])
    else:
        places = {"copy": slice(-10, None), "reber": slice(-2, -1)}.get(name, ...)
        hits = [raw.argmax(-1) == target for raw, target in zip(raws, data.valid.targets, strict=True)]
        expected = np.mean([np.atleast_1d(hit)[places] for hit in hits])
    assert measured(model, task, data.valid)[kind.figure] == pytest.approx(expected, rel=1e-5)  # float32
    assert f"memory-{name}" not in tasks.names()


@pytest.mark.slow
def test_a_measurement_writes_its_results_and_can_be_resumed(tmp_path):
    options = {"cells": ["rnn", "gru"], "tasks": ["temporal-order"], "lags": [10, 20, 50], "minutes": 0.12}
    with patch.object(LagTask, "learned", lambda self, figures: self.options.lag == 10):
        found = throughtime.memory(out=tmp_path / "m", **options, **SMALL)
    assert found["longest"]["temporal-order"] == {"rnn": 10, "gru": 10}
    assert [(each["cell"], each["lag"]) for each in found["attempts"]] == [
        ("rnn", 10), ("rnn", 20), ("gru", 10), ("gru", 20)
    ]  # fmt: skip
    assert {each["claim"] for each in found["claims"]} >= {"a plain RNN spans about ten steps"}
    assert "Textbook claims" in (tmp_path / "m" / "memory.html").read_text()
    assert json.loads((tmp_path / "m" / "memory.json").read_text())["longest"] == found["longest"]
    with patch("throughtime.studies.memory.fit", side_effect=AssertionError):  # nothing is measured twice
        again = throughtime.memory(out=tmp_path / "m", **options, **SMALL)
    assert again["attempts"] == found["attempts"]
    with pytest.raises(RunError, match=r"was measured with minutes=0\.12, not 1"):
        throughtime.memory(out=tmp_path / "m", **{**options, "minutes": 1}, **SMALL)


def test_failed_claims_are_reported():
    found = claims({"adding": {"rnn": 50, "lstm": 20, "gru": 100}}, [10, 20, 50, 100])
    assert [each["reproduced"] for each in found] == [False, False, True]
    assert found[1]["found"] == "the plain RNN learned lag 50, the LSTM lag 20"
    assert claims({"adding": {"gru": 100}}, [10]) == []
    for lag in (None, 100):  # neither cell learned any lag, or both learned all
        _, undecided = claims({"copy": {"rnn": lag, "gru": lag}}, [10, 20, 50, 100])
        assert undecided["reproduced"] is None


def test_claims_that_the_time_limit_decides_are_undecided():
    lags = [10, 20, 50]
    longest = {"parity": {"rnn": 10, "lstm": None, "gru": 20}}

    def found(steps, **notes):
        lag = {"rnn": 20, "lstm": 10, "gru": 50}
        attempts = [Attempt("parity", cell, lag[cell], False, 0.5, steps, 3.0, notes.get(cell, "")) for cell in lag]
        return claims(longest, lags, _unfinished(longest, lags, attempts))

    assert [each["reproduced"] for each in found(ENOUGH_STEPS)] == [True, False, True]
    assert [each["reproduced"] for each in found(ENOUGH_STEPS - 1)] == [None, None, None]
    assert [each["reproduced"] for each in found(1, rnn="loss is not finite")] == [True, None, True]  # it diverged
    ((*_, last),) = [sentences({"claims": found(1)})]
    assert last == (
        "parity: undecided: the GRU spans longer lags than a plain RNN (the plain RNN learned lag 10, the GRU lag 20; "
        "time ran out, and more time may change this)."
    )
    assert _unfinished(longest, lags, []) == {("parity", cell) for cell in ("rnn", "lstm", "gru")}
    assert _unfinished({"parity": {"rnn": 50}}, lags, []) == set()  # it learned the longest lag


def test_chrono_is_a_network_option():
    kind = LAG_TASKS["adding"]
    common = {"lag": 10, "steps": 1, "hidden_size": 500, "threads": 1, "engine": "reference"}
    config = TrainConfig.of(kind, cell="lstm", chrono=100, lr=1e-12, weight_decay=0, **common)
    layer = fit(kind(config.task), config=config).recurrent
    rows = {part.gate: slice(part.start, part.stop) for parameter in layer.programs[0].parameters
            if parameter.name == "bias" for part in parameter.parts}  # fmt: skip
    bias = layer.bias_l0.detach()
    # The median of log(U(1, 99)) is log 50 = 3.91; the median of 500 samples deviates by about 0.05.
    assert bias[rows["forget"]].median().item() == pytest.approx(np.log(50), abs=0.3)
    np.testing.assert_allclose(bias[rows["input"]], -bias[rows["forget"]], rtol=1e-5)
    wrong = ({"cell": "rnn"}, "keeps a state and has a bias"), ({"cell": "lstm", "forget_bias": 1}, "remove one")
    for given, told in wrong:
        with pytest.raises(TrainingError, match=told):
            fit(kind(config.task), config=TrainConfig.of(kind, chrono=100, **given, **common))


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ({"cells": ["rnx", "grx"]}, CellError, "(?s)'rnx'.*'grx'"),
        ({"tasks": ["addin", "kopy"]}, UserError, "unknown task 'addin' .did you mean adding.*'kopy'.*copy"),
        ({"tasks": []}, UserError, "tasks is empty; expected one of adding"),
        ({"lags": [2]}, UserError, "at least 3"),
        ({"lags": [5]}, UserError, "temporal-order needs lags of at least 10; reber needs lags of at least 6"),
        ({"minutes": 0}, UserError, "minutes must be a positive number, got 0"),
        ({"minutes": 0.001}, UserError, "minutes=0.001 is too short"),
        ({"chrono": True, "forget_bias": 1.0}, UserError, "remove one of them"),
        ({"init": "normal"}, UserError, "init must be orthogonal, got 'normal'"),
        ({"hidden_size": 0}, UserError, "hidden_size must be at least 1"),
    ],
)
def test_mistakes_are_reported(tmp_path, given, kind, told):
    with pytest.raises(kind, match=told):
        throughtime.memory(**{"out": tmp_path / "m", **SMALL, **given})


def test_no_module_shadows_a_function():
    """Importing a submodule replaces a function with the same name in its package."""
    assert throughtime.train is not None
    for name in ("compare", "evaluate", "fit", "memory", "predict", "sample", "train"):
        assert inspect.isfunction(getattr(throughtime, name))
        assert inspect.isfunction(getattr(throughtime.training, name, throughtime.train))

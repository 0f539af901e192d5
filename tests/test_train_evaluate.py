"""Metrics of trained models."""

import math
from functools import partial

import numpy as np
import polars
import pytest
import torch
from tiny_training import train_tiny

from throughtime.data.streams import Streams
from throughtime.errors import DataError, RunError, UserError
from throughtime.tasks import streams as streams_task
from throughtime.training import evaluate, evaluation, predict, train
from throughtime.training.inference import Inference


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("run"), steps=40, precision="64")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "held-out.txt"
    path.write_text("time and through over again\n" * 10)
    return path


def test_metrics_match_one_pass_over_the_whole_text(run, text):
    ids = torch.from_numpy(run.description.codecs.inputs.encode(text.read_text()).astype(np.int64))[:, None]
    scores, _ = run.model()(ids[:-1])
    losses = -scores.log_softmax(-1).gather(-1, ids[1:, :, None])
    figures = evaluate(run, text)
    assert figures["tokens"] == len(ids) - 1
    # Float64 rounding: a different order of summation.
    assert figures["loss"] == pytest.approx(losses.mean().item(), rel=1e-12)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    assert figures["bits_per_token"] == pytest.approx(figures["loss"] / math.log(2))
    assert figures["bits_per_character"] == figures["bits_per_byte"] == pytest.approx(figures["bits_per_token"])


@pytest.mark.parametrize("window", [1, 7, 10_000])
def test_metrics_do_not_depend_on_the_window(run, text, monkeypatch, window):
    expected = evaluate(run, text)["loss"]
    monkeypatch.setattr(streams_task, "READ_AT_ONCE", window)
    assert evaluate(run, text)["loss"] == pytest.approx(expected, rel=1e-12)


def test_training_results_match_evaluation(run, tmp_path):
    held_out = tmp_path / "tenth.txt"
    whole = (run.path.parent / "text.txt").read_text()
    held_out.write_text(whole[len(whole) * 9 // 10 :])
    assert Inference.of(run.path, [held_out]).evaluate().data == run.result["valid"]
    assert Inference.of(run.path).evaluate().data == run.result["valid"]


def test_a_run_is_evaluated_on_its_test_data_if_it_has_any(tmp_path):
    test = tmp_path / "test.txt"
    test.write_text("over and over again\n" * 10)
    run = train_tiny(tmp_path, steps=2, test=test)
    assert run.evaluate() == run.evaluate(test) != run.evaluate(run.config.task.data)


def test_options_for_other_data_are_rejected_without_data(run):
    with pytest.raises(UserError, match="encoding_errors needs data to apply to"):
        evaluate(run, encoding_errors="replace")
    with pytest.raises(DataError, match="predictions need data"):
        Inference.of(run).predict()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (polars.DataFrame({"y": [1.0]}), "got DataFrame; write it to a .csv or .parquet file, or use .*Forecaster"),
        ([polars.DataFrame({"y": [1.0]})], "got DataFrame"),
        (np.zeros((3, 2)), "got ndarray; for arrays, use throughtime.SequenceClassifier"),
        (3, "data must be a path or a list of paths, got int"),
    ],
)
def test_data_must_be_paths(run, data, message):
    for use in (partial(predict, run), lambda data: train(data=data, target="y", horizon=1)):
        with pytest.raises(DataError, match=message):
            use(data)


def test_unknown_tokens_are_counted(run, tmp_path):
    text = tmp_path / "unknown.txt"
    text.write_text("time ☃ and ☃☃")
    figures = evaluate(run, text)
    assert figures["unknown"] == 3
    assert figures["bits_per_byte"] < figures["bits_per_character"]


def test_training_mode_is_restored(run):
    model = run.model().train()
    streams = Streams(run.description.codecs.inputs.encode("through time"), 1, 5)
    first = evaluation.total(model, streams).loss
    assert model.training
    assert evaluation.total(model.eval(), streams).loss == first
    assert not model.training


def test_invalid_input_is_reported(run, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("t")
    with pytest.raises(DataError, match="at least 2 are needed"):
        evaluate(run, short)
    with pytest.raises(DataError, match="no such file"):
        evaluate(run, tmp_path / "nowhere.txt")
    with pytest.raises(RunError, match="no such file or directory"):
        evaluate(tmp_path / "nowhere", short)

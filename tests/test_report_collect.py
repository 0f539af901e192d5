"""The contents of a run's report compared with other functions, the `inspect` command, and the report of training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_training import SAMPLED, train_tiny, write_text

import throughtime
from throughtime.cli.inspect import _rows
from throughtime.cli.main import main
from throughtime.runs import Run
from throughtime.sight import connectivity, interest
from throughtime.sight.report.collect import collect
from throughtime.sight.report.data import ReportData, Values
from throughtime.sight.report.passage import passage, passage_of
from throughtime.sight.report.render import render
from throughtime.sight.report.saving import summary
from throughtime.training.evaluation import measured
from throughtime.training.reloading import data_of, untrained
from throughtime.training.report import write_report

LENGTH = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_tiny(tmp_path_factory.mktemp("trained"), report=True, steps=20, engine="native")


@pytest.fixture(scope="module")
def data(run: Run) -> Any:
    held_out = data_of(run).valid
    return collect(run, passage_of("held out", held_out.ids, run.description.codecs.inputs, LENGTH, "character"))


def test_losses_and_probabilities_match_the_model(run: Run, data: Any) -> None:
    held_out = data_of(run).valid
    reading = data.reading
    expected = measured(run.model(), run.task, held_out, terms=LENGTH - 1)["loss"]
    assert np.nanmean(reading.losses) == pytest.approx(expected, rel=1e-6)  # float32 sums
    assert np.isnan(reading.losses[0])
    assert "".join(reading.tokens) == run.description.codecs.inputs.decode(held_out.ids[:LENGTH])
    ids = torch.from_numpy(held_out.ids[:LENGTH].astype(np.int64))
    with torch.no_grad():
        chances = run.model()(ids[:, None])[0][:-1, 0].softmax(-1)
    np.testing.assert_allclose(reading.probabilities[1:], chances.topk(5).values, rtol=1e-5)
    assert np.array_equal(reading.top[1:, 0], chances.argmax(-1))


def test_values_match_recordings_in_order_of_interest(run: Run, data: Any) -> None:
    ids = torch.from_numpy(data_of(run).valid.ids[:LENGTH].astype(np.int64))[:, None]
    model = run.model()
    with throughtime.record(model, "layer1.cell") as tape, torch.no_grad():
        model(ids)
    names = [f"{value.layer}.{value.name}" for value in data.values]
    assert names == [f"layer{k}.{n}" for k in (0, 1) for n in
                     ("input", "forget", "candidate", "output", "hidden", "cell")]  # fmt: skip
    cell = data.values[names.index("layer1.cell")]
    np.testing.assert_array_equal(cell.steps, tape["layer1.cell"][:, 0])
    assert np.array_equal(cell.units, interest(cell.steps, data.reading.tokens).order)


def test_reach_matches_connectivity(run: Run, data: Any) -> None:
    ids = data_of(run).valid.ids[:LENGTH].astype(np.int64)
    by_step = connectivity(run.model(), ids, window=5)
    # The token at 30 was predicted after the one at 29.
    np.testing.assert_allclose(data.reading.influence[30, :6], by_step.norms[29], rtol=1e-5)
    assert not data.reading.influence[0].any()


def test_only_gates_have_saturations_and_timescales(data: Any) -> None:
    assert [(s.layer, s.gate) for s in data.saturations][:3] == [
        ("layer0", "input"), ("layer0", "forget"), ("layer0", "output")]  # fmt: skip
    assert [(t.layer, t.gate) for t in data.timescales] == [("layer0", "forget"), ("layer1", "forget")]
    assert [flow.label for flow in data.flows] == ["layer0", "layer1"]
    assert all(flow.by_lag[0] == 1 for flow in data.flows)


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_other_cells_show_their_own_value_names(cell: str, tmp_path: Path) -> None:
    run = train_tiny(tmp_path, cell=cell, steps=2)
    text = passage("a text", ["through time and over\n" * 3], run.description.codecs.inputs, 60, "character")
    data = collect(run, text)
    assert {value.name for value in data.values} >= {"hidden"}
    assert bool(data.saturations) == bool(data.timescales) == (cell == "gru")


@pytest.mark.parametrize("level", ["word", "bpe"])
def test_words_and_byte_pairs_are_shown(level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_tiny(tmp_path, level=level, vocab_size=300 if level == "bpe" else None, min_count=1, steps=2)
    text = "\nand through nothing\n"
    page = tmp_path / "page.html"
    assert main(["inspect", str(run.path), "--text", text, "--out", str(page), "--save-data", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unknown"] == (2 if level == "word" else 0)  # "and" always follows a space in the training data
    tokens = json.loads(page.with_suffix(".json").read_text())["text"]
    assert len(tokens) == found["steps"]
    assert "".join(tokens) == (
        text if level == "bpe" else text.replace("nothing", "<unk>").replace("\nand", "\n <unk>")
    )


def test_the_command_writes_the_page_and_its_data(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run.path), "--length", str(LENGTH), "--save-data"]) == 0
    printed = capsys.readouterr().out
    assert str(run.path / "inspect.html") in printed
    assert f"read      {LENGTH} characters" in printed
    assert re.search(r"gradient  layer0: 1% left after", printed)
    assert (run.path / "inspect.html").read_text().startswith("<!doctype html>")
    arrays = load_file(run.path / "inspect.safetensors")
    assert arrays["values.layer0.forget"].shape == (LENGTH, 12)
    assert arrays["reading.losses"].shape == (LENGTH,)
    assert json.loads((run.path / "inspect.json").read_text())["steps"] == LENGTH


def test_unknown_characters_are_counted_and_replaced(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert (
        main(["inspect", str(run.path), "--text", "tıme über\0 alles", "--out", str(page), "--values", "*.cell"]) == 0
    )
    assert re.search(r"unknown +\d characters not seen in training", capsys.readouterr().out)
    assert "did not occur in training" in page.read_text()


def test_data_are_read_from_their_start(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, page = write_text(tmp_path / "other.txt"), tmp_path / "page.html"
    assert main(["inspect", str(run.path), str(text), "--length", "50", "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 50


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--text", ""], "has no tokens; at least 2 are needed"),
        (["--text", "t"], "has 1 token; at least 2 are needed"),
        (["--text", "time", "other.txt"], r"pass either DATA \(other.txt\) or --text, not both"),
        (["missing.txt"], "no such file"),
        (["--length", "1"], "--length must be between 2 and 20,000, got 1"),
        (["--values", "layer0.forgt"], "did you mean layer0.forget"),
        (["--engine", "nativ"], "did you mean native|no engine named"),
        (["--out", "."], "is a directory"),
    ],
)
def test_mistakes_are_reported_in_one_message(
    run: Run, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(run.path), *arguments]) == 2
    out, error = capsys.readouterr()
    assert re.search(told, error)
    assert error.count("error:") == 1
    assert not out


def test_a_missing_and_a_damaged_run_are_reported(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.json", "task.json", "program.json"):
        (damaged / name).write_bytes((run.path / name).read_bytes())
    (damaged / "model.safetensors").write_bytes(b"not weights")
    assert main(["inspect", str(damaged), "--text", "time"]) == 2
    assert "is damaged: model.safetensors" in capsys.readouterr().err


def test_missing_held_out_text_asks_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_tiny(tmp_path, steps=1)
    (tmp_path / "text.txt").unlink()
    assert main(["inspect", str(run.path)]) == 2
    assert "or pass another text with DATA or --text" in capsys.readouterr().err
    write_text(tmp_path / "text.txt", words=601)
    assert main(["inspect", str(run.path)]) == 2
    assert "has changed since" in capsys.readouterr().err


def test_training_ends_with_a_report(run: Run) -> None:
    page = run.report.read_text()
    assert re.findall(r'<section id="(\w+)"', page) == ["flow", "training", "samples"]
    content = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [f"{f['label']} {f['group']}" for f in content["flows"]] == [
        f"layer{k} {when} training" for when in ("before", "after") for k in (0, 1)
    ]
    assert [len(c["steps"]) for c in content["curves"]] == [20, sum(r["valid_loss"] is not None for r in run.metrics())]
    assert len(content["samples"][0]) == SAMPLED


def test_untrained_model_equals_the_initial_model_of_training(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, steps=1, optimizer="sgd", lr=1e-30, seed=5, init="orthogonal")
    trained = run.model().state_dict()
    for name, tensor in untrained(run).state_dict().items():
        assert torch.equal(tensor, trained[name])


def test_failing_report_leaves_the_run_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("throughtime.training.report.short_report", fails)
    run = train_tiny(tmp_path, report=True, steps=1)
    assert run.finished
    assert not run.report.exists()
    assert "could not write the report" in run.log.read_text()
    assert write_report(run, data_of(run)) is None


def test_the_summary_and_the_page_list_the_same_units():
    def values(name, interest, notes, layer="layer0"):
        interest = np.array(interest)
        return Values(layer, name, np.zeros((3, len(interest))), np.argsort(-interest), interest, notes)

    data = ReportData("some", values=[
        values("cell", [0.9, 0.0004, 0.3], ["high at spaces", "high at digits", ""]),  # 0.04% and no feature
        values("output", [0.8, 0.2, 0.1], ["low at spaces", "low in words", "rises along a word"]),  # a second value
        values("h", [0.7, 0.6], ["low at spaces", "high at spaces"], "layer1"),  # the third that follows spaces
    ])  # fmt: skip
    found = summary(data)["units"]
    wanted = [("layer0.cell", 0), ("layer1.h", 0), ("layer0.output", 1), ("layer0.output", 2)]
    assert [(each["value"], each["unit"]) for each in found] == wanted
    page = json.loads(re.search(r'id="data">(.*?)</script>', render(data), re.S)[1])
    names = [f"{each['layer']}.{each['name']}" for each in page["values"]]
    assert [(names[k], unit) for k, unit in page["interesting"]] == wanted
    printed = {"report": "page.html", "data": [], "sounds": [], "horizons": {}, "units": found}
    rows = [text for label, text in _rows(printed, "character", "character") if label == "unit"]
    assert rows[:2] == ["layer0.cell 0: high at spaces", "layer1.h 0: low at spaces"]

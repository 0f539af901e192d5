"""Reports for labels, tags and notes, compared with scikit-learn, the model and autograd."""

import json
import random
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import throughtime
from throughtime import Recurrent
from throughtime.cli.main import main
from throughtime.data.midi import KEYS
from throughtime.errors import UserError
from throughtime.nn.encoders import Numeric
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Point
from throughtime.sight import connectivity
from throughtime.sight.report.collect import collect
from throughtime.sight.report.outcome import confusion, label_results
from throughtime.sight.report.passage import Item, Passage, spread
from throughtime.sight.report.predictions import influence, read
from throughtime.tasks.sequences import all_raw_outputs
from throughtime.training.reloading import data_of

TINY = {
    "hidden_size": 8, "batch": 16, "dropout": 0.1, "threads": 1, "progress": False, "steps": 30,
    "lr": 0.02,
}  # fmt: skip


def looked(run, length=150):
    data = data_of(run)
    return collect(run, run.task.passage(data.valid, data.codecs, length, "held out"))


def content(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.S)[1])


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("words"), random.Random(1)
    for label, letters, count in (("vowels", "aeiou", 90), ("consonants", "bcdfg", 60), ("mixed", "aebc", 30)):
        words = ["".join(draw.choice(letters) for _ in range(draw.randint(1, 7))) for _ in range(count)]
        (folder / f"{label}.txt").write_text("\n".join(words) + "\n")
    options = {"task": "classify", "valid_share": 0.3, "out": folder.parent / "classified"}
    return throughtime.train(data=folder, **{**TINY, **options})


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("tags"), random.Random(1)
    names, verbs = ["Anna", "Bob", "Carla"], ["sees", "hears"]
    sentences = [
        [(draw.choice(names), "B-PER"), (draw.choice(verbs), "O"), (draw.choice(names), "B-PER")][: draw.randint(1, 3)]
        for _ in range(120)
    ]
    text = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in [*sentences, [("!", "O")]])
    (folder / "people.bio").write_text(text)
    return throughtime.train(data=folder / "people.bio", valid_share=0.3, min_count=1, out=folder / "run", **TINY)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("notes"), np.random.default_rng(0)
    parts = ["train"] * 8 + ["valid"] * 2 + ["test"] * 2
    pieces = {
        f"{part}_{k}": (draw.random((int(draw.integers(8, 14)), KEYS)) < 0.05).astype(np.uint8)
        for k, part in enumerate(parts)
    }
    np.savez(folder / "pieces.npz", **pieces)
    return throughtime.train(data=folder / "pieces.npz", out=folder / "run", **TINY)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("times"), np.random.default_rng(0)
    rows = ["id,t,x,y,kind"]
    for k in range(60):
        for t in range(int(draw.integers(3, 9))):
            rows.append(f"{k},{t},{(1 if k % 2 else -1) * t + draw.normal():.3f},{draw.normal():.3f},{'ud'[k % 2]}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    columns = {"label": "kind", "group": "id", "time": "t", "valid_share": 0.3}
    return throughtime.train(data=folder / "table.csv", out=folder / "run", bidirectional=True, **columns, **TINY)


def test_label_results_match_scikit_learn():
    draw = np.random.default_rng(0)
    labels, true = ["a", "b", "c", "d"], draw.integers(0, 3, 50)  # the last label has no cases
    probabilities = draw.dirichlet(np.ones(4), 50)
    predicted = probabilities.argmax(1)
    found = label_results(labels, true, probabilities, [f"case {k}" for k in range(50)], "cases")
    np.testing.assert_array_equal(found["confusion"].counts, confusion_matrix(true, predicted, labels=range(4)))
    table, worst = found["tables"]
    expected = np.array(precision_recall_fscore_support(true, predicted, labels=range(4), zero_division=0)).T
    assert [row[-1] for row in table.rows] == sorted((row[-1] for row in table.rows), reverse=True)
    for label, *figures in table.rows:
        np.testing.assert_allclose(figures, expected[labels.index(label)], rtol=1e-12)
    wrong = [k for k in np.argsort(probabilities[np.arange(50), true]) if predicted[k] != true[k]][:20]
    assert [row[0] for row in worst.rows] == [f"case {k}" for k in wrong]
    assert worst.rows[0][1:3] == (labels[true[wrong[0]]], labels[predicted[wrong[0]]])
    assert worst.rows[0][3:] == (probabilities[wrong[0]].max(), probabilities[wrong[0], true[wrong[0]]])


def test_rarest_labels_are_merged_if_there_are_many():
    labels = [f"label {k}" for k in range(60)]
    true = np.concatenate([np.arange(60), np.arange(50)])
    found = confusion(labels, true, (true + 1) % 60, "cases")
    assert len(found.labels) == len(found.counts) == 40
    assert found.labels[-1] == "(others)"
    assert found.counts.sum() == len(true)


def test_report_of_labels_shows_the_label_and_its_influences(classified):
    found, model, valid = looked(classified), classified.model(), data_of(classified).valid
    names = classified.description.codecs.targets.names
    shown = spread(valid, 150)
    raw = all_raw_outputs(model, valid)
    assert len(found.reading.parts) == len(shown)
    for part, k in zip(found.reading.parts, shown, strict=True):
        chances = torch.from_numpy(raw[k]).double().softmax(0).numpy()
        assert (part.answer, part.predicted) == (names[valid.targets[k]], names[chances.argmax()])
        assert part.probability == pytest.approx(chances.max(), rel=1e-5)  # float32
        assert part.loss == pytest.approx(-np.log(chances[valid.targets[k]]), rel=1e-4)
        steps = part.stop - part.start
        expected = connectivity(model, valid.inputs[k]).past(steps - 1)
        np.testing.assert_allclose(found.reading.label_influence[part.start : part.stop], expected, rtol=1e-6)
    assert found.reading.loss == pytest.approx(np.mean([part.loss for part in found.reading.parts]))
    assert found.confusion.counts.sum() == len(valid)
    assert [table.title for table in found.tables] == ["Results by label", "Worst mistakes"]
    assert found.unit == "sequence"


def test_values_match_each_sequence_run_separately(classified):
    found, valid = looked(classified), data_of(classified).valid
    k, part = spread(valid, 150)[3], found.reading.parts[3]
    with throughtime.record(model := classified.model(), "layer0.cell") as tape, torch.no_grad():
        model(torch.from_numpy(valid.inputs[k])[:, None])
    cell = next(value for value in found.values if value.name == "cell")
    np.testing.assert_array_equal(cell.steps[part.start : part.stop], tape["layer0.cell"][:, 0])


def test_report_of_tags_depends_on_both_directions(tagged):
    found, model, valid = looked(tagged), tagged.model(), data_of(tagged).valid
    reading = found.reading
    assert reading.tokens[: reading.parts[0].stop] == list(valid.tokens[spread(valid, 150)[0]])
    k, part = next((k, p) for k, p in zip(spread(valid, 150), reading.parts, strict=True) if p.stop - p.start == 3)
    expected = connectivity(model, valid.inputs[k])
    row = reading.influence[part.start + 1]  # lags from `first` on
    lags = np.arange(len(row)) + reading.first
    for lag, wanted in ((1, expected.norms[1, 1]), (0, expected.norms[1, 0]), (-1, expected.ahead[1, 1])):
        assert row[lags == lag] == pytest.approx(wanted, rel=1e-5)
    assert not row[np.abs(lags) > 1].any()
    tags = tagged.description.codecs.targets.names
    assert reading.answers[part.start : part.stop] == [tags[id] for id in valid.targets[k]]
    assert {flow.label for flow in found.flows} == {"layer0", "layer0.reverse"}
    assert found.confusion.of == "tokens"


def test_report_of_notes_shows_the_roll_and_probabilities(played):
    found, valid = looked(played), data_of(played).valid
    reading, part = found.reading, found.reading.parts[0]
    raw = all_raw_outputs(played.model(), valid)[0]
    np.testing.assert_array_equal(reading.inputs[part.start : part.stop], valid.inputs[0])
    assert not reading.bit_probabilities[part.start].any()  # nothing predicts a first step
    expected = 1 / (1 + np.exp(-raw[:-1].astype(float)))
    np.testing.assert_allclose(reading.bit_probabilities[part.start + 1 : part.stop], expected, rtol=1e-5)
    assert np.isnan(reading.losses[part.start])
    assert (reading.influence[part.start + 2, :2] > 0).all()
    assert not reading.influence[part.start + 2, 2:].any()
    assert reading.features[60 - 21] == "C4"  # middle C
    assert not found.rolls


def test_report_of_numbers_shows_them_over_time_with_influences(timed):
    found, valid = looked(timed), data_of(timed).valid
    np.testing.assert_array_equal(found.reading.inputs[: len(valid.inputs[0])], valid.inputs[0])
    assert (found.reading.label_influence > 0).all()
    assert {flow.label for flow in found.flows} == {"layer0", "layer0.reverse"}
    assert all(flow.by_lag[0] == 1 for flow in found.flows)


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("classified", ["confusion", "table-0", "table-1", "flow", "training"]),
        ("tagged", ["confusion", "table-0", "table-1", "flow", "training"]),
        ("played", ["rolls", "flow", "training"]),
    ],
)
def test_training_writes_the_report_of_the_task(name, sections, request):
    run = request.getfixturevalue(name)
    page = run.report.read_text()
    assert re.findall(r'<section id="([\w-]+)"', page) == sections
    found = content(run.report)
    assert len(found["rolls"]) == (2 if name == "played" else 0)
    part = "test" if run.result["test"] else "validation"
    assert f"on the {part} data</li>" in page
    shown = "Pieces from the" if name == "played" else "of one true label in the"
    assert f"{shown} {part} data" in page
    if name == "classified":
        assert np.sum(found["confusion"]["counts"]) == run.result["valid"]["sequences"]
        rows = found["tables"][0]["rows"]
        assert np.mean([row[3] for row in rows]) == pytest.approx(run.result["valid"]["macro_f1"], abs=1e-5)
    assert "not written" not in run.log.read_text()


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("classified", "lines", {"text", "units", "gates", "confusion", "table-0", "table-1", "saturation"}),
        ("tagged", "lines", {"text", "units", "gates", "surprise", "confusion", "table-0", "table-1"}),
        ("played", "roll", {"text", "units", "gates", "surprise"}),
        ("timed", "curves", {"text", "units", "gates", "confusion", "table-0", "table-1"}),
    ],
)
def test_the_command_writes_the_page(name, kind, wanted, request, tmp_path, capsys):
    run, page = request.getfixturevalue(name), tmp_path / "page.html"
    assert main(["inspect", str(run.path), "--length", "60", "--out", str(page), "--save-data", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sequences"] == len(content(page)["reading"]["parts"])
    assert content(page)["reading"]["kind"] == kind
    assert wanted <= set(re.findall(r'<section id="([\w-]+)"', page.read_text()))
    arrays = load_file(page.with_suffix(".safetensors"))
    assert ("reading.label_influence" in arrays) == (name in ("classified", "timed"))
    assert main(["inspect", str(run.path), "--length", "60", "--out", str(page)]) == 0
    assert re.search(r"read +\d+ \w+s in \d+ sequences\nloss ", capsys.readouterr().out)


def test_lines_of_text_are_labeled_and_tagged_without_answers(classified, tagged, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["inspect", str(classified.path), "--text", "aeiou\nbcdfgx", "--out", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sequences"], found["steps"], found["loss"], found["unknown"]) == (2, 11, None, 1)
    assert content(page)["confusion"] is None
    assert [part["answer"] for part in content(page)["reading"]["parts"]] == ["", ""]
    (tmp_path / "new.txt").write_text("aeiou\nbcdfgx\n")
    rows = list(classified.predict(tmp_path / "new.txt").rows)
    assert [(each["sequence"], each["label"]) for each in found["predictions"]] == [
        ("aeiou", rows[0][1]),
        ("bcdfgx", rows[1][1]),
    ]
    assert main(["inspect", str(classified.path), "--text", "aeiou", "--out", str(page)]) == 0
    assert re.search(r"predicted +\w+ \(\d+%\): aeiou\n", capsys.readouterr().out)
    assert main(["inspect", str(tagged.path), "--text", "Anna sees Zoe", "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == 1
    assert content(page)["reading"]["tokens"] == ["Anna", "sees", "Zoe"]


def test_other_data_may_lack_labels(classified, tmp_path, capsys):
    (tmp_path / "new.txt").write_text("aeiou\nbcdfg\n")
    page = tmp_path / "page.html"
    assert main(["inspect", str(classified.path), str(tmp_path / "new.txt"), "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] is None


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [("played", "abc", "task notes reads data from files"), ("timed", "abc", "reads data from files"),
     ("classified", " \n", "the text is empty"), ("tagged", "", "the text is empty")],
)  # fmt: skip
def test_unreadable_text_raises(name, text, told, request, capsys):
    assert main(["inspect", str(request.getfixturevalue(name).path), "--text", text]) == 2
    assert told in capsys.readouterr().err


def test_task_without_a_passage_raises(classified):
    with pytest.raises(UserError, match="inspect doesn't support task classify"):
        throughtime.tasks.base.Task.passage(classified.task, None, None, 10, "")


@pytest.mark.parametrize("returns", ["last", "steps"])
def test_regression_network_has_losses_and_a_reach(returns):
    torch.manual_seed(0)
    layers = Recurrent("gru", 2, 4, returns=returns, bidirectional=True)
    model = SequenceModel(Numeric(2), layers, Point(1, "mse")).eval()
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    targets = np.zeros((1,) if returns == "last" else (5, 1), np.float32)
    passage = Passage("some", [Item(x, targets, name="a"), Item(x[:1], targets[:1], name="b")], "step")
    found = read(model, passage, ["layer0.hidden"])[0]
    with torch.no_grad():
        raw = model(torch.from_numpy(x)[:, None])[0].squeeze(-1).numpy()
    assert found.losses[:5] == pytest.approx(np.broadcast_to(raw.T**2, (1, 5))[0], rel=1e-5)
    assert found.parts[0].loss == pytest.approx((raw**2).mean(), rel=1e-5)
    inputs = torch.from_numpy(x)[:, None].requires_grad_()
    model(inputs)[0][0].sum().backward()  # for the whole sequence, or its first step
    wanted = inputs.grad[:, 0].norm(dim=1)
    fields = influence(model, passage)
    row = fields["label_influence"][:5] if returns == "last" else fields["influence"][0, 4::-1]
    np.testing.assert_allclose(row, wanted, rtol=1e-4)

"""The classify task: learning from folders and tables, metrics, and errors."""

import csv
import json
import math
import random

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from test_train_resume import same
from torch.nn import functional

import throughtime
from throughtime.cli.main import main
from throughtime.errors import DataError, TrainingError, UserError
from throughtime.language import affine, cell, exp, inputs, tanh
from throughtime.runs import Run
from throughtime.streaming import Stream
from throughtime.training import resume
from throughtime.training.fitting import Fit
from throughtime.training.reloading import data_of

TINY = {"hidden_size": 10, "batch": 16, "dropout": 0.2, "threads": 1, "progress": False}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A folder with a file per label: words of vowels, of consonants, and a few mixed ones."""
    folder, draw = tmp_path_factory.mktemp("names"), random.Random(1)
    for label, letters, count in (("vowels", "aeiou", 90), ("consonants", "bcdfg", 60), ("mixed", "aebc", 12)):
        words = ["".join(draw.choice(letters) for _ in range(draw.randint(2, 9))) for _ in range(count)]
        (folder / f"{label}.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(names, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return throughtime.train(data=names, task="classify", epochs=15, lr=0.02, test_share=0.2, out=out, **TINY)


def test_it_learns_and_its_metrics_match_scikit_learn(run):
    data = data_of(run)
    raw = torch.stack([run.model()(torch.from_numpy(ids)[:, None])[0][0] for ids in data.test.inputs])
    targets = torch.from_numpy(data.test.targets)
    found = run.result["test"]
    # float32: sums over a batch in a different order.
    assert found["loss"] == pytest.approx(functional.cross_entropy(raw, targets).item(), rel=1e-4)
    predicted = raw.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(targets, predicted), abs=1e-6)
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"), abs=1e-6)
    assert found["accuracy"] > 0.85 > found["baselines"]["always vowels"]["accuracy"]
    counts = run.record.data.counts
    assert counts == {"train": 114, "valid": 16, "test": 32, "labels": 3}
    assert run.metrics()[-1]["valid_accuracy"] == pytest.approx(
        throughtime.training.evaluation.measured(run.model(), run.task, data.valid)["accuracy"], abs=0.2
    )


def test_a_partial_evaluation_counts_the_sequences_it_measured(run):
    data, task, model = data_of(run), run.task, run.model()
    found = throughtime.training.evaluation.measured(model, task, data.test, terms=10)
    assert found["sequences"] == 10
    assert found["loss"] == throughtime.training.evaluation.measured(model, task, task.subset(data.test, 10))["loss"]
    report = task.pictures(model, data, 4)
    assert report["confusion"].counts.sum() == 4


def test_the_weights_with_the_best_accuracy_are_kept(run):
    best = {row["step"]: row["valid_accuracy"] for row in run.metrics() if row["valid_accuracy"] is not None}
    assert best[run.result["best_step"]] == max(best.values())


def test_predictions_are_a_table(run, names, tmp_path, capsys):
    (tmp_path / "new.txt").write_text("aeiou\nbcdfg\n")
    out = tmp_path / "found.csv"
    assert main(["predict", str(run.path), str(tmp_path / "new.txt"), "--out", str(out)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["vowels", "consonants"]
    for row in rows:
        assert math.fsum(float(row[name]) for name in ("vowels", "consonants", "mixed")) == pytest.approx(1, abs=1e-6)
    assert main(["predict", str(run.path), str(tmp_path / "new.txt"), "--out", str(tmp_path / "found.jsonl")]) == 0
    lines = (tmp_path / "found.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["vowels", "consonants"]
    assert main(["predict", str(run.path), str(tmp_path / "new.txt"), "--out", str(tmp_path / "found.xls")]) == 2
    assert ".csv, .tsv, .jsonl" in capsys.readouterr().err


def test_evaluation_includes_the_baseline(run, names, capsys):
    assert main(["evaluate", str(run.path), str(names), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["baselines"]["always vowels"]["accuracy"] == pytest.approx(90 / 162)
    assert main(["evaluate", str(run.path), str(names)]) == 0
    assert "always vowels: accuracy 55.56%" in capsys.readouterr().out


def test_a_stream_classifies_without_torch(run):
    stream = Stream(run.path)
    codecs = stream.task.codecs
    for word, label in (("aeiou", "vowels"), ("bcdfg", "consonants")):
        stream.reset()
        for token in codecs.inputs.encode(word):
            raw = stream.step(int(token))
        assert codecs.targets.names[int(stream.output.predict(raw))] == label
        assert stream.output.probabilities(raw).sum() == pytest.approx(1)


def test_info_describes_a_run(run, capsys):
    assert main(["info", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert "classify: predict the label of each sequence" in shown
    assert "114 for training, 16 for validation, 32 for the test; 3 labels" in shown
    assert run.report.is_file()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_stopped_run_resumes_bit_for_bit(names, tmp_path, monkeypatch, bidirectional):
    options = {"data": names, "task": "classify", "steps": 30, "bidirectional": bidirectional, **TINY}
    whole = throughtime.train(out=tmp_path / "whole", **options)
    original = Fit._advance

    def then_stop(self, batch):
        if self.step == 17:
            raise KeyboardInterrupt
        original(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Fit, "_advance", then_stop)
        patched.setattr("throughtime.training.callbacks._CHECKPOINT_SECONDS", 0)
        with pytest.raises(TrainingError, match="--resume"):
            throughtime.train(out=tmp_path / "run", **options)
    assert same(resume(tmp_path / "run", progress=False), whole)


def test_class_weights_make_rare_labels_count_as_much(names, tmp_path):
    run = throughtime.train(
        data=names, task="classify", class_weights="balanced", steps=2, out=tmp_path / "run", **TINY
    )
    train = data_of(run).train
    sums = np.bincount(train.targets, train.weights)
    assert sums == pytest.approx(np.full(3, len(train) / 3), rel=1e-6)  # float32


def test_a_table_of_numbers_can_be_classified(tmp_path):
    draw = np.random.default_rng(0)
    rows = ["id,t,x,y,kind"]
    for k in range(60):
        sign, kind = (1, "up") if k % 2 else (-1, "down")
        for t in range(int(draw.integers(3, 9))):
            rows.append(f"{k},{t},{sign * t + draw.normal():.3f},{draw.normal():.3f},{kind}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    columns = {"label": "kind", "group": "id", "time": "t"}
    run = throughtime.train(data=table, epochs=15, lr=0.02, out=tmp_path / "run", **columns, **TINY)
    assert run.task.name == "classify"
    assert run.result["valid"]["accuracy"] >= 5 / 6
    codecs = run.description.codecs
    assert run.task.read_passage([table], codecs, length=20).features == ("x", "y")
    assert Stream(run).step(codecs.inputs.encode(np.zeros((1, 2)))[0]).shape == (2,)


def test_a_cell_learns_from_the_time_between_rows(tmp_path):
    draw = np.random.default_rng(0)
    rows = ["id,at,x,kind"]
    for k in range(80):
        at = np.datetime64("2024-05-01T00:00", "ms")
        for _ in range(int(draw.integers(4, 9))):
            at += np.timedelta64(1000 * int(draw.integers(1, 4) if k % 2 else draw.integers(5, 9)), "ms")
            rows.append(f"{k},{at},{draw.normal():.3f},{'fast' if k % 2 else 'slow'}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    columns = {"label": "kind", "group": "id", "time": "at", "gaps": True}
    run = throughtime.train(data=table, cell="cfc", epochs=15, lr=0.02, out=tmp_path / "run", **columns, **TINY)
    assert run.result["valid"]["accuracy"] == 1.0
    assert [given.name for given in run.model().recurrent.step_inputs] == ["dt"]
    scaler = run.description.codecs.inputs
    part = run.task.read([table], run.description.codecs)
    assert part.features == ("x", "dt")
    gaps = np.concatenate([x[:, 1] for x in part.inputs])
    np.testing.assert_allclose(gaps * scaler.scale[1] / 1e6, (gaps * scaler.scale[1] / 1e6).round(), atol=1e-5)
    assert all(x[0, 1] == 0 < x[1:, 1].min() for x in part.inputs)  # not shifted by their mean
    stream = Stream(run)
    for x in part.inputs[0]:
        scores = stream.step(x)
    assert run.description.codecs.targets.names[int(stream.output.predict(scores))] == "slow"
    for name, given, message in (
        ("lstm", {}, "the data provide dt at each step, but cell 'lstm' takes x alone"),
        ("cfc", {"time": None}, "gaps requires time"),
    ):
        with pytest.raises(UserError, match=message):
            throughtime.train(data=table, cell=name, out=tmp_path / "other", steps=1, **columns | given, **TINY)


def test_a_cell_with_an_input_that_the_data_lack_is_rejected(names, tmp_path):
    @cell
    def decaying(x, h, dt=inputs(width=1)):
        return exp(-dt) * tanh(affine("hidden", x, h))

    with pytest.raises(TrainingError, match="cell 'decaying' takes dt at each step, but the data provide x alone"):
        throughtime.train(data=names, task="classify", cell=decaying, out=tmp_path / "run", steps=1, **TINY)


def test_the_task_is_guessed_and_reported(tmp_path, capfd):
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(8):
            (tmp_path / "data" / label / f"{k}.txt").write_text(label * (k + 1))
    options = TINY | {"progress": True, "steps": 1, "out": tmp_path / "run"}
    throughtime.train(data=tmp_path / "data", **options)
    assert capfd.readouterr().err.startswith("task: classify (a folder with one folder per label)\n")


def test_commands_reject_runs_of_other_tasks(run, capsys):
    assert main(["sample", str(run.path)]) == 2
    assert "is a run of task classify, which can't generate samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "x\ny\n", "b.txt": ""}, "b.txt"),
        ({"a.txt": "x\ny\n"}, "1 label"),
        ({"a.txt": "x\ny\n", "b.txt": b"caf\xe9\n"}, "b.txt"),
    ],
)
def test_invalid_folders_are_reported_and_nothing_is_written(files, message, tmp_path):
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / "data" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        throughtime.train(data=tmp_path / "data", task="classify", out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


def test_a_class_with_one_sequence_is_used_for_training_and_reported(tmp_path, capfd):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("x\n" * 30)
    (tmp_path / "data" / "b.txt").write_text("y\n" * 30)
    (tmp_path / "data" / "rare.txt").write_text("z\n")
    options = TINY | {"progress": True}
    run = throughtime.train(data=tmp_path / "data", task="classify", steps=1, out=tmp_path / "run", **options)
    assert "rare" in capfd.readouterr().err
    assert Run.open(run.path).description.codecs.targets.names == ("a", "b", "rare")


def test_unseen_labels_are_reported(run, tmp_path):
    (tmp_path / "vowels.txt").write_text("aei\n")
    (tmp_path / "digits.txt").write_text("123\n")
    with pytest.raises(UserError, match="digits"):
        throughtime.evaluate(run, tmp_path)


def test_mismatched_options_are_reported(names, tmp_path):
    for options, message in (
        ({"tie": True}, "predict the tokens they read"),
        ({"window": 5}, "window is an option of text"),
        ({"label": "kind"}, "not a table"),
        ({"valid_share": 0.9, "test_share": 0.2}, "must sum to less than 1, got 0.9 and 0.2"),
    ):
        with pytest.raises(UserError, match=message):
            throughtime.train(data=names, task="classify", out=tmp_path / "run", steps=1, **options, **TINY)
    with pytest.raises(TrainingError, match="bidirectional is not allowed: this network predicts later steps"):
        throughtime.train(data=names, task="text", bidirectional=True, out=tmp_path / "run", **TINY)


def rides(folder, name, columns, rows=None):
    """Write a table of sequences: `left` is larger on the road, `right` in the woods; `other` is noise."""
    draw = np.random.default_rng(3)
    path = folder / name
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        for ride in range(40):
            road = ride % 2 == 0
            for step in range(6):
                left, right, other = draw.normal([3 * road, 3 * (not road), 0])
                table.writerow({"ride": ride, "t": step, "left": left, "right": right, "new": other,
                                "kind": "road" if road else "woods", **(rows or {})})  # fmt: skip
    return path


@pytest.fixture(scope="module")
def by_ride(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rides")
    data = rides(folder, "train.csv", ["ride", "t", "left", "right", "kind"])
    options = {**TINY, "label": "kind", "group": "ride", "time": "t", "epochs": 15, "lr": 0.02}
    return throughtime.train(data=data, out=folder / "run", **options)


def test_columns_of_a_table_are_read_by_name(by_ride, tmp_path):
    data = by_ride.config.task.data[0]
    expected = by_ride.evaluate(data)
    assert expected["accuracy"] > 0.9
    other_order = rides(tmp_path, "other.csv", ["new", "right", "kind", "t", "left", "ride"])
    assert by_ride.evaluate(other_order) == expected
    assert list(by_ride.predict(other_order)) == list(by_ride.predict(data))
    for use in (by_ride.evaluate, by_ride.predict):
        with pytest.raises(DataError, match="has no column 'right', which this network reads"):
            use(rides(tmp_path, "missing.csv", ["ride", "t", "left", "kind"]))
    (tmp_path / "text.txt").write_text("a text\n")
    with pytest.raises(DataError, match=r"text\.txt is not a table .*columns 'left', 'right'$"):
        by_ride.predict(tmp_path / "text.txt")


def test_messages_about_data_for_a_network_name_no_option_of_training(run, by_ride, tmp_path):
    columns = ["ride", "t", "left", "right", "kind"]
    for use in (by_ride.evaluate, by_ride.predict):
        with pytest.raises(DataError, match=r"column 'right' has 240 missing .* or drop their rows$"):
            use(rides(tmp_path, "gaps.csv", columns, {"right": ""}))
    options = {**TINY, "label": "kind", "group": "ride", "columns": "right"}
    with pytest.raises(DataError, match=r"or name only other columns with columns\. Task: classify"):
        throughtime.train(data=tmp_path / "gaps.csv", out=tmp_path / "run", **options)
    with pytest.raises(DataError, match=r"gaps\.csv is a table, but this network reads text files"):
        run.predict(tmp_path / "gaps.csv")


def test_characters_not_seen_in_training_are_reported(run, tmp_path, caplog):
    (tmp_path / "vowels.txt").write_text("aeé\nñe\n")
    for use in (run.evaluate, run.predict):
        caplog.clear()
        use(tmp_path / "vowels.txt")
        assert caplog.messages == ["2 of 5 characters not seen in training, read as <unk>"]


def test_tables_to_predict_need_no_labels(by_ride, tmp_path):
    expected = list(by_ride.predict(by_ride.config.task.data[0]))
    columns = ["ride", "t", "left", "right"]
    assert list(by_ride.predict(rides(tmp_path, "none.csv", columns))) == expected
    for label in ("", "sea"):  # missing, and unknown
        assert list(by_ride.predict(rides(tmp_path, "l.csv", [*columns, "kind"], {"kind": label}))) == expected
    with pytest.raises(DataError, match="has no column 'kind' for label"):
        by_ride.evaluate(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"unknown label 'sea'.* train on data that have them"):
        by_ride.evaluate(tmp_path / "l.csv")


def test_texts_of_a_table_and_of_a_file_are_predicted_alike(tmp_path):
    words = ["".join(random.Random(k).choices("aeiou" if k % 2 else "bcdfg", k=5)) for k in range(60)]
    rows = [f"{word},{'vowels' if k % 2 else 'consonants'}\n" for k, word in enumerate(words)]
    (tmp_path / "words.csv").write_text("word,kind\n" + "".join(rows))
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n")
    options = {**TINY, "text": "word", "label": "kind", "group_by": "word", "steps": 5}
    run = throughtime.train(data=tmp_path / "words.csv", out=tmp_path / "run", **options)
    (tmp_path / "new.csv").write_text("word\n" + "\n".join(words) + "\n")
    expected = [row[1:] for row in run.predict(tmp_path / "words.csv")]
    assert [row[1:] for row in run.predict(tmp_path / "new.csv")] == expected
    assert [row[1:] for row in run.predict(tmp_path / "words.txt")] == expected

"""The training report, `inspect`, `horizon` and `compare` agree on a run's horizon."""

import json
import random

import pytest
from tiny_training import write_text

import throughtime
from throughtime.cli.main import main
from throughtime.studies.horizons import horizon_of
from throughtime.training.reloading import data_of
from throughtime.training.report import short_report

SMALL = {"hidden_size": 12, "batch": 8, "engine": "reference", "threads": 1, "dropout": 0.0, "progress": False}


def text(path):
    return throughtime.train(data=write_text(path / "text.txt", 3000), window=10, steps=40, out=path / "run", **SMALL)


def labels(path):
    draw, folder = random.Random(0), path / "words"
    folder.mkdir()
    for label, letters in (("vowels", "aeiou"), ("consonants", "bcdfg")):
        words = ["".join(draw.choices(letters, k=draw.randint(8, 40))) for _ in range(80)]
        (folder / f"{label}.txt").write_text("\n".join(words))
    return throughtime.train(data=folder, task="classify", steps=40, out=path / "run", **SMALL)


@pytest.mark.parametrize("make", [text, labels])
def test_all_commands_agree_on_a_runs_horizon(make, tmp_path, capsys):
    run = make(tmp_path)
    data = data_of(run)
    after = [flow for flow in short_report(run, data).flows if flow.group == "after training"]
    reported = after[-1].lag
    assert main(["horizon", str(run.path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)[str(run.path)]["layer0"]
    capsys.readouterr()
    inspected = []
    for length in ("100", "1500"):  # the length of the page makes no difference
        assert main(["inspect", str(run.path), "--length", length, "--json"]) == 0
        inspected.append(json.loads(capsys.readouterr().out)["horizons"]["layer0"])
    assert reported is not None
    assert {printed["horizon"], *inspected, horizon_of(run.model(), run.task, data.valid)} == {reported}

"""The training report, `inspect`, `horizon` and `compare` agree on a run's horizon."""

import json
import random

import pytest
from tiny_training import write_text

import throughtime
from throughtime.cli.main import main
from throughtime.runs import Run
from throughtime.studies.horizons import horizon_of
from throughtime.training.reloading import data_of
from throughtime.training.report import short_report

SMALL = {"hidden_size": 12, "batch": 8, "threads": 1, "dropout": 0.0, "progress": False}


def text(path):
    return throughtime.train(data=write_text(path / "text.txt", 3000), window=10, steps=40, out=path / "run", **SMALL)


def labels(path):
    draw, folder = random.Random(0), path / "words"
    folder.mkdir()
    for label, letters in (("vowels", "aeiou"), ("consonants", "bcdfg")):
        words = ["".join(draw.choices(letters, k=draw.randint(8, 40))) for _ in range(80)]
        (folder / f"{label}.txt").write_text("\n".join(words))
    return throughtime.train(data=folder, task="classify", steps=40, out=path / "run", **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("make", [text, labels])
@pytest.mark.parametrize("losses", [160, 12])
def test_all_commands_agree_on_a_runs_horizon(make, losses, tmp_path, capsys):
    """The commands agree even if a time budget allows only a few losses."""
    config = make(tmp_path).path / "config.json"
    config.write_text(config.read_text().replace('"losses": 160', f'"losses": {losses}'))
    run = Run.open(config.parent)
    assert run.plan.losses == losses
    data = data_of(run)
    flows = short_report(run, data).flows
    after = [flow for flow in flows if flow.group == "after training"]
    followed = {flow.losses for flow in flows}
    reported = after[-1].lag
    assert main(["horizon", str(run.path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)[str(run.path)]["layer0"]
    followed.add(printed["losses"])
    capsys.readouterr()
    inspected = []
    for length in ("100", "1500"):  # the length of the page makes no difference
        assert main(["inspect", str(run.path), "--length", length, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        inspected.append(found["horizons"]["layer0"])
        followed.add(found["horizon_losses"])
    assert reported is not None
    compared = horizon_of(run.model(), run.task, data.valid, losses)
    assert {printed["horizon"], *inspected, compared} == {reported}
    assert followed == {12 if losses == 12 else 160 if make is text else 16}

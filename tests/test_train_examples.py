"""Training shows a prediction for a held-out example after each quarter."""

import random
import re
from unittest.mock import patch

import numpy as np
import polars
import pytest
import torch
from sounds import plucks, write
from tiny_training import write_text

import throughtime
from throughtime.training.reloading import data_of

TINY = {"hidden_size": 6, "batch": 4, "steps": 4, "threads": 1, "dropout": 0.0}
NUMBER = r"-?[\d.]+(e[+-]\d+)?"


def classify(path):
    draw = random.Random(0)
    for label, letters in (("vowels", "aeiou"), ("consonants", "bcdfg")):
        (path / f"{label}.txt").write_text("\n".join("".join(draw.choices(letters, k=6)) for _ in range(30)))
    return {"task": "classify", "data": path}


def tag(path):
    (path / "train.bio").write_text("\n".join("Ada\tB-PER\nmet\tO\nGrace\tB-PER\nHopper\tI-PER\n" for _ in range(20)))
    return {"data": path / "train.bio"}


def forecast(path):
    values = 100 + 10 * np.sin(np.arange(300) / 4)
    polars.DataFrame({"ds": np.arange(300), "y": values}).write_csv(path / "table.csv")
    return {"data": path / "table.csv", "horizon": 6, "context": 24, "target": "y"}


def effect(path):
    dry = plucks(1.0, 8000)
    write(path / "dry.wav", dry, 8000)
    write(path / "wet.wav", np.tanh(3 * dry), 8000)
    cuts = {"window": 100, "burn_in": 20, "segment": 0.05}
    return {"data": [path / "dry.wav", path / "wet.wav"], "paired": True, **cuts}


def text(path):
    return {"data": write_text(path / "text.txt"), "window": 10}


SHOWN = {
    classify: r"'[a-z]{6}' -> '(vowels|consonants)' \d+% \(correct(: '(vowels|consonants)')?\)",
    tag: r"Ada/\S+ met/\S+ Grace/\S+ Hopper/\S+",
    forecast: rf"y at \d+, 6 ahead -> {NUMBER} \(observed: {NUMBER}\)",
    effect: rf"dry {NUMBER} at 0\.\d\d\d s -> wet {NUMBER} \(recorded: {NUMBER}\)",
    text: r"(\n  .*)+",
}


@pytest.mark.parametrize("make", SHOWN, ids=lambda make: make.__name__)
def test_each_quarter_shows_a_held_out_example(make, tmp_path, capfd):
    (directory := tmp_path / "data").mkdir()
    with patch("throughtime.training.loop.write_report"):
        run = throughtime.train(**make(directory), **TINY, out=tmp_path / "run", progress=True)
    err = capfd.readouterr().err
    for percent in (25, 50, 75):
        assert re.search(rf"^after {percent}% of the training: ?{SHOWN[make]}$", err, re.M), err
    assert "after 100%" not in err
    # Examples don't use torch's generator, so training is bit-for-bit the same with and without a display.
    before = torch.get_rng_state()
    assert run.task.example(run.model(), data_of(run))
    assert torch.equal(torch.get_rng_state(), before)

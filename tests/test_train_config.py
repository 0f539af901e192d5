"""Options: nonsense is told in one message, and nothing is taken silently."""

import subprocess
import sys
from pathlib import Path

import pytest

from throughtime.errors import TrainingError
from throughtime.training import TrainConfig


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"hidden": 0}, "hidden 0: 1 or more is wanted"),
        ({"lr": -1}, "lr -1: more than 0"),
        ({"dropout": 1}, "dropout 1: less than 1"),
        ({"optimizer": "adamm"}, "did you mean adam"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"hiden": 3}, "no option is called 'hiden', did you mean hidden"),
        ({"init": "ortogonal"}, "init 'ortogonal': a range above 0 is wanted, or orthogonal"),
        ({"init": -0.1}, "a range above 0 is wanted"),
        ({"devices": "gpu"}, "devices 'gpu': a number of devices is wanted"),
        ({"steps": 2.5}, "steps 2.5"),
        ({"minutes": "inf"}, "minutes 'inf'"),
        ({"valid": 3}, "valid 3: a path is wanted"),
        ({"vocab_size": 0}, "vocab-size 0"),
    ],
)
def test_nonsense_is_told(given, told):
    with pytest.raises(TrainingError) as error:
        TrainConfig.of(**given)
    assert told in str(error.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(TrainingError) as error:
        TrainConfig.of(hidden=0, lr=-1, batch="many")
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["hidden", "batch", "lr"]


def test_none_is_not_given():
    assert TrainConfig.of(hidden=None, steps=None) == TrainConfig.of()


def test_an_end_is_set_only_where_none_is_given():
    assert TrainConfig.of().steps == 4000
    assert TrainConfig.of(minutes=1).steps is None
    assert TrainConfig.of(epochs=0.5).steps is None


def test_it_goes_to_json_and_back():
    config = TrainConfig.of(data=[Path("a.txt"), "b.txt"], init=0.1, devices="cpu:2", epochs=3)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig.of(data=["a.txt", "-"], valid="v.txt").anywhere()
    assert config.data == (str(tmp_path / "a.txt"), "-")
    assert config.valid == str(tmp_path / "v.txt")
    assert config.test is None


@pytest.mark.parametrize(
    ("given", "kind", "count"), [(1, "auto", 1), ("2", "auto", 2), ("cpu", "cpu", 1), ("cuda:4", "cuda", 4)]
)
def test_devices_are_a_number_or_a_kind(given, kind, count):
    config = TrainConfig.of(devices=given, nodes=3)
    assert (config.device_kind, config.device_count, config.processes) == (kind, count, 3 * count)


def test_options_are_known_without_torch():
    code = "import sys, throughtime.training.config; print('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"

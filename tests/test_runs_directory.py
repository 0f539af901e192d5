"""The run directory: what is wrong with it is told."""

import json
import shutil

import pytest
import torch
from tiny_training import train_tiny

import throughtime
from throughtime.errors import RunError
from throughtime.runs import Run
from throughtime.stored import RUN_FORMAT
from throughtime.training.config import TrainConfig


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture
def path(original, tmp_path):
    return shutil.copytree(original.path, tmp_path / "copy")


def use(path):
    """Everything that a run is opened for."""
    run = Run.open(path)
    run.model()
    return run.description.codecs.inputs, run.programs, run.result, run.metrics(), run.about


def test_it_is_opened_wherever_it_is(path, original):
    run = Run.open(path)
    assert run.config == original.config
    assert run.plan == original.plan
    assert run.result == original.result
    assert run.about["parameters"] == sum(p.numel() for p in original.model().parameters())
    ids = torch.zeros(3, 2, dtype=torch.long)
    assert torch.equal(throughtime.load(path)(ids)[0], original.model()(ids)[0])


@pytest.mark.parametrize("name", ["config.json", "task.json", "program.json", "model.safetensors", "result.json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "other"])
def test_damage_is_told_with_the_file(path, name, damage):
    file = path / name
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "other": b"\xff[1, 2]"}[damage])
    with pytest.raises(RunError, match=f"damaged.*{name}"):
        use(path)


@pytest.mark.parametrize("name", ["task.json", "program.json"])
def test_a_missing_file_is_told(path, name):
    (path / name).unlink()
    with pytest.raises(RunError, match=f"damaged: {name} is missing"):
        Run.open(path)


def test_weights_of_another_run_are_told(path, tmp_path):
    other = train_tiny(tmp_path, hidden_size=13)
    shutil.copy(other.path / "model.safetensors", path)
    with pytest.raises(RunError, match=r"model\.safetensors (is not of this|belongs to another) run"):
        use(path)


def test_a_half_written_run_is_told(path):
    (path / "config.json").unlink()
    with pytest.raises(RunError, match="half written"):
        Run.open(path)


def test_a_run_before_its_first_validation_has_no_model(path):
    (path / "model.safetensors").unlink()
    (path / "result.json").unlink()
    run = Run.open(path)
    assert run.result is None
    assert run.about["parameters"] is None
    with pytest.raises(RunError, match=r"no weights yet.*--resume"):
        run.model()


def test_a_newer_format_is_told(path):
    file = path / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"format": RUN_FORMAT + 1, "new": 1, "versions": {"throughtime": "9.1"}}))
    with pytest.raises(RunError, match=r"newer throughtime \(9\.1\)"):
        Run.open(path)


def test_what_is_no_run_is_told(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, told in [("nowhere", "no such directory"), ("file", "is a file"), ("empty", "not a run")]:
        with pytest.raises(RunError, match=told):
            Run.open(tmp_path / name)
    with pytest.raises(RunError, match="did you mean copy"):
        Run.open(tmp_path / "coppy")


def test_options_in_a_runs_configuration_are_one_dictionary_that_train_takes(path):
    options = json.loads((path / "config.json").read_text())["config"]
    assert TrainConfig.of(**options) == Run.open(path).config


def test_an_unknown_option_in_a_runs_configuration_is_damage(path):
    file = path / "config.json"
    content = json.loads(file.read_text())
    content["config"]["hiden_size"] = 3
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"is damaged: config\.json: config\.hiden_size"):
        Run.open(path)

"""Run directories, and errors about damaged ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tiny_training import train_tiny

import throughtime
from throughtime.cli.main import main
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
    """Read all the contents of a run."""
    run = Run.open(path)
    run.model()
    return run.description.codecs.inputs, run.programs, run.result, run.metrics(), run.about


def test_a_run_can_be_moved(path, original):
    run = Run.open(path)
    assert run.config == original.config
    assert run.plan == original.plan
    assert run.result == original.result
    assert run.about["parameters"] == sum(p.numel() for p in original.model().parameters())
    ids = torch.zeros(3, 2, dtype=torch.long)
    assert torch.equal(throughtime.load(path)(ids)[0], original.model()(ids)[0])


@pytest.mark.parametrize("name", ["config.json", "task.json", "program.json", "model.safetensors", "result.json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "other"])
def test_damage_is_reported_with_the_file(path, name, damage):
    file = path / name
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "other": b"\xff[1, 2]"}[damage])
    with pytest.raises(RunError, match=f"damaged.*{name}"):
        use(path)


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"steps": 3, "valid": {"loss": 1.0}, "test": null}'])
def test_a_result_without_its_fields_is_damage(path, content, capsys):
    (path / "result.json").write_text(content)
    with pytest.raises(RunError, match=r"damaged: result\.json"):
        _ = Run.open(path).result
    assert main(["runs", str(path.parent)]) == 0
    assert path.name in capsys.readouterr().out
    assert main(["info", str(path)]) == 2


def test_a_run_of_a_custom_task_is_not_called_damaged(path, capsys):
    file = path / "config.json"
    record = json.loads(file.read_text())
    record["config"]["task"] = "not-imported"
    file.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"is a run of the custom task 'not-imported'; open it in Python"):
        Run.open(path)
    assert main(["runs", str(path.parent)]) == 0
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("config", [3, [], None, {"task": 3}])
def test_a_config_of_the_wrong_type_is_damage(path, config):
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "config": config}))
    with pytest.raises(RunError, match=r"damaged: config\.json: config"):
        Run.open(path)


@pytest.mark.parametrize("content", [b"not weights", save({"weight": torch.zeros(1)})], ids=["text", "weights"])
def test_damage_names_the_file_once(path, content):
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=r"is damaged: model\.safetensors") as caught:
        Run.open(path).model()
    assert str(caught.value).count("model.safetensors") == 1


def test_missing_weights_of_a_finished_run_are_damage(path):
    (path / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"damaged: model\.safetensors is missing"):
        Run.open(path).model()


@pytest.mark.parametrize("name", ["task.json", "program.json"])
def test_a_missing_file_is_reported(path, name):
    (path / name).unlink()
    with pytest.raises(RunError, match=f"damaged: {name} is missing"):
        Run.open(path)


def test_weights_of_another_run_are_reported(path, tmp_path):
    other = train_tiny(tmp_path, hidden_size=13)
    shutil.copy(other.path / "model.safetensors", path)
    with pytest.raises(RunError, match=r"model\.safetensors belongs to another run"):
        use(path)


def test_an_incomplete_run_is_reported(path):
    (path / "config.json").unlink()
    with pytest.raises(RunError, match="incomplete"):
        Run.open(path)


def test_a_run_has_no_model_before_its_first_validation(path):
    (path / "model.safetensors").unlink()
    (path / "result.json").unlink()
    run = Run.open(path)
    assert run.result is None
    assert run.about["parameters"] is None
    with pytest.raises(RunError, match=r"no weights yet.*--resume"):
        run.model()


def test_a_newer_format_is_reported(path):
    file = path / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"format": RUN_FORMAT + 1, "new": 1, "versions": {"throughtime": "9.1"}}))
    with pytest.raises(RunError, match=r"newer throughtime \(9\.1\)") as caught:
        Run.open(path)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("name", ["task.json", "program.json", "result.json"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(path, name, monkeypatch):
    def refuse(self, *arguments, **options):
        if self.name == name:
            raise PermissionError(13, "Permission denied")
        return read_text(self, *arguments, **options)

    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RunError, match=rf"{name} can't be read: Permission denied") as caught:
        use(path)
    assert "damaged" not in str(caught.value)


def test_directories_that_are_not_runs_are_reported(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in [("nowhere", "no such file or directory"), ("file", "is a file"), ("empty", "not a run")]:
        with pytest.raises(RunError, match=message):
            Run.open(tmp_path / name)
    with pytest.raises(RunError, match="did you mean copy"):
        Run.open(tmp_path / "coppy")


def test_a_run_configuration_is_one_dictionary_accepted_by_train(path):
    options = json.loads((path / "config.json").read_text())["config"]
    assert TrainConfig.of(**options) == Run.open(path).config


def test_an_unknown_option_in_a_run_configuration_is_damage(path):
    file = path / "config.json"
    content = json.loads(file.read_text())
    content["config"]["hiden_size"] = 3
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"is damaged: config\.json: config\.hiden_size"):
        Run.open(path)

"""Options: all errors are reported in one message, and none is ignored silently."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import throughtime
from throughtime import tasks
from throughtime.errors import TrainingError
from throughtime.spelling import command_line
from throughtime.training import TrainConfig, TrainOptions
from throughtime.training.config import NetworkOptions, TrainingOptions


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"lr": -1}, "lr must be greater than 0, got -1"),
        ({"dropout": 1}, "dropout must be less than 1, got 1"),
        ({"seed": 2**63}, "seed must be less than 9,223,372,036,854,775,808, got 9223372036854775808"),
        ({"optimizer": "adamm"}, "did you mean adam"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"hiden": 3}, "no option named 'hiden' (did you mean hidden_size"),
        ({"init": "ortogonal"}, "init 'ortogonal': expected a positive range, or orthogonal"),
        ({"init": -0.1}, "expected a positive range"),
        ({"devices": "cpu:cuda"}, "devices 'cpu:cuda': expected a number of devices"),
        ({"devices": "gpu"}, "devices 'gpu': expected a number of devices"),
        ({"steps": 2.5}, "steps must be an integer, got 2.5"),
        ({"minutes": "inf"}, "minutes must be a finite number, got inf"),
        ({"valid": 3}, "valid 3: expected a path"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"data": []}, "data []: the list is empty"),
        ({"data": ""}, "data '': the path is empty"),
        ({"valid": ""}, "valid '': the path is empty"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"ema": 1}, "ema must be less than 1, got 1"),
    ],
)
def test_invalid_values_are_reported(given, expected):
    with pytest.raises(TrainingError) as error:
        TrainConfig.of(**given)
    assert expected in str(error.value)


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(TrainingError) as error:
        TrainConfig.of(hidden_size=0, lr=-1, batch="many")
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["hidden_size", "batch", "lr"]


def test_none_means_the_default():
    assert TrainConfig.of(hidden_size=None, steps=None) == TrainConfig.of()


def test_the_default_end_applies_only_if_none_is_set():
    assert TrainConfig.of().training.steps == 4000
    assert TrainConfig.of(minutes=1).training.steps is None
    assert TrainConfig.of(epochs=0.5).training.steps is None


def test_a_configuration_round_trips_through_json():
    config = TrainConfig.of(data=[Path("a.txt"), "b.txt"], init=0.1, devices="cpu:2", epochs=3)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig.of(data=["a.txt", "-"], valid="v.txt").anywhere()
    assert config.task.data == (str(tmp_path / "a.txt"), "-")
    assert config.task.valid == str(tmp_path / "v.txt")
    assert config.task.test is None


@pytest.mark.parametrize(
    ("given", "kind", "count"),
    [(1, "auto", 1), ("2", "auto", 2), ("cpu", "cpu", 1), ("cuda", "cuda", 1), ("cuda:4", "cuda", 4)],
)
def test_devices_are_a_number_or_a_kind(given, kind, count):
    config = TrainConfig.of(devices=given, nodes=3).training
    assert (config.device_kind, config.device_count, config.processes) == (kind, count, 3 * count)
    assert config.devices == str(given)  # as messages show it


def test_options_do_not_import_torch():
    code = "import sys, throughtime.training.config; print('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_command_line_messages_spell_options_as_flags():
    with command_line(), pytest.raises(TrainingError) as error:
        TrainConfig.of(hidden_size=0, vocab_size=0)
    assert str(error.value).splitlines() == [
        "--vocab-size must be at least 1, got 0",
        "--hidden must be at least 1, got 0",
    ]


GROUPS = (NetworkOptions, TrainingOptions, *(tasks.get(name).Options for name in tasks.BUILT_IN))


def test_train_options_match_the_configuration():
    typed = get_type_hints(TrainOptions)
    parameters = inspect.signature(throughtime.train).parameters
    fields = {name: field for group in GROUPS for name, field in group.model_fields.items()}
    assert {*typed, "data", "cell", "task"} == {*fields}
    assert {"cell", "task", "progress"} == {name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name, hint in typed.items():
        choices = {c for group in GROUPS if name in group.model_fields for c in group.choices(name)}
        if choices:
            assert choices | {type(None)} == {value for part in get_args(hint) for value in (get_args(part) or [part])}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in group.model_fields])
def test_every_option_is_documented(group, name):
    assert group.meanings()[name]


def test_options_of_other_tasks_are_reported_with_their_task():
    with pytest.raises(TrainingError, match="vocab_size is an option of text; this task is classify"):
        TrainConfig.of("classify", vocab_size=3)


def test_given_options_override_task_defaults():
    assert TrainConfig.of("classify").training.epochs
    assert TrainConfig.of("classify", steps=3).training.epochs is None
    assert TrainConfig.of("classify", hidden_size=5).network.hidden_size == 5

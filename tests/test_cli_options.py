"""The options of every command: each flag's two spellings, short forms, and `-h`."""

import inspect
import re

import pytest
from typer.main import get_command

import throughtime.cli.main as command_line
from throughtime import tasks
from throughtime.cli.commands import COMMANDS
from throughtime.cli.config_options import from_file
from throughtime.cli.main import main
from throughtime.spelling import flag
from throughtime.training.config import DEFAULT_LEARNING_RATES, NetworkOptions, TrainingOptions


def flags():
    for command in COMMANDS:
        for parameter in command_line._loaded(command).params:
            if getattr(parameter, "is_flag", False) and parameter.name != "help":
                yield pytest.param(command, parameter, id=f"{command} {parameter.opts[0]}")


def values(command, *spellings):
    """Return the arguments that the command's function receives."""
    loaded = command_line._loaded(command)
    arguments = ["x"] * sum(p.param_type_name == "argument" and p.required for p in loaded.params)
    return loaded.make_context(command, [*arguments, *spellings]).params


@pytest.mark.parametrize(("command", "parameter"), list(flags()))
def test_flags_are_true_and_their_no_forms_false(command, parameter):
    for spelling in parameter.opts:
        assert "no-" not in spelling
        assert values(command, spelling)[parameter.name] is True
    for spelling in parameter.secondary_opts:
        assert spelling.startswith("--no-")
        assert values(command, spelling)[parameter.name] is False
    assert values(command)[parameter.name] in (None, False)


def test_flags_of_both_kinds_exist():
    found = [parameter.values[1] for parameter in flags()]
    assert any(f.secondary_opts for f in found)
    assert len(found) > 5


def test_every_boolean_training_option_can_be_disabled():
    groups = (NetworkOptions, TrainingOptions, *(tasks.get(name).Options for name in tasks.BUILT_IN))
    booleans = {name for group in groups for name, field in group.model_fields.items() if field.annotation is bool}
    assert booleans == {p.values[1].name for p in flags() if p.values[0] == "train" and p.values[1].secondary_opts}


@pytest.mark.parametrize(
    ("short", "long", "name"),
    [("--hidden", "--hidden-size", "hidden_size"), ("--layers", "--num-layers", "num_layers")],
)
def test_short_forms_are_the_same_option(short, long, name):
    assert values("train", short, "7")[name] == values("train", long, "7")[name] == "7"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_h_shows_help(command, capsys):
    assert main([*filter(None, [command]), "-h"]) == 0
    assert "Usage: throughtime" in capsys.readouterr().out


def test_each_command_is_a_function_with_its_name():
    for command in COMMANDS:
        assert inspect.isfunction(getattr(__import__(f"throughtime.cli.{command}", fromlist=[command]), command))
    assert get_command(command_line.app).commands.keys() == COMMANDS.keys()


def help_of(capsys, *arguments):
    """Return the help of a command as text by heading, without line breaks within texts."""
    assert main([*arguments, "--help"]) == 0
    parts = re.split(r"^(\w[^\n]*):$", capsys.readouterr().out, flags=re.M)[1:]
    return {title: " ".join(text.split()) for title, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize(("command", "title"), [("train", "Run"), ("compare", "Comparison"), ("tune", "Search")])
def test_the_help_begins_with_the_options_of_the_command(command, title, capsys):
    assert list(help_of(capsys, command))[:3] == ["Arguments", title, "Task text"]


def test_the_help_of_studies_differs_where_their_options_do(capsys):
    compared, searched = " ".join(help_of(capsys, "compare").values()), " ".join(help_of(capsys, "tune").values())
    assert "--cell NAME" not in compared
    assert "--cell NAME A single cell to use instead of --cells" in searched
    assert "--init-from" not in compared + searched  # an error in both
    assert "runs/DATE-TIME-compare-DATA" in compared
    assert "runs/DATE-TIME-tune-DATA" in searched


@pytest.mark.parametrize("task", tasks.BUILT_IN)
def test_placeholders_are_those_of_the_task(task, capsys):
    shown = help_of(capsys, "train", "--task", task)[f"Task {task}"]
    group = tasks.options_of(task)
    for name in group.model_fields.keys() - {"task", "data", *group.unused}:
        if choices := group.choices(name):
            assert f"{flag(name)} {'|'.join(choices)} " in shown
        else:
            assert f"{flag(name)} " in shown


def test_options_without_effect_are_not_in_the_help(capsys):
    listed = {t: "--encoding-errors" in help_of(capsys, "train", "--task", t)[f"Task {t}"] for t in tasks.BUILT_IN}
    assert {name for name, is_listed in listed.items() if not is_listed} == {"audio", "effect", "notes"}


def test_the_help_has_the_default_learning_rates():
    text = TrainingOptions.meanings()["lr"]
    for optimizer, rate in DEFAULT_LEARNING_RATES.items():
        assert re.search(rf"\b{rate:g} for( \w+ and)? {optimizer}\b", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_has_no_placeholders_and_bounds_in_typers_form(command, capsys):
    shown = " ".join(help_of(capsys, command).values())
    assert not re.search(r"<\w+>|\[x[<>]", shown)


def test_a_file_of_options_may_use_short_forms(tmp_path):
    file = tmp_path / "options.json"
    file.write_text('{"hidden": 8, "layers": 2, "steps": 3}')
    assert from_file(file) == {"hidden_size": 8, "num_layers": 2, "steps": 3}


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_the_help_names_the_engines_and_no_files_of_a_checkout(command, capsys):
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--engine native|torch|reference" in printed
    assert "docs/" not in printed

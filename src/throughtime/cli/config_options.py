"""Command-line options for `throughtime train`, derived from the fields of its configuration."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from throughtime import engines, tasks
from throughtime.cli.cell_option import CELL_HELP
from throughtime.errors import TrainingError
from throughtime.options import Options
from throughtime.paths import run_path
from throughtime.spelling import SHORT_FORMS, flag
from throughtime.stored import CONFIG
from throughtime.training.config import NetworkOptions, TrainConfig, TrainingOptions

_GROUPS: tuple[type[Options], ...] = (NetworkOptions, TrainingOptions)
_GENERAL = "text"  # --help shows the options of this task if no task is named
# Headings in the help, each keyed by the first field below it.
_HEADINGS = {"cell": "Network", "batch": "Training", "epochs": "How long", "seed": "Execution"}
# Short forms, which are allowed in a file of options too.
_NAMES = {short.removeprefix("--"): name for name, short in SHORT_FORMS.items() if short.startswith("--")}
_SEVERAL = ("cell_options", "knob")  # repeatable options
_PLACEHOLDERS = {
    "cell_options": "NAME=VALUE",
    "knob": "NAME=VALUE",
    "valid": "PATH",
    "test": "PATH",
    "out": "DIR",
    "columns": "NAMES",
    "target": "NAMES",
    "past": "NAMES",
    "future": "NAMES",
    "static": "NAMES",
    "token_column": "NAME|N",
    "tag_column": "NAME|N",
    "label_pattern": "REGEX",
    "freq": "INTERVAL",
    "split": "A,B,C",
    "quantiles": "Q,Q,...",
    "init": "RANGE|orthogonal",
    "init_from": "RUN",
    "engine": "|".join(engines.NAMES),
    "devices": "N|cpu|cuda|cpu:N|cuda:N",
}


def with_config_options(
    command: Callable[..., None], texts: Mapping[str, str | None] | None = None
) -> Callable[..., None]:
    """Add the options of a training configuration to a command that takes `**given`.

    The command accepts the options of all tasks; its help shows those of the task named by --task, after the command's
    own. Values arrive as strings, or None for options not given; the configuration validates them.

    Args:
        command: the command.
        texts: help texts of options that differ from those of `train`, None for an option that the help leaves out.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD]
    fields = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, group))
              for name, group in _fields()]  # fmt: skip
    command.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *fields)}
    command.describe = partial(described, texts or {})  # type: ignore[attr-defined]
    return command


def described(
    texts: Mapping[str, str | None], arguments: Sequence[str]
) -> dict[str, tuple[str, str, str | None] | None]:
    """Return each option's heading, help text and placeholder for the task named in the arguments.

    Args:
        texts: help texts that replace those of the options' classes.
        arguments: the command's arguments.

    Returns:
        The three by option name; None for an option that the help leaves out, such as those of other tasks.
    """
    named = [after for at, after in pairwise(arguments) if at == "--task"]
    named += [argument.partition("=")[2] for argument in arguments if argument.startswith("--task=")]
    name = named[-1] if named else _GENERAL
    defaults = TrainConfig.of(name).given
    of_task = tasks.options_of(name)
    owners = {field: group for group in (of_task, *_GROUPS) for field in group.model_fields}
    meanings = {key: text for group in (of_task, *_GROUPS) for key, text in group.meanings().items()}
    meanings["cell"] = f"the recurrent cell: {CELL_HELP}."
    found: dict[str, tuple[str, str, str | None] | None] = {}
    heading = f"Task {name}"
    for field, _ in _fields():
        heading = _HEADINGS.get(field, heading)
        text = texts.get(field, meanings.get(field, ""))
        if text is None or field not in defaults or field in of_task.unused:
            found[field] = None
            continue
        default = defaults[field]
        plain = field in texts or default is None or default is False or default == {}
        shown = "" if plain else f"  [default: {default}]"
        found[field] = heading, _sentence(text, defaults) + shown, _placeholder(field, owners[field])
    others = [other for other in tasks.names() if other != name]
    about = f"What to learn: {', '.join(tasks.names())}. Default: inferred from DATA."
    about += f" `--task {others[0]} --help` shows another task's options."
    found["task"] = f"Task {name}", about, _placeholder("task", of_task)
    return found


def from_file(path: Path) -> dict[str, Any]:
    """Read options from a JSON file, or the options that a run started with from its directory or its config.json.

    Raises:
        TrainingError: if the file can't be read or is not a single JSON object.
    """
    path = run_path(path)
    if path.is_dir():
        path /= CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not JSON ({error})"
        raise TrainingError(f"can't read the configuration {path}: {reason}") from None
    if not isinstance(fields, dict):
        raise TrainingError(f'the configuration {path} is not a JSON object, such as {{"hidden_size": 256}}')
    if not isinstance(fields.get("config"), dict):
        return {_NAMES.get(str(name), str(name)): value for name, value in fields.items()}
    return {name: value for name, value in fields["config"].items() if name != "out" and value is not None}


def _fields() -> Iterator[tuple[str, type[Options]]]:
    """Yield each option's name once with a class that defines it, tasks' options first."""
    seen = set()
    for group in (*map(tasks.options_of, tasks.names()), *_GROUPS):
        for name in group.model_fields:
            if name not in seen and name != "data":
                seen.add(name)
                yield name, group


def _annotation(name: str, group: type[Options]) -> Any:
    is_flag, several = group.model_fields[name].annotation is bool, name in _SEVERAL
    return Annotated[
        bool | None if is_flag else list[str] | None if several else str | None,
        typer.Option(
            *_spellings(name, is_flag),
            metavar=_placeholder(name, group),
            show_default=False,
            autocompletion=_completer(_choices(name, group)),
        ),
    ]


def _spellings(name: str, is_flag: bool) -> list[str]:
    if is_flag:
        return [f"{flag(name)}/{flag('no_' + name)}"]
    return [flag(name), *([SHORT_FORMS[name]] if name in SHORT_FORMS else [])]


def _completer(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def _sentence(meaning: str, known: dict[str, Any]) -> str:
    """Turn a field's docstring entry into a sentence about command-line options."""
    text = re.sub(r"`(\w+)`", lambda m: flag(m[1]) if m[1] in known else m[0], meaning)
    return text[:1].upper() + text[1:]


def _choices(name: str, group: type[Options]) -> tuple[str, ...]:
    return tuple(tasks.names()) if name == "task" else group.choices(name)


def _placeholder(name: str, group: type[Options]) -> str | None:
    """Return what an option's help shows for its value; None for a flag."""
    if name in _PLACEHOLDERS:
        return _PLACEHOLDERS[name]
    if choices := _choices(name, group):
        return "|".join(choices)
    annotation = group.model_fields[name].annotation
    kind = str(annotation)
    return None if annotation is bool else "N" if "int" in kind else "X" if "float" in kind else "NAME"

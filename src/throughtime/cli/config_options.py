"""Command-line options for `throughtime train`, derived from the fields of its configuration."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from throughtime import tasks
from throughtime.cli.cell_option import CELL_HELP
from throughtime.errors import TrainingError
from throughtime.options import Options
from throughtime.spelling import SHORT_FORMS, flag
from throughtime.training.config import NetworkOptions, TrainConfig, TrainingOptions

_GROUPS: tuple[type[Options], ...] = (NetworkOptions, TrainingOptions)
_GENERAL = "text"  # --help shows the options of this task if no task is named
# Headings in the help, each keyed by the first field below it.
_HEADINGS = {"cell": "Network", "batch": "Training", "epochs": "How long", "seed": "Run"}
_SEVERAL = ("cell_options", "knob")  # repeatable options
_PLACEHOLDERS = {
    "cell_options": "NAME=VALUE",
    "knob": "NAME=VALUE",
    "cell": "NAME",
    "engine": "NAME",
    "valid": "PATH",
    "test": "PATH",
    "out": "DIR",
    "init": "RANGE|orthogonal",
    "init_from": "RUN",
    "devices": "N|cpu|cuda|cpu:N|cuda:N",
}


def with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a training configuration to a command that takes `**given`.

    The command accepts the options of all tasks; its help shows those of the task named by --task. Values arrive as
    strings, or None for options not given; the configuration validates them.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD]
    fields = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, group))
              for name, group in _fields()]  # fmt: skip
    command.__signature__ = inspect.Signature([*own[:1], *fields, *own[1:]])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *fields)}
    command.describe = described  # type: ignore[attr-defined]
    return command


def described(arguments: Sequence[str]) -> dict[str, tuple[str, str] | None]:
    """Return each option's heading and help for the task named in the arguments; None for options of other tasks."""
    named = [after for at, after in pairwise(arguments) if at == "--task"]
    named += [argument.partition("=")[2] for argument in arguments if argument.startswith("--task=")]
    name = named[-1] if named and named[-1] in tasks.names() else _GENERAL
    defaults = TrainConfig.of(name).given
    meanings = {key: text for group in (tasks.options_of(name), *_GROUPS) for key, text in group.meanings().items()}
    meanings["cell"] = f"the recurrent cell: {CELL_HELP}."
    found: dict[str, tuple[str, str] | None] = {}
    heading = f"Task: {name}"
    for field, _ in _fields():
        heading = _HEADINGS.get(field, heading)
        if field not in defaults:
            found[field] = None
            continue
        default = defaults[field]
        shown = "" if default is None or default is False or default == {} else f"  [default: {default}]"
        found[field] = heading, _sentence(meanings.get(field, ""), defaults) + shown
    others = [other for other in tasks.names() if other != name]
    about = f"What to learn: {', '.join(tasks.names())}. Default: inferred from DATA."
    found["task"] = f"Task: {name}", f"{about} `--task {others[0]} --help` shows another task's options."
    return found


def from_file(path: Path) -> dict[str, Any]:
    """Read options from a JSON file, or the options a run started with from its config.json.

    Raises:
        TrainingError: if the file can't be read or is not a single JSON object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not JSON ({error})"
        raise TrainingError(f"can't read the configuration {path}: {reason}") from None
    if not isinstance(fields, dict):
        raise TrainingError(f'the configuration {path} is not a JSON object, such as {{"hidden_size": 256}}')
    if not isinstance(fields.get("config"), dict):
        return fields
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
    annotation = group.model_fields[name].annotation
    is_flag, several = annotation is bool, name in _SEVERAL
    choices = tuple(tasks.names()) if name == "task" else group.choices(name)
    return Annotated[
        bool | None if is_flag else list[str] | None if several else str | None,
        typer.Option(
            *_spellings(name, is_flag),
            metavar=None if is_flag else _placeholder(name, annotation, choices),
            show_default=False,
            autocompletion=_completer(choices),
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


def _placeholder(name: str, annotation: Any, choices: tuple[str, ...]) -> str:
    if name in _PLACEHOLDERS:
        return _PLACEHOLDERS[name]
    if choices:
        return "|".join(choices)
    kind = str(annotation)
    return "N" if "int" in kind else "X" if "float" in kind else "NAME"

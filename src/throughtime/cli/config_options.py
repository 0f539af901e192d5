"""The options of `throughtime train`: the fields of its configuration, with their meanings and defaults from there."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from throughtime.cli.cell_option import CELL_HELP
from throughtime.errors import TrainingError
from throughtime.spelling import SHORT_FORMS, flag
from throughtime.training.config import TrainConfig

# The headings in the help, each at the first field under it.
_HEADINGS = {"level": "Text", "cell": "Network", "window": "Training", "epochs": "How long", "seed": "Run"}
_PLACEHOLDERS = {
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
    """Gives a command, which takes `**given`, the options of a training configuration after its own.

    Their values are texts, or None where an option is not given: checking them is the configuration's affair.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD]
    fields = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
              for name, annotation in _annotations()]  # fmt: skip
    command.__signature__ = inspect.Signature([*own[:1], *fields, *own[1:]])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *fields)}
    return command


def from_file(path: Path) -> dict[str, Any]:
    """The fields that a JSON file gives; of a run's config.json, those that the run was begun with.

    Raises:
        TrainingError: if it can't be read, or is not one JSON object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not JSON ({error})"
        raise TrainingError(f"the configuration {path} can't be read: {reason}") from None
    if not isinstance(fields, dict):
        raise TrainingError(f'the configuration {path} is not a JSON object, such as {{"hidden_size": 256}}')
    begun = fields.get("config")
    return {name: value for name, value in begun.items() if name != "out"} if isinstance(begun, dict) else fields


def _annotations() -> Iterator[tuple[str, Any]]:
    meanings, heading = _meanings(), ""
    for name, field in TrainConfig.model_fields.items():
        heading = _HEADINGS.get(name, heading)
        if name == "data":
            continue
        if name == "cell":
            meanings[name] = f"The recurrent cell: {CELL_HELP}."
        default = "" if field.default is None or field.default is False else f"  [default: {field.default}]"
        choices = _choices(field.annotation)
        is_flag = field.annotation is bool
        yield (
            name,
            Annotated[
                bool | None if is_flag else str | None,
                typer.Option(
                    *_spellings(name, is_flag),
                    help=meanings.get(name, "") + default,
                    metavar=None if is_flag else _placeholder(name, field.annotation),
                    show_default=False,
                    rich_help_panel=heading,
                    autocompletion=_completer(choices),
                ),
            ],
        )


def _spellings(name: str, is_flag: bool) -> list[str]:
    if is_flag:
        return [f"{flag(name)}/{flag('no_' + name)}"]
    return [flag(name), *([SHORT_FORMS[name]] if name in SHORT_FORMS else [])]


def _completer(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def _meanings() -> dict[str, str]:
    """What the configuration's docstring says of each field, as a sentence about options."""
    text = inspect.cleandoc(TrainConfig.__doc__ or "").partition("Attributes:\n")[2]
    text = re.sub(r"`(\w+)`", lambda m: flag(m[1]) if m[1] in TrainConfig.model_fields else m[0], text)
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    sentences = ((names, " ".join(meaning.split())) for names, meaning in entries)
    return {name: text[:1].upper() + text[1:] for names, text in sentences for name in names.split(", ")}


def _choices(annotation: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _placeholder(name: str, annotation: Any) -> str:
    if name in _PLACEHOLDERS:
        return _PLACEHOLDERS[name]
    return "|".join(_choices(annotation)) or ("N" if "int" in str(annotation) else "X")

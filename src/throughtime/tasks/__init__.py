"""Tasks: what a network learns, each in one file. Everything else is written once and knows no task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from throughtime.data.table import TABLES
from throughtime.errors import TrainingError, nearest
from throughtime.paths import display_path
from throughtime.spelling import option, setting
from throughtime.tasks.base import Task, registered

__all__ = ["BUILT_IN", "Task", "chosen", "get", "names"]

# Where the data speak for several tasks, the first is chosen: a folder of folders of MIDI files is for notes.
_HOMES = {
    name: f"throughtime.tasks.{name}" for name in ("text", "notes", "tag", "effect", "classify", "audio", "forecast")
}
BUILT_IN = tuple(_HOMES)

# Tasks that are chosen by other means than their name.
_UNLISTED = (
    dict.fromkeys(("array-classification", "array-regression"), "throughtime.tasks.arrays")
    | {"frame-forecast": "throughtime.tasks.forecast_frames"}
    | {
        f"memory-{name}": "throughtime.tasks.long_lags"
        for name in ("adding", "copy", "temporal-order", "parity", "reber")
    }
)


def names() -> list[str]:
    """The names that a user can choose from: the built-in tasks, and those whose Python has been run."""
    return [name for name in dict.fromkeys([*_HOMES, *registered()]) if name not in _UNLISTED]


def get(name: str) -> type[Task[Any]]:
    """The task of a name.

    Raises:
        TrainingError: if there is none.
    """
    home = (_HOMES | _UNLISTED).get(name)
    if home is not None:
        import_module(home)
    try:
        return registered()[name]
    except KeyError:
        raise TrainingError(
            f"task {name!r} is unknown{nearest(name, names())} (known are {', '.join(names())}; a task of your own has "
            "to be imported first)"
        ) from None


def chosen(task: str | type[Task[Any]] | None, options: Mapping[str, Any]) -> tuple[type[Task[Any]], str]:
    """The task that is asked for, or the one that the data speak for, with the reason.

    Args:
        task: a name or a class; guessed if not given.
        options: the options that were given.

    Raises:
        TrainingError: the task is unknown, or the data are a table and no option says what to learn from it.
    """
    if task is not None:
        return (get(task) if isinstance(task, str) else task), ""
    for name in names():
        kind = get(name)
        if why := kind.speaks_for(options):
            return kind, why
    return get("text"), _why_text(options.get("data") or ())


def _why_text(data: Any) -> str:
    """Why data are learned as text if no other task speaks for them.

    Raises:
        TrainingError: a table is among them.
    """
    for path in map(Path, [data] if isinstance(data, str | os.PathLike) else data):
        inside = [file for file in path.iterdir() if file.name[0] != "."] if path.is_dir() else [path]
        tables = [file for file in inside if file.suffix.lower() in TABLES and file.is_file()]
        if tables:
            raise TrainingError(
                f"{display_path(tables[0])} is a table, and no option says what to learn from it: use "
                f"{option('target')} and {option('horizon')} to forecast, {option('label')} to tell labels, "
                f"{setting('task', 'tag')} for a tag per row, or {setting('task', 'text')} to learn its characters"
            )
        if path.is_dir() and sum(file.suffix.lower() == ".txt" for file in inside) > 1:
            return f"a folder of text files; with {setting('task', 'classify')} each file is a label"
    return ""

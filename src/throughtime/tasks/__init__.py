"""Tasks: what a network learns, each in one file. Everything else is written once and knows no task."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from throughtime.errors import TrainingError, nearest
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
    """
    if task is not None:
        return (get(task) if isinstance(task, str) else task), ""
    for name in names():
        kind = get(name)
        if why := kind.speaks_for(options):
            return kind, why
    return get("text"), ""

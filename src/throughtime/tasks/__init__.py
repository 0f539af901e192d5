"""Tasks, one per module. Training, evaluation and reports use only the interface `Task`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.errors import DataError, TrainingError, nearest
from throughtime.paths import display_path
from throughtime.spelling import option, setting
from throughtime.tasks.registry import registered

if TYPE_CHECKING:
    from throughtime.tasks.base import Task
    from throughtime.tasks.options import TaskOptions

__all__ = ["BUILT_IN", "chosen", "get", "names", "options_of", "owners", "paths_of"]

# If the data match several tasks, the first one wins: a folder of folders of MIDI files is for notes.
_HOMES = {
    name: f"throughtime.tasks.{name}" for name in ("text", "notes", "tag", "effect", "classify", "audio", "forecast")
}
BUILT_IN = tuple(_HOMES)

# Tasks that users don't choose by name.
_UNLISTED = (
    dict.fromkeys(("array-classification", "array-regression"), "throughtime.tasks.arrays")
    | {"frame-forecast": "throughtime.tasks.forecast_frames"}
    | {
        f"memory-{name}": "throughtime.tasks.long_lags"
        for name in ("adding", "copy", "temporal-order", "parity", "reber")
    }
)

_JSON = (".json", ".jsonl", ".ndjson")


def names() -> list[str]:
    """Return the names that a user can choose from: the built-in tasks and the custom tasks imported so far."""
    return [name for name in dict.fromkeys([*_HOMES, *registered]) if name not in _UNLISTED]


def get(name: str) -> type[Task[Any]]:
    """Return the task with the given name.

    Raises:
        TrainingError: if there is no such task.
    """
    home = (_HOMES | _UNLISTED).get(name)
    if home is not None:
        import_module(home)
    try:
        return registered[name]
    except KeyError:
        raise TrainingError(
            f"unknown task {name!r}{nearest(name, names())}; expected one of {', '.join(names())} (import the module "
            "of a custom task first)"
        ) from None


def is_known(name: str) -> bool:
    """Return whether a task is built in, or custom and imported."""
    return name in (_HOMES | _UNLISTED) or name in registered


def options_of(task: str | type[Task[Any]]) -> type[TaskOptions]:
    """Return the class of a task's options; for a name in `BUILT_IN`, without importing the task.

    Args:
        task: the name or the class of the task.

    Raises:
        TrainingError: if there is no such task.
    """
    if task in _HOMES:
        found: type[TaskOptions] = getattr(
            import_module(f"throughtime.tasks.options.{task}"), f"{str(task).capitalize()}Options"
        )
        return found
    return (get(task) if isinstance(task, str) else task).Options


def owners(name: str) -> list[str]:
    """Return the names of the tasks that have the given option of their own."""
    return [task for task in names() if name in options_of(task).model_fields]


def paths_of(data: Any) -> list[str | Path]:
    """Return the paths that a user passed as data: one, or several.

    Raises:
        DataError: if the data are something else, such as a data frame.
    """
    # Data frames and arrays are iterable, but have a shape.
    single = isinstance(data, str | os.PathLike) or hasattr(data, "shape") or not isinstance(data, Iterable)
    paths = [data] if single else list(data)
    for path in paths:
        if isinstance(path, str | os.PathLike):
            continue
        advice = ""
        if type(path).__module__.partition(".")[0] in ("pandas", "polars"):
            advice = "; write it to a .csv or .parquet file, or use throughtime.Forecaster, which reads data frames"
        elif hasattr(path, "shape"):
            advice = "; for arrays, use throughtime.SequenceClassifier, SequenceRegressor or Forecaster"
        raise DataError(f"data must be a path or a list of paths, got {type(path).__name__}{advice}")
    return paths


def chosen(task: str | type[Task[Any]] | None, options: Mapping[str, Any]) -> tuple[type[Task[Any]], str]:
    """Return the requested task, or infer one from the data and explain why.

    Args:
        task: a name or a class; inferred from the data if None.
        options: the options that the user set; None leaves an option unset.

    Raises:
        DataError: if the data are not paths.
        TrainingError: if the task is unknown, or the data are a table or JSON and no option says what to learn from it.
    """
    data = () if options.get("data") is None else paths_of(options["data"])
    if task is not None:
        return (get(task) if isinstance(task, str) else task), ""
    for name, value in options.items():
        of = owners(name)
        # Text is the task of all other data, so its options don't rule out that a table needs an explanation.
        if len(of) == 1 and of != ["text"] and value not in (None, options_of(of[0]).model_fields[name].default):
            kind = get(of[0])
            return kind, kind.detect(options) or f"{option(name)} is set"
    for name in names():
        kind = get(name)
        if why := kind.detect(options):
            return kind, why
    return get("text"), _why_text(data)


def _why_text(paths: Sequence[str | Path]) -> str:
    """Explain why the task is text: no other task matches the data.

    Raises:
        TrainingError: if the data contain a table, or are JSON.
    """
    from throughtime.data.table import TABLES

    for path in map(Path, paths):
        inside = [file for file in path.iterdir() if file.name[0] != "."] if path.is_dir() else [path]
        tables = [file for file in inside if file.suffix.lower() in TABLES and file.is_file()]
        if tables:
            raise TrainingError(
                f"{display_path(tables[0])} is a table, and no option says what to learn from it: use "
                f"{option('target')} and {option('horizon')} to forecast, {option('label')} to classify, "
                f"{setting('task', 'tag')} for a tag per row, or {setting('task', 'text')} to learn its characters"
            )
        if path.suffix.lower() in _JSON and path.is_file():
            raise TrainingError(
                f"{display_path(path)} is JSON, which no task reads as a table: convert it to CSV or Parquet, or use "
                f"{setting('task', 'text')} to learn its characters"
            )
        if path.is_dir() and sum(file.suffix.lower() == ".txt" for file in inside) > 1:
            return f"a folder of text files; with {setting('task', 'classify')} each file is a label"
    return ""

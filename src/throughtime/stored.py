"""Names of stored parameters and of the files in a run directory, and checks of such directories. Needs only NumPy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from throughtime.errors import ProgramError, RunError, VersionError, nearest
from throughtime.paths import LATEST, RUNS, display_path, missing, runs_in
from throughtime.program.core import Program
from throughtime.program.saving import list_from_json
from throughtime.spelling import command, counted

RUN_FORMAT = 3  # the format version of run directories

CONFIG, TASK, PROGRAMS, WEIGHTS = "config.json", "task.json", "program.json", "model.safetensors"
RESULT, INITIAL, REPLAYED = "result.json", "initial.safetensors", "replayed.f64"

_LISTED = 5  # maximum number of names in a message


def stored_name(parameter: str, suffix: str) -> str:
    """Return the name under which a module stores a program's parameter; torch doesn't allow dots in it."""
    return parameter.replace(".", "_") + suffix


def initial_name(state: str, suffix: str) -> str:
    """Return the name under which a module stores a state's learned initial value."""
    return stored_name(f"initial.{state}", suffix)


def read_programs(path: Path) -> tuple[Program, ...]:
    """Read the programs of a run's layers.

    Args:
        path: the run's directory.

    Raises:
        RunError: if the file is missing, damaged, or from a newer version.
    """
    try:
        return list_from_json(read_text(path / PROGRAMS))
    except VersionError as error:
        raise VersionError(f"{path / PROGRAMS}: {error}") from None
    except (UnicodeDecodeError, ProgramError) as error:
        raise RunError(f"{path} is damaged: {PROGRAMS}: {error}") from None


def require_run(path: Path) -> None:
    """Check that a path is the directory of a run that has started.

    Raises:
        RunError: if it is not; the message describes what was found.
    """
    if not path.exists():
        similar = nearest(os.fspath(path), [LATEST])
        raise RunError(f"{missing(path)}{similar}; {command('runs')} lists the runs under {RUNS}/")
    if not path.is_dir():
        raise RunError(f"{display_path(path)} is a file; expected the directory of a run, or {LATEST}")
    if (path / CONFIG).is_file():
        return
    inside = sorted(path.iterdir())
    if (path / WEIGHTS).is_file():
        raise RunError(f"{display_path(path)} is damaged: {CONFIG} is missing")
    if any(p.name in (TASK, PROGRAMS) or p.suffix == ".part" for p in inside):
        raise RunError(
            f"{display_path(path)} is incomplete: it has no {CONFIG}, as the run ended before its first step; "
            "remove it and train again"
        )
    raise RunError(f"{display_path(path)} is not a run: {_contents(path, inside)}")


def _contents(path: Path, inside: Sequence[Path]) -> str:
    """Describe the contents of a directory that is not a run."""
    if runs := [display_path(run) for run in reversed(runs_in(path))]:
        listed = ", ".join(runs[:_LISTED]) + (", ..." if len(runs) > _LISTED else "")
        newest = f", or {LATEST} for the newest" if path == Path(RUNS) else ""
        return f"it is a directory of {counted(len(runs), 'run')}; choose one{newest}: {listed}"
    if not inside:
        return "it is an empty directory"
    listed = ", ".join(display_path(p.name) for p in inside[:_LISTED]) + (", ..." if len(inside) > _LISTED else "")
    return f"it has no {CONFIG}, only {listed}"


def require_new(path: Path) -> None:
    """Check that a directory for a new run is empty or doesn't exist.

    Raises:
        RunError: if it isn't empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        hint = f", or resume the run: --resume {display_path(path)}" if (path / CONFIG).is_file() else ""
        raise RunError(f"{display_path(path)} already exists; choose another directory{hint}")


def remover(path: Path) -> Callable[[], None]:
    """Return a function that removes a directory that is about to be created, along with its new parents."""
    new = [p for p in (path, *path.parents) if not p.exists()]

    def remove() -> None:
        if path in new:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir():  # it existed and was empty
            for inside in path.iterdir():
                shutil.rmtree(inside, ignore_errors=True) if inside.is_dir() else inside.unlink(missing_ok=True)
        for parent in new[1:]:
            with suppress(OSError):  # another run may be in it by now
                parent.rmdir()

    return remove


def read_text(path: Path) -> str:
    """Read a text file of a run.

    Raises:
        RunError: if it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}") from None


def require_format(path: Path, content: object) -> None:
    """Check the format version in a run's config.json.

    Raises:
        VersionError: if the format is newer or older.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(content, dict) and isinstance(found, int) and found != RUN_FORMAT:
        made = content.get("versions")
        by = made.get("throughtime", "?") if isinstance(made, dict) else "?"
        if found < RUN_FORMAT:
            raise VersionError(
                f"{path} is a run of throughtime {by} in format {found}, which is no longer supported; train it again"
            )
        raise VersionError(
            f"{path} is from a newer throughtime ({by}): "
            f"its format is {found}, but this version supports up to {RUN_FORMAT}; install a newer throughtime"
        )

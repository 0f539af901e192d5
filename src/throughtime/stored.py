"""How what was trained is kept: what parameters and files are called. Needs NumPy alone, as what reads it may."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from throughtime.errors import ProgramError, RunError
from throughtime.paths import RUNS, display_path, missing
from throughtime.program.core import Program
from throughtime.program.saving import list_from_json
from throughtime.spelling import command

RUN_FORMAT = 3  # of a run directory

CONFIG, TASK, PROGRAMS, WEIGHTS = "config.json", "task.json", "program.json", "model.safetensors"
RESULT, INITIAL, REPLAYED = "result.json", "initial.safetensors", "replayed.f64"

_LISTED = 5  # names in a message


def stored_name(parameter: str, suffix: str) -> str:
    """A program's parameter as a module stores it; torch allows no dots in a parameter's name."""
    return parameter.replace(".", "_") + suffix


def initial_name(state: str, suffix: str) -> str:
    """A state's learned initial value as a module stores it."""
    return stored_name(f"initial.{state}", suffix)


def read_programs(path: Path) -> tuple[Program, ...]:
    """The programs of the layers of a run.

    Args:
        path: the run's directory.

    Raises:
        RunError: the file is missing, damaged, or from a newer version.
    """
    try:
        return list_from_json(read_text(path / PROGRAMS))
    except (UnicodeDecodeError, ProgramError) as error:
        raise RunError(f"{path} is damaged: {PROGRAMS}: {error}") from None


def require_run(path: Path) -> None:
    """Refuse a path that is not the directory of a run that has begun.

    Raises:
        RunError: with what was found there.
    """
    if not path.exists():
        raise RunError(f"{missing(path, 'directory')}; {command('runs')} lists the runs under {RUNS}/")
    if not path.is_dir():
        raise RunError(f"{display_path(path)} is a file; expected the directory of a run")
    if (path / CONFIG).is_file():
        return
    inside = sorted(path.iterdir())
    if any(p.name in (TASK, PROGRAMS) or p.suffix == ".part" for p in inside):
        raise RunError(
            f"{display_path(path)} is half written: it has no {CONFIG}, as the run ended before its first step; "
            "remove it and train again"
        )
    raise RunError(f"{display_path(path)} is not a run: {_contents(inside)}")


def _contents(inside: Sequence[Path]) -> str:
    """What a directory that is not a run has in it."""
    runs = [display_path(p) for p in inside if (p / CONFIG).is_file()]
    if runs:
        listed = ", ".join(runs[:_LISTED]) + (", ..." if len(runs) > _LISTED else "")
        return f"it is a directory of {len(runs)} run{'s' * (len(runs) > 1)}; choose one: {listed}"
    if not inside:
        return "it is an empty directory"
    listed = ", ".join(display_path(p.name) for p in inside[:_LISTED]) + (", ..." if len(inside) > _LISTED else "")
    return f"it has no {CONFIG}, only {listed}"


def read_text(path: Path) -> str:
    """The text of a run's file.

    Raises:
        RunError: it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}") from None


def require_format(path: Path, content: object) -> None:
    """Refuse a run of another format, by what its config.json has.

    Raises:
        RunError: its format is newer or older.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(content, dict) and isinstance(found, int) and found != RUN_FORMAT:
        made = content.get("versions")
        by = made.get("throughtime", "?") if isinstance(made, dict) else "?"
        if found < RUN_FORMAT:
            raise RunError(
                f"{path} is a run of throughtime {by} in format {found}, which is no longer read; train it anew"
            )
        raise RunError(
            f"{path} is from a newer throughtime ({by}): "
            f"its format is {found}, and up to {RUN_FORMAT} can be read; install a newer throughtime"
        )

"""Paths as messages show them."""

from __future__ import annotations

import os
from pathlib import Path

from throughtime.errors import RunError, nearest

RUNS = "runs"
"""The directory for runs that are given no other."""

LATEST = "latest"
"""The name of the newest run, wherever a run's directory is expected."""


def display_path(path: str | Path) -> str:
    """Return a path as text that any UTF-8 file can hold; bytes that are not UTF-8 are shown as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def missing(path: Path, kind: str) -> str:
    """Return the message about a path that does not exist: a dangling link, or a name with similar ones beside it.

    Args:
        path: the path.
        kind: what was expected there: "file" or "directory".
    """
    if path.is_symlink():
        return f"{display_path(path)} is a link to {display_path(os.readlink(path))}, which does not exist"
    siblings = [display_path(p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{display_path(path)}: there is no such {kind}{nearest(display_path(path.name), siblings)}"


def run_path(path: str | Path) -> Path:
    """The directory of a run as the user names it: `latest` is the newest one under `runs`.

    Raises:
        RunError: `latest` is asked for, and there is no run.
    """
    path = Path(path)
    if os.fspath(path) != LATEST or path.exists():
        return path
    found = runs_in(Path(RUNS))
    if not found:
        raise RunError(f"{LATEST}: no run found under {RUNS}/ in this directory; give the path of a run")
    return found[-1]


def runs_in(directory: Path) -> list[Path]:
    """The runs in a directory, the one begun last at the end."""
    from throughtime.stored import CONFIG, PROGRAMS

    found = [path for path in directory.iterdir() if (path / CONFIG).is_file()] if directory.is_dir() else []
    # A run's program is written once, when it begins; config.json again where it is trained further.
    return sorted(found, key=lambda p: ((p / (PROGRAMS if (p / PROGRAMS).exists() else CONFIG)).stat().st_mtime, p))

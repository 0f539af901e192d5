"""Paths as messages show them."""

from __future__ import annotations

import os
from pathlib import Path

from throughtime.errors import nearest


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

"""Format paths for messages, and resolve the paths of runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from throughtime.errors import DataError, RunError, nearest

_log = logging.getLogger("throughtime")
_NAMED = 3  # the number of files to name in a warning

RUNS = "runs"
"""The default parent directory of runs."""

LATEST = "latest"
"""The name that refers to the newest run wherever a run's directory is expected."""


def display_path(path: str | Path) -> str:
    r"""Return a path as valid Unicode text; bytes that are not UTF-8 are shown as `\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def joint_name(paths: Sequence[str | Path]) -> str:
    """Return a short name of one or more files: the first path, and the last part of the second or the number of more.

    Args:
        paths: the paths; one that isn't a file's, such as "standard input", may be a name as well.
    """
    first, others = display_path(paths[0]), paths[1:]
    if not others:
        return first
    return f"{first} and {f'{len(others)} more' if len(others) > 1 else display_path(Path(others[0]).name)}"


def missing(path: Path) -> str:
    """Return the message for a path that does not exist; it mentions dangling links and similar names."""
    if path.is_symlink():
        return f"{display_path(path)} is a link to {display_path(os.readlink(path))}, which does not exist"
    siblings = [display_path(p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    # A shared suffix alone doesn't make two names similar.
    stem = display_path(path.stem)
    siblings = [name for name in siblings if Path(name).stem == stem or nearest(stem, [Path(name).stem])]
    return f"{display_path(path)}: no such file or directory{nearest(display_path(path.name), siblings)}"


def require_data(paths: Iterable[str | Path]) -> None:
    """Check that data exist and that no file or directory is empty. This is quick; readers check the rest.

    Args:
        paths: files and directories; "-" is standard input.

    Raises:
        DataError: if one doesn't exist or is empty.
    """
    for path in paths:
        if os.fspath(path) == "-":
            continue
        if "://" in os.fspath(path):
            raise DataError(f"{path} is a URL; download the file, then pass its path")
        path = Path(path)
        if not path.exists():
            raise DataError(missing(path))
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{display_path(path)} is empty; expected a file with data")
        with suppress(PermissionError):  # readers report it
            if path.is_dir() and not any(path.iterdir()):
                raise DataError(f"{display_path(path)} is empty; expected a directory with data")


def files_in(directory: Path, types: Collection[str], *, nested: bool = True) -> list[Path]:
    """List the files of some types in a directory, sorted, and warn about files that are left out.

    Hidden files and directories are skipped without a warning.

    Args:
        directory: the directory.
        types: the extensions, such as ".wav", in lower case.
        nested: whether to include subdirectories.
    """
    entries = sorted(directory.rglob("*") if nested else directory.iterdir())
    visible = [each for each in entries if not any(part[0] == "." for part in each.relative_to(directory).parts)]
    found: list[Path] = []
    others: list[Path] = []
    for each in visible:
        is_directory = each.is_dir()
        if not is_directory and each.suffix.lower() in types and each.is_file():
            found.append(each)
        elif not (nested and is_directory):
            others.append(each)
    if found and others:
        names = [display_path(each.relative_to(directory)) + "/" * each.is_dir() for each in others[:_NAMED]]
        _log.warning(
            "only %s files are read from %s, without %s%s", ", ".join(types), display_path(directory),
            ", ".join(names), f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else "",
        )  # fmt: skip
    return found


def types_in_words(entries: Iterable[Path]) -> str:
    """Describe the types of files that were found instead of others, to append to a message; "" if there are none."""
    found = sorted({display_path(path.suffix.lower()) for path in entries if path.is_file() and path.suffix})
    return f" (it has {', '.join(found)} files)" if found else ""


def run_path(path: str | Path) -> Path:
    """Resolve the user's path of a run; `latest` is the newest run under `runs`.

    Raises:
        RunError: if the path is `latest` and there is no run.
    """
    path = Path(path)
    if os.fspath(path) != LATEST or path.exists():
        return path
    found = runs_in(Path(RUNS))
    if not found:
        raise RunError(f"{LATEST}: no run found under {RUNS}/ in this directory; pass the path of a run")
    return found[-1]


def runs_in(directory: Path) -> list[Path]:
    """List the runs in a directory by start time, oldest first."""
    from throughtime.stored import CONFIG, PROGRAMS

    found = [path for path in directory.iterdir() if (path / CONFIG).is_file()] if directory.is_dir() else []
    # program.json is written once, when a run starts; further training rewrites config.json.
    return sorted(found, key=lambda p: ((p / (PROGRAMS if (p / PROGRAMS).exists() else CONFIG)).stat().st_mtime, p))

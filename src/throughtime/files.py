"""Atomic file writes: a file is complete or absent even if the process is killed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from throughtime.errors import UserError
from throughtime.paths import display_path, missing
from throughtime.spelling import option

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` when the block ends, and is deleted if the block fails.

    Missing directories are created, so check a user's path with `require_directory_of` first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        opened = tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False)  # noqa: SIM115  # closed below
    except OSError as error:
        error.filename = str(path)  # not the temporary file's name
        raise
    with opened as file:
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # temporary files are readable only by their owner
            os.fsync(file.fileno())  # otherwise a crash could leave a file of zeros under the name
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise


def require_directory_of(path: Path) -> None:
    """Check that the directory of a file that the user named exists; it is never created.

    Raises:
        UserError: if it doesn't exist.
    """
    if not path.parent.is_dir():
        raise UserError(
            f"{display_path(path)} can't be written: {missing(path.parent)}; create the directory, or choose another"
        )


def require_new_file(path: Path, overwrite: bool) -> None:
    """Check that a file that the user named doesn't exist, unless it may be overwritten.

    Raises:
        UserError: if it exists.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{display_path(path)} already exists; choose another name, or pass {option('overwrite')}")


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically, replacing an existing one.

    Raises:
        UserError: if the file can't be written.
    """
    require_directory_of(Path(path))
    try:
        with replacing(Path(path)) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

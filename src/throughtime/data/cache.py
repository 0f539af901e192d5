"""Where ids and vocabularies are kept from one run to the next.

A cache holds nothing that can't be made again: it may be deleted at any time, even under a run that
reads from it. An entry is there in whole or not at all.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from throughtime.data.vocabulary import Ids
from throughtime.errors import DataError
from throughtime.files import DISK_FULL, replacing

_log = logging.getLogger(__name__)

_DAY = 86_400  # seconds

IdType = np.dtype[Any]  # of ids unsigned integers, of samples floating-point numbers


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/throughtime`, or `~/.cache/throughtime`; the temporary one without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "throughtime"
    try:
        return Path.home() / ".cache" / "throughtime"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"throughtime-{os.getuid()}"


def load_text(directory: Path, name: str) -> str | None:
    """What `store_text` kept under a name; None if absent."""
    with suppress(OSError, UnicodeDecodeError):
        return (directory / name).read_text(encoding="utf-8")
    return None


def store_text(directory: Path, name: str, text: str) -> None:
    """Keep a short text under a name, if the directory can be written."""
    with suppress(OSError), replacing(directory / name) as file:
        file.write(text.encode())


def load_ids(directory: Path, key: str, dtype: IdType) -> tuple[Ids, dict[str, int]] | None:
    """The ids kept under a key, as a memory map, and what was counted with them; None if absent."""
    path = directory / f"{key}.ids"
    try:
        about = json.loads(load_text(directory, f"{key}.json") or "null")
        if path.stat().st_size != about["symbols"] * dtype.itemsize:
            return None
        return _mapped(path, dtype), about["counts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store_ids(directory: Path, key: str, dtype: IdType, arrays: Iterable[Ids], counts: dict[str, int]) -> Ids:
    """Write ids as they come, and map them.

    Where the directory can't be written they go to a temporary file, which ends with the process.

    Args:
        directory: the cache.
        key: what the ids are of.
        dtype: their type.
        arrays: the ids, in order; at least one.
        counts: what is counted while `arrays` is consumed; kept beside the ids.

    Raises:
        DataError: the disk is full, or fails.
    """
    place = directory
    try:
        if not _is_writable(directory):
            _log.warning("%s can't be written: the ids won't be kept for another run", directory)
            place = Path(tempfile.gettempdir())
            with tempfile.TemporaryFile() as file:
                _write(file, dtype, arrays)
                return _mapped(file, dtype)
        _remove_left_over(directory)
        with replacing(directory / f"{key}.ids") as file:
            symbols = _write(file, dtype, arrays)
            ids = _mapped(file, dtype)
        about = {"symbols": symbols, "counts": counts}
        store_text(directory, f"{key}.json", json.dumps(about))  # last: it says that all is there
        return ids
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DataError(
                f"the disk is full: the ids of the text don't fit in {place}; free some space "
                "there, or name a directory on another disk in XDG_CACHE_HOME"
            ) from None
        raise DataError(f"writing to {place} failed: {error.strerror or error}") from None


def _write(file: IO[bytes], dtype: IdType, arrays: Iterable[Ids]) -> int:
    symbols = 0
    for array in arrays:
        file.write(array.astype(dtype, copy=False).tobytes())
        symbols += array.size
    file.flush()
    return symbols


def _mapped(file: Path | IO[bytes], dtype: IdType) -> Ids:
    return np.asarray(np.memmap(file, dtype, mode="r"))


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def _remove_left_over(directory: Path) -> None:
    """Remove what killed runs left; a file that is being written is younger than a day."""
    for path in directory.glob("*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY:
                path.unlink()

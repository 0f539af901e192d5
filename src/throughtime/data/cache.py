"""Cache token ids, audio samples and vocabularies.

Everything in the cache can be recomputed. It may be deleted at any time, even while a run reads from it.
Entries are written atomically.
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

IdType = np.dtype[Any]  # unsigned integers for ids, floating-point numbers for samples


def cache_directory() -> Path:
    """Return `$XDG_CACHE_HOME/throughtime` or `~/.cache/throughtime`, or a temporary directory if there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "throughtime"
    try:
        return Path.home() / ".cache" / "throughtime"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"throughtime-{os.getuid()}"


def load_text(directory: Path, name: str) -> str | None:
    """Return the text that `store_text` stored under a name, or None if absent."""
    with suppress(OSError, UnicodeDecodeError):
        return (directory / name).read_text(encoding="utf-8")
    return None


def store_text(directory: Path, name: str, text: str) -> None:
    """Store a short text under a name, if the directory is writable."""
    with suppress(OSError), replacing(directory / name) as file:
        file.write(text.encode())


def load_ids(directory: Path, key: str, dtype: IdType) -> tuple[Ids, dict[str, int]] | None:
    """Return the ids stored under a key as a memory map, and their counts; or None if absent."""
    path = directory / f"{key}.ids"
    try:
        about = json.loads(load_text(directory, f"{key}.json") or "null")
        if path.stat().st_size != about["size"] * dtype.itemsize:
            return None
        return _mapped(path, dtype), about["counts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store_ids(directory: Path, key: str, dtype: IdType, arrays: Iterable[Ids], counts: dict[str, int]) -> Ids:
    """Write ids as they are produced and return them as a memory map.

    If the directory isn't writable, they go to a temporary file that is deleted when the process ends.

    Args:
        directory: the cache.
        key: the key of the ids.
        dtype: the dtype of the ids.
        arrays: the ids in order; at least one array.
        counts: counts that are updated while `arrays` is consumed; stored with the ids.

    Raises:
        DataError: if the disk is full or fails.
    """
    place = directory
    try:
        if not _is_writable(directory):
            _log.warning("%s is not writable, so the ids can't be reused by another run", directory)
            place = Path(tempfile.gettempdir())
            with tempfile.TemporaryFile() as file:
                _write(file, dtype, arrays)
                return _mapped(file, dtype)
        _remove_left_over(directory)
        with replacing(directory / f"{key}.ids") as file:
            size = _write(file, dtype, arrays)
            ids = _mapped(file, dtype)
        about = {"size": size, "counts": counts}
        store_text(directory, f"{key}.json", json.dumps(about))  # written last: it marks the entry as complete
        return ids
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DataError(
                f"the disk is full: the ids of the text don't fit in {place}; free some space "
                "there, or set XDG_CACHE_HOME to a directory on another disk"
            ) from None
        raise DataError(f"writing to {place} failed: {error.strerror or error}") from None


def _write(file: IO[bytes], dtype: IdType, arrays: Iterable[Ids]) -> int:
    size = 0
    for array in arrays:
        file.write(array.astype(dtype, copy=False).tobytes())
        size += array.size
    file.flush()
    return size


def _mapped(file: Path | IO[bytes], dtype: IdType) -> Ids:
    return np.asarray(np.memmap(file, dtype, mode="r"))


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def _remove_left_over(directory: Path) -> None:
    """Remove temporary files of killed runs that are more than a day old."""
    for path in directory.glob("*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY:
                path.unlink()

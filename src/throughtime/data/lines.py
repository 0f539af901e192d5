"""Read whole text files."""

from __future__ import annotations

from pathlib import Path

from throughtime.data.text import read_text


def read_whole(path: Path, encoding_errors: str = "strict") -> str:
    """Return the text of a file, or `""` if it is empty.

    Args:
        path: a UTF-8 file.
        encoding_errors: "strict" to reject bytes that are not UTF-8, "replace" to read them as U+FFFD.

    Raises:
        DataError: if the file is missing, unreadable, not text, or not UTF-8 (the message names the line).
    """
    if path.is_file() and path.stat().st_size == 0:
        return ""
    return "".join(read_text([path], encoding_errors).pieces())


def read_lines(path: Path, encoding_errors: str = "strict") -> list[str]:
    """Return the lines of a file without line ends; see `read_whole` for arguments and errors."""
    return read_whole(path, encoding_errors).split("\n")  # str.splitlines would also split at U+2028 and others

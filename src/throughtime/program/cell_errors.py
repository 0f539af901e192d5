"""Errors that name the line of a cell's source."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path

from throughtime.errors import CellError

_PACKAGE = Path(__file__).parent.parent
# An error names a line of the cell, not a line of the cell language's own functions.
_OWN_FILES = (str(_PACKAGE / "program"), str(_PACKAGE / "language.py"))


def is_own(file: str) -> bool:
    """Return whether a file belongs to the implementation of the cell language."""
    return file.startswith(_OWN_FILES)


def cell_error(message: str) -> CellError:
    """Build a `CellError` that names the line of the cell's source being traced."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_own(frame.f_code.co_filename):
        frame = frame.f_back
    return cell_error_at(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, message)


def cell_error_at(file: str, line: int, function: str, message: str) -> CellError:
    """Build a `CellError` that names a line of a file."""
    source = linecache.getline(file, line).strip()
    shown = f"    {source}\n" if source else ""
    return CellError(f"{file}, line {line}, in {function}:\n{shown}{message}")

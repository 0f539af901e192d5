"""Resolve the cell named on the command line: a built-in cell, or one defined in the user's own Python file."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from throughtime.errors import CellError, UserError, nearest
from throughtime.paths import missing

if TYPE_CHECKING:
    from types import ModuleType

    from throughtime.program.cell import Cell

CELL_HELP = "a name listed by `throughtime cells`, or FILE.py:NAME for your own cell"


def named_cell(text: str) -> Cell:
    """Look up the cell that the user named.

    Args:
        text: a built-in cell's name, or `file.py:name`; `:name` is optional if the file defines a single cell.

    Raises:
        CellError: if there is no such cell, or the file can't be run.
    """
    from throughtime import cells

    path, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    if not path:
        return cells.get(name)
    return _chosen(path, name)


def named_cells(text: str) -> list[Cell]:
    """Look up a comma-separated list of cells.

    Raises:
        CellError: if the list is empty or names unknown cells; one message lists them all.
    """
    found, wrong = [], []
    for each in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(named_cell(each))
        except CellError as error:
            wrong.append(str(error))
    if wrong:
        raise CellError("\n".join(wrong))
    if not found:
        raise CellError("--cells is empty; pass one or more cell names, separated by commas")
    return found


def _chosen(path: str, name: str) -> Cell:
    from throughtime.program.cell import Cell

    module = _run(Path(path))
    found = {key: value for key, value in vars(module).items() if isinstance(value, Cell)}
    own = {key: value for key, value in found.items() if value.function.__module__ == module.__name__}
    if not name and len(own) == 1:
        return next(iter(own.values()))
    if name in found:
        return found[name]
    if not own:
        raise CellError(f"{path} defines no cells; write one as a function decorated with @throughtime.cell")
    has = f"it defines {', '.join(own)}"
    if not name:
        raise CellError(f"{path} defines several cells; choose one as {path}:NAME ({has})")
    raise CellError(f"{path} has no cell named {name!r}{nearest(name, own)}; {has}")


def _run(path: Path) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    if path.suffix != ".py":
        raise CellError(f"{path} is not a Python file; name your own cell as FILE.py:NAME")
    if not path.is_file():
        raise CellError(f"{missing(path)}; name your own cell as FILE.py:NAME")
    spec = spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as when Python runs the file
    try:
        spec.loader.exec_module(module)
    except (UserError, OSError):
        raise
    except Exception as error:
        raise CellError(f"{path}{_line(path, error)} could not be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def _line(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its message already includes the line
    own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path.resolve())]
    return f", line {own[-1]}," if own else ""

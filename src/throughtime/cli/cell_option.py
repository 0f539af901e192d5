"""A cell as a user names it: one of ours, or one of a file of their own, which is then run."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from throughtime.errors import CellError, UserError, nearest

if TYPE_CHECKING:
    from types import ModuleType

    from throughtime.program.cell import Cell

CELL_HELP = "a name that `throughtime cells` lists, or FILE.py:NAME for one of your own"


def named_cell(text: str) -> Cell:
    """The cell that a user asks for.

    Args:
        text: a named cell's name, or `file.py:name`; the name may be left out where the file has one cell.

    Raises:
        CellError: if there is no such cell, or the file can't be run.
    """
    from throughtime import cells

    path, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    if not path:
        return cells.get(name)
    return _chosen(path, name)


def named_cells(text: str) -> list[Cell]:
    """The cells that a user asks for, separated by commas.

    Raises:
        CellError: some are unknown, with all of them in one message, or there are none.
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
        raise CellError("--cells is empty; give names of cells, separated by commas.")
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
        raise CellError(f"{path} has no cell in it: write one as a function under @throughtime.cell.")
    has = f"it has {', '.join(own)}"
    if not name:
        raise CellError(f"{path} has several cells: say which, as {path}:NAME ({has}).")
    raise CellError(f"{path} has no cell called {name!r}{nearest(name, own)} ({has}).")


def _run(path: Path) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    if path.suffix != ".py":
        raise CellError(f"{path} is no Python file: a cell of your own is named as FILE.py:NAME.")
    if not path.is_file():
        raise CellError(f"{path} is not there: a cell of your own is named as FILE.py:NAME.")
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
        return ""  # its own message has the line
    own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path.resolve())]
    return f", line {own[-1]}," if own else ""

"""The named cells: a file a family, each cell as its equations."""

from __future__ import annotations

from throughtime.cells.elman import rnn, rnn_relu
from throughtime.cells.gru import gru
from throughtime.cells.lstm import lstm
from throughtime.errors import CellError, nearest
from throughtime.program.cell import Cell

__all__ = ["get", "gru", "lstm", "names", "rnn", "rnn_relu"]

_CELLS: dict[str, Cell] = {cell.name: cell for cell in (rnn, rnn_relu, lstm, gru)}


def names() -> list[str]:
    """The names of all named cells."""
    return list(_CELLS)


def get(cell: str | Cell) -> Cell:
    """A cell by its name; a cell is given back as it is.

    Raises:
        CellError: if no cell has that name, with the nearest one.
    """
    if isinstance(cell, Cell):
        return cell
    if cell not in _CELLS:
        raise CellError(f"no cell is called {cell!r}{nearest(str(cell), _CELLS)} (there are: {', '.join(_CELLS)}).")
    return _CELLS[cell]

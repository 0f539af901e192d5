"""The named cells, defined by their equations, with one module per family."""

from __future__ import annotations

from throughtime.cells.additive import atr, cfn, ran
from throughtime.cells.bistable import brc, nbrc
from throughtime.cells.dynamics import cfc, cornn, lem, unicornn
from throughtime.cells.elman import indrnn, jordan, rnn, rnn_leaky, rnn_relu, scrn
from throughtime.cells.exponential import slstm
from throughtime.cells.fast import fastgrnn, fastrnn
from throughtime.cells.grid import grid_lstm
from throughtime.cells.gru import gru, gru_reset_before, mgu
from throughtime.cells.highway import rhn
from throughtime.cells.lstm import lstm, lstm_np
from throughtime.cells.multiplicative import gru_integrated, lstm_integrated, lstm_multiplicative, rnn_integrated
from throughtime.cells.mutants import mut1, mut2, mut3
from throughtime.cells.normalized import gru_layer_norm, ligru, lstm_layer_norm
from throughtime.cells.odyssey import (
    lstm_coupled,
    lstm_fgr,
    lstm_nfg,
    lstm_niaf,
    lstm_nig,
    lstm_noaf,
    lstm_nog,
    lstm_peephole,
)  # fmt: skip
from throughtime.cells.one_gate import janet, minimalrnn, star, ugrnn
from throughtime.cells.parallel import mingru, minlstm, rg_lru, sru, t_rnn
from throughtime.cells.searched import nas
from throughtime.errors import CellError, nearest
from throughtime.program.cell import Cell

__all__ = [
    "get", "names",
    "rnn", "rnn_relu", "rnn_leaky", "jordan", "indrnn", "scrn",
    "lstm", "lstm_np",
    "lstm_peephole", "lstm_coupled", "lstm_nig", "lstm_nfg", "lstm_nog", "lstm_niaf", "lstm_noaf", "lstm_fgr",
    "gru", "gru_reset_before", "mgu",
    "mut1", "mut2", "mut3",
    "ugrnn", "janet", "star", "minimalrnn",
    "fastrnn", "fastgrnn",
    "brc", "nbrc",
    "ran", "atr", "cfn",
    "lstm_multiplicative", "rnn_integrated", "lstm_integrated", "gru_integrated",
    "lstm_layer_norm", "gru_layer_norm", "ligru",
    "slstm",
    "sru", "t_rnn", "mingru", "minlstm", "rg_lru",
    "cornn", "unicornn", "lem", "cfc",
    "rhn",
    "grid_lstm",
    "nas",
]  # fmt: skip

_CELLS: dict[str, Cell] = {name: value for name in __all__ if isinstance(value := globals().get(name), Cell)}


def names() -> list[str]:
    """The names of all named cells, grouped by family."""
    return list(_CELLS)


def get(cell: str | Cell) -> Cell:
    """Look up a named cell; a `Cell` is returned unchanged.

    Raises:
        CellError: if `cell` is neither a cell nor the name of one; the message suggests similar names.
    """
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        raise CellError(f"cell must be a name, such as 'lstm', or a cell made with throughtime.cell, got {cell!r}")
    if cell not in _CELLS:
        hint = nearest(cell, _CELLS, 3)
        raise CellError(f"no cell named {cell!r}{hint}. `throughtime cells` lists all {len(_CELLS)}")
    return _CELLS[cell]

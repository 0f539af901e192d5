"""The cells page of the documentation: a table of all cells, and the equations of each family."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from throughtime import cells
from throughtime.cells.facts import Facts
from throughtime.tables import markdown_table

_INTRODUCTION = """\
# Cells

This page lists the built-in cells. `throughtime cells` lists their names, and `throughtime cells NAME` prints a cell
with its program and gradient program. `throughtime.Recurrent(NAME, ...)` creates a layer. The tests compare the values
and gradients of each cell with an independent loop written from its paper.

In the table, I is the width of x and H the number of hidden units. Parameters and FLOPs are per hidden unit. FLOPs are
those of a forward step of one sequence: a matrix product counts its multiplications and additions, and a function such
as tanh counts as one. Both are for I ≠ H; if I = H, mut1, mut2, sru and rg_lru have one fewer matrix.

The equations below the table are derived from the cells' programs (`throughtime.cells.get(NAME).latex()`). W multiplies
the input, R the states, b is a bias, σ the logistic sigmoid and ⊙ the element-wise product. Values have the names under
which [`throughtime.record`](record.md) records them, except $h_t$ (`hidden`) and $c_t$ (`cell`); a tilde marks a
pre-activation (`.pre`).
"""

_MEASURED = """\
The speed is that of a training step (forward and all gradients) of one layer on the native engine: float32, batch
{batch}, I = H = {hidden}, {steps} time steps, {threads} threads.

- *Steps/s*: training steps per second; *of lstm* is relative to the LSTM in the same rounds
- *GFLOP/s*: the rate of the matrix products alone; *of lstm* as above
- *Times a torch loop*: the time of the same cell as a Python loop of torch operations, divided by the engine's
- *Horizon*: the number of steps back after which 1% of the [gradient](horizon.md) is left, in an untrained layer of
  {horizon_hidden} units with random input

Machine: {machine}.
"""


_TITLES = {
    "elman": "Plain recurrent networks",
    "lstm": "Long short-term memory",
    "odyssey": "LSTM variants: peepholes, coupled gates, gates left out",
    "gru": "Gated recurrent units",
    "mutants": "MUT1, MUT2 and MUT3",
    "one_gate": "Cells with one gate",
    "fast": "FastRNN and FastGRNN",
    "bistable": "Bistable cells",
    "additive": "Additive cells",
    "multiplicative": "Multiplicative cells",
    "normalized": "Layer normalization",
    "exponential": "Exponential gates",
    "parallel": "Cells without recurrent matrices",
    "dynamics": "Differential equations",
    "highway": "Recurrent highway networks",
    "grid": "Grid LSTM",
    "searched": "Architecture search",
}


def page(measured: Mapping[str, Any] | None = None) -> str:
    """Build the page in Markdown.

    Args:
        measured: the measurements of each cell, as the cell benchmark writes them; their columns are omitted if None.
    """
    return "\n".join(_lines(measured or {}))


def _lines(measured: Mapping[str, Any]) -> Iterator[str]:
    yield _INTRODUCTION
    if measured:
        yield _MEASURED.format(**measured)
        for name, own in measured["cells"].items():
            if "machine" in own:
                yield f"`{name}` was measured on {own['machine']}.\n"
    head = ["cell", "parameters", "FLOPs", *(_HEAD if measured else []), "states", "reference"]
    yield from markdown_table([head, *(_row(name, measured) for name in cells.names())])
    for module in dict.fromkeys(cells.get(name).function.__module__ for name in cells.names()):
        yield from _family(module)
        for name in cells.names():
            if cells.get(name).function.__module__ == module:
                yield from _equations(name)


_HEAD = ["steps/s", "of lstm", "GFLOP/s", "of lstm", "times a torch loop", "horizon"]


def _row(name: str, measured: Mapping[str, Any]) -> list[str]:
    cell = cells.get(name)
    facts = Facts.of(cell)
    own = measured.get("cells", {}).get(name)
    figures = _figures(own) if own else [""] * len(_HEAD)
    return [
        f"[{name}](#{name})",
        facts.parameters_per_unit,
        facts.flops_per_unit,
        *(figures if measured else []),
        ", ".join(facts.states),
        facts.reference,
    ]


def _equations(name: str) -> Iterator[str]:
    cell = cells.get(name)
    yield f"### {name}"
    yield ""
    yield cell.meaning
    yield ""
    yield "$$"
    yield cell.latex()
    yield "$$"
    yield ""


def _figures(own: Mapping[str, Any]) -> list[str]:
    return [
        f"{1 / own['seconds']:.1f}",
        f"{own['steps_of_lstm']:.0%}",
        f"{own['flops'] / own['seconds'] / 1e9:.1f}",
        f"{own['flops_of_lstm']:.0%}",
        f"{own['loop']:.1f}",
        own["horizon"],
    ]


def _family(module: str) -> Iterator[str]:
    source = inspect.getsource(sys.modules[module])
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree) or ""
    end = tree.body[0].end_lineno
    yield f"## {_TITLES[module.rpartition('.')[2]]}"
    yield ""
    yield docstring
    yield ""
    yield "```python"
    yield "\n".join(source.splitlines()[end:]).strip()
    yield "```"
    yield ""

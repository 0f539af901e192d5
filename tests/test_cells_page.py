"""The page of all cells is up to date, and the facts on it are correct."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughtime import cells
from throughtime.cells.facts import Facts
from throughtime.cells.page import page
from throughtime.language import affine, cell, linear, row_mean, tanh

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_up_to_date() -> None:
    figures = DOCS / "cells.json"
    measured = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else None
    assert (DOCS / "cells.md").read_text(encoding="utf-8") == page(measured), (
        "docs/cells.md is out of date; run `python benchmarks/cells.py --page`"
    )


@pytest.mark.parametrize("name", cells.names())
def test_every_cell_cites_its_paper(name: str) -> None:
    facts = Facts.of(cells.get(name))
    assert facts.reference
    assert facts.meaning.endswith(".")
    assert "at I =" not in facts.parameters_per_unit + facts.flops_per_unit


def test_flops_per_unit_are_counted_correctly() -> None:
    @cell
    def counted(x, h):
        """A cell without a paper."""
        return tanh(affine("candidate", x, h)) * row_mean(linear("other", x))

    # Matrix products: 2 (I + H) and 2 I. Then the sum of two products, the bias, tanh, the multiplication and the sum
    # over the row, one each. Dividing by H for the mean: 1/H.
    facts = Facts.of(counted)
    assert facts.flops_per_unit == "4 I + 2 H + 5 + 1/H"
    assert facts.reference == ""


def test_measured_figures_appear_in_their_columns() -> None:
    own = {"seconds": 0.05, "flops": 4e9, "steps_of_lstm": 2.0, "flops_of_lstm": 0.5, "loop": 3.0, "horizon": "> 200"}
    settings = {"machine": "a machine", "batch": 32, "hidden": 256, "steps": 100, "threads": 2, "horizon_hidden": 64}
    shown = page(settings | {"cells": {"mgu": own}})
    (row,) = (line for line in shown.splitlines() if line.startswith("| [mgu]"))
    assert [text.strip() for text in row.split("|")][4:10] == ["20.0", "200%", "80.0", "50%", "3.0", "> 200"]
    assert "a machine" in shown
    shown = page(settings | {"cells": {"mgu": own | {"machine": "another"}}})
    assert "`mgu` was measured on another." in shown

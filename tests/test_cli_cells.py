"""`throughtime cells`: the list, a single cell, and user-defined cells."""

import json
import sys

import pytest

from throughtime import cells
from throughtime.cells.facts import Facts
from throughtime.cli.cell_option import named_cell
from throughtime.cli.main import main
from throughtime.errors import CellError
from throughtime.language import affine, cell, state, tanh
from throughtime.program.saving import from_json

OWN = '''
from throughtime.language import affine, cell, tanh
from neighbor import RATE

@cell
def leaky(x, h, *, rate=RATE):
    """Leaky integrator [of units]."""
    return (1 - rate) * h + rate * tanh(affine("candidate", x, h))
'''


@pytest.fixture
def own(tmp_path):
    (tmp_path / "neighbor.py").write_text("RATE = 0.1\n")
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_list_contains_every_cell(capsys):
    assert main(["cells"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and cells.get(name).meaning in shown for name in cells.names())


@pytest.mark.parametrize(
    ("name", "formula"), [("rnn", "I + H + 1"), ("lstm", "4 I + 4 H + 4"), ("gru", "3 I + 3 H + 4")]
)
def test_parameters_per_unit_are_a_formula(name, formula):
    assert Facts.of(cells.get(name)).parameters_per_unit == formula


def test_the_parameters_of_a_cell_of_fixed_width_are_divided_by_h():
    @cell
    def fixed(x, h=state("h", width=5)):
        return tanh(affine("candidate", x, h, width=5))

    assert Facts.of(fixed).parameters_per_unit == "5 I/H + 30/H"


@pytest.mark.parametrize("name", cells.names())
def test_cell_is_shown_with_equations_and_both_programs(name, capsys):
    assert main(["cells", name, "--input-size", "5", "--hidden", "6"]) == 0
    shown = capsys.readouterr().out
    assert cells.get(name).source.rstrip() in shown
    assert str(cells.get(name).program(5, 6)) in shown
    assert f"program {name}.gradient (time runs backward)" in shown


def test_programs_are_printed_as_json(capsys):
    assert main(["cells", "gru", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert from_json(json.dumps(shown["program"])) == cells.gru.program(3, 4)
    assert from_json(json.dumps(shown["gradient"])).reverse


def test_the_list_is_printed_as_json(capsys):
    assert main(["cells", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == cells.names()


def test_user_defined_cell_is_shown(own, capsys):
    assert main(["cells", f"{own}:leaky"]) == 0
    assert "Leaky integrator [of units]." in capsys.readouterr().out


def test_only_cell_of_a_file_needs_no_name(own):
    assert named_cell(str(own)).name == "leaky"


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [
        (OWN, ":leakz", "did you mean leaky?"),
        (OWN + OWN.replace("leaky", "other"), "", "several cells"),
        ("import math\n", "", "defines no cells"),
        ("x = 1\nx / 0\n", "", "line 2, could not be run: ZeroDivisionError"),
        ("def (\n", "", "line 1"),
        ("import nothing_of_that_name\n", ":x", "nothing_of_that_name"),
    ],
)
def test_file_without_the_cell_raises(own, source, name, told):
    own.write_text(source)
    with pytest.raises(CellError, match=told.replace("?", "\\?")):
        named_cell(f"{own}{name}")


@pytest.mark.parametrize("text", ["nowhere.py:x", "notes.txt:x"])
def test_path_that_is_not_a_python_file_raises(text):
    with pytest.raises(CellError, match="name your own cell as FILE"):
        named_cell(text)


def test_mistake_in_equations_is_reported_with_its_line(own, capsys):
    own.write_text(OWN.replace("return", "return x if h > 0 else"))
    assert main(["cells", str(own)]) == 2
    assert "own.py, line 8, in leaky" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "lines"), [("60", "states: hidden, cell"), ("200", "parameters per unit")])
def test_the_list_fits_narrow_and_wide_terminals(columns, lines, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["cells"]) == 0
    assert lines in capsys.readouterr().out

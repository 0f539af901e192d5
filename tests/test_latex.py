"""The LaTeX equations match the program's results."""

from __future__ import annotations

import pytest

from throughtime import cells
from throughtime.language import affine, cell, maximum, minimum, named, select, sigmoid, tanh
from throughtime.program.latex import latex


def right_sides(text: str) -> dict[str, str]:
    lines = text.removeprefix("\\begin{aligned}\n").removesuffix("\n\\end{aligned}").split(" \\\\\n")
    return dict(line.split(" &= ") for line in lines)


def test_the_equations_of_the_lstm_match_the_textbook() -> None:
    assert right_sides(cells.lstm.latex()) == {
        rf"\mathrm{{{gate}}}_{{t}}": rf"{function}(W_{{\mathrm{{{gate}}}}} \, x_{{t}} + R_{{\mathrm{{{gate}}}}} \, "
        rf"h_{{t-1}} + b_{{\mathrm{{{gate}}}}})"
        for gate, function in (
            ("input", r"\sigma"),
            ("forget", r"\sigma"),
            ("candidate", r"\tanh"),
            ("output", r"\sigma"),
        )
    } | {
        "c_{t}": r"\mathrm{forget}_{t} \odot c_{t-1} + \mathrm{input}_{t} \odot \mathrm{candidate}_{t}",
        "h_{t}": r"\mathrm{output}_{t} \odot \tanh(c_{t})",
    }


def test_signs_and_parentheses_are_preserved() -> None:
    @cell
    def mixed(x, h):
        """A cell without a paper."""
        a = tanh(affine("a", x, bias=False))
        b = named("b", a - (h - 0.5 * a))
        return named("out", -(a + b) * h / (1 + b)) - (a - b)

    found = right_sides(mixed.latex())
    assert found["b_{t}"] == r"a_{t} - h_{t-1} + 0.5 \, a_{t}"
    assert found[r"\mathrm{out}_{t}"] == r"\frac{(-(a_{t} + b_{t})) \odot h_{t-1}}{1 + b_{t}}"
    assert found["h_{t}"] == r"\mathrm{out}_{t} - a_{t} + b_{t}"


def test_select_becomes_cases_and_bounds_become_min_and_max() -> None:
    @cell
    def choosing(x, h):
        """A cell without a paper."""
        a = named("a", minimum(maximum(affine("gate", x, h, bias=False), 0.0), 1.0))
        return select(a > h, a, sigmoid(h))

    found = right_sides(choosing.latex())
    assert found["a_{t}"] == r"\min(\max(\mathrm{gate}_{t}, 0), 1)"
    assert found["h_{t}"] == r"\begin{cases} a_{t} & a_{t} > h_{t-1} \\ \sigma(h_{t-1}) & \text{else} \end{cases}"


def test_two_matrices_of_one_gate_have_different_symbols() -> None:
    assert r"R_{\mathrm{force}}^{\mathrm{y}}" in cells.cornn.latex()
    assert r"R_{\mathrm{candidate}} \, (\mathrm{reset}_{t} \odot h_{t-1})" in cells.gru_reset_before.latex()


@pytest.mark.parametrize("name", cells.names())
def test_every_cell_has_equations(name: str) -> None:
    """Brackets are balanced, each state has a line, and the equations don't depend on the widths."""
    program = cells.get(name).program(24, 16)
    text = latex(program)
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    for state in program.states:
        letter = {"hidden": "h", "cell": "c"}.get(state.name, rf"\mathrm{{{state.name}}}")
        assert f"{letter}_{{t}} &= " in text
    assert text == latex(cells.get(name).program(48, 32))

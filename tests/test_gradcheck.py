"""`throughtime.gradcheck` accepts correct gradients and finds wrong ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from throughtime import cells
from throughtime.errors import CellError
from throughtime.gradient_check import gradcheck
from throughtime.language import (
    affine,
    cell,
    concat,
    cos,
    exp,
    layer_norm,
    log,
    maximum,
    parameter,
    relu,
    row_max,
    select,
    sigmoid,
    sin,
    softplus,
    split,
    sqrt,
    state,
    tanh,
)
from throughtime.program.gradient import gradient, with_residuals
from throughtime.program.operations import OPERATIONS


@cell
def everything(x, h, n=state(initial=1.0)):
    """A cell that uses every operation of the table."""
    a, b = split(affine("both", x, h, width=8), 2)
    a = maximum(a, -b) - select(a > b, b, 0.5 * a) * relu(b) / (1 + exp(tanh(b)))
    n = sqrt(softplus(n) + 0.1) * parameter("scale", width=1) - log(sigmoid(a) + 0.5)
    a = a + 0.3 * abs(b) - 0.2 * sin(2 * b) * cos(a) + row_max(a)
    h = tanh(layer_norm("norm", concat(a[:2], n[2:])))
    return h, n


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch):
    """A function that makes the gradient of an operation wrong and clears the cache of derived programs."""

    def forget() -> None:
        gradient.cache_clear()
        with_residuals.cache_clear()

    def make(op: str) -> None:
        row = OPERATIONS[op]

        def changed(builder, g, y, *values, **words):
            pieces = row.gradient(builder, g, y, *values, **words)
            return tuple(
                p if p is None else replace(p, symbol=p.symbol * 1.001) if hasattr(p, "start") else p * 1.001
                for p in pieces
            )

        monkeypatch.setitem(OPERATIONS, op, replace(row, gradient=changed))
        forget()

    yield make
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("name", cells.names())
def test_named_cells_pass(name):
    report = gradcheck(name)
    assert report.passed
    cell = cells.get(name)
    program = cell.program(3, 4, inputs=[declaration.name for _, declaration in cell.inputs])
    assert report.errors.keys() == {
        *(f"input {i.name}" for i in program.inputs),
        *(f"state {s.name}" for s in program.states),
        *(f"parameter {p.name}" for p in program.parameters),
    }
    # Central differences with a step of 1e-5 in float64. Layer normalization of four elements is steep.
    assert max(report.errors.values()) < 1e-7


def test_a_cell_with_every_operation_passes():
    used = {i.op for i in everything.program(3, 4).body}
    assert OPERATIONS.keys() - used <= {"linear_transposed"}  # which only occurs in gradients
    assert gradcheck(everything).passed


def test_sizes_bias_and_hyper_parameters_can_be_set():
    report = gradcheck(cells.lstm, 2, 3, bias=False, projection=2)
    assert "parameter weight_projection" in report.errors
    assert "parameter bias" not in report.errors


@pytest.mark.parametrize("op", sorted(OPERATIONS.keys() - {"greater", "linear_transposed"}))
def test_a_wrong_gradient_of_any_operation_is_found(op, wrong):
    wrong(op)
    with pytest.raises(CellError, match="the gradient of cell everything differs from finite differences"):
        gradcheck(everything)


def test_the_arguments_with_a_wrong_gradient_are_named(monkeypatch, wrong):
    # Only the outer products are wrong, which only affects the gradients of matrices.
    row = OPERATIONS["linear"]
    monkeypatch.setitem(OPERATIONS, "linear", replace(row, weight_gradient=lambda g, a: (g * 2.0, a)))
    gradient.cache_clear()
    with pytest.raises(CellError) as caught:
        gradcheck(cells.gru)
    message = str(caught.value)
    assert "for parameter weight_x, parameter weight_h. " in message
    assert "parameter bias" in message
    wrong_lines = [line.split()[:2] for line in message.splitlines() if line.endswith("wrong")]
    assert wrong_lines == [["parameter", "weight_x"], ["parameter", "weight_h"]]


def test_a_report_prints_as_a_table():
    text = str(gradcheck("rnn"))
    lines = text.splitlines()
    assert lines[0] == "cell rnn: gradient against finite differences, largest relative error"
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["input", "x"],
        ["state", "hidden"],
        ["parameter", "weight_x"],
        ["parameter", "weight_h"],
        ["parameter", "bias"],
    ]
    assert lines[-1] == "passed: tolerance 1e-06"
    assert repr(gradcheck("rnn")) == text
    page = gradcheck("rnn")._repr_html_()
    assert page.count("<tr>") == 6
    assert "cell rnn, passed: tolerance 1e-06" in page


def test_an_unused_parameter_has_a_zero_gradient_and_passes():
    @cell
    def idle(x, h):
        unused = parameter("unused")
        return tanh(affine("all", x, h)) + 0 * unused

    assert gradcheck(idle).errors["parameter unused"] == 0.0


def test_non_finite_results_raise():
    @cell
    def explosive(x, h):
        return log(tanh(affine("all", x, h)))

    with pytest.raises(CellError, match="the results of cell explosive are not finite"):
        gradcheck(explosive)


def test_unknown_names_raise_with_a_suggestion():
    with pytest.raises(CellError, match="did you mean lstm"):
        gradcheck("lsmt")
    with pytest.raises(CellError, match="no hyper-parameter 'projecton'"):
        gradcheck("lstm", projecton=3)


def test_importing_gradcheck_does_not_import_torch():
    code = "import sys, throughtime.gradient_check; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)

"""Mistakes in cells raise errors that point to the line of the cell's source."""

from __future__ import annotations

import inspect
import math
import re
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

import throughtime
from throughtime import cells
from throughtime.errors import CellError
from throughtime.language import (
    activate,
    affine,
    cell,
    concat,
    layer_norm,
    linear,
    named,
    parameter,
    select,
    sigmoid,
    split,
    state,
    tanh,
)

PACKAGE = str(Path(throughtime.__file__).parent)


# Each function is a cell, and its wrong line ends in `# here`.


def if_on_a_symbol(x, h):
    if x > 0:  # here
        return h
    return tanh(affine("all", x, h))


def and_of_symbols(x, h):
    return select(x > 0 and x < 1, h, h)  # here


def torch_function(x, h):
    return torch.tanh(affine("all", x, h))  # here


def torch_function_without_counterpart(x, h):
    return torch.cumsum(affine("all", x, h), 0)  # here


def tensor_times_symbol(x, h):
    return torch.ones(4) * tanh(affine("all", x, h))  # here


def numpy_function(x, h):
    return np.tanh(affine("all", x, h))  # here


def numpy_array_times_symbol(x, h):
    return np.ones(4) * h  # here


def symbol_times_numpy_array(x, h):
    return h * np.ones(4)  # here


def numpy_conversion(x, h):
    return np.asarray(h)  # here


def math_function(x, h):
    return math.tanh(affine("all", x, h))  # here


def equality(x, h):
    return select(x == 0, h, h)  # here


def inequality(x, h):
    return select(x != 0, h, h)  # here


def at_least(x, h):
    return select(x >= 0, h, h)  # here


def number_in_the_place_of_a_vector(x, h):
    return tanh(1.0) + h  # here


def text_in_the_place_of_a_vector(x, h):
    return h + "1"  # here


def not_a_number(x, h):
    return h * math.nan  # here


def widths_that_do_not_fit(x, h):
    return tanh(affine("all", x, h)) * x  # here


def widths_of_gates_that_do_not_fit(x, h):
    a = affine("narrow", x, width=2)
    return tanh(affine("all", x, h) + a)  # here


def loop_over_a_symbol(x, h):
    for part in h:  # here
        x = part
    return x


def unpacked_symbol(x, h):
    a, _ = h  # here
    return a


def element_out_of_range(x, h):
    return h[4]  # here


def slice_with_a_step(x, h):
    return h[::2]  # here


def slice_by_a_symbol(x, h):
    return h[x:]  # here


def empty_slice(x, h):
    return h[3:3]  # here


def fractional_power(x, h):
    return h**0.5  # here


def unequal_split(x, h):
    a, _, _ = split(h, 3)  # here
    return a


def number_in_concat(x, h):
    return concat(h[:3], 1)  # here


def unknown_activation(x, h):
    return activate("tahn", affine("all", x, h))  # here


def parameters_of_one_name(x, h):
    a = affine("gate", x)
    return tanh(a + affine("gate", h))  # here


def values_of_one_name(x, h):
    named("seen", x)
    named("seen", h)  # here
    return tanh(affine("all", x, h))


def gate_called_as_another_value(x, h):
    named("gate", x)
    return sigmoid(affine("gate", x, h))  # here


def parameter_called_as_the_gates_bias(x, h):
    return tanh(affine("all", x, h) + parameter("bias"))  # here


def name_with_a_space(x, h):
    return tanh(affine("the gate", x, h))  # here


def name_that_is_a_number(x, h):
    return named(1, tanh(affine("all", x, h)))  # here


def gate_without_a_source(x, h):
    return tanh(affine("all"))  # here


def gate_of_a_number(x, h):
    return tanh(affine("all", x, 1.0))  # here


def gate_of_one_vector_twice(x, h):
    return tanh(affine("all", h, h))  # here


def gate_of_no_width(x, h):
    return tanh(affine("all", x, h, width=0))  # here


def unknown_name(x, h):
    return tahn(affine("all", x, h))  # noqa: F821  # here


def too_few_arguments(x, h):
    return select(x > 0, h)  # here


def method_that_is_not_there(x, h):
    return affine("all", x, h).tanh()  # here


def missing_state(x, h, c):  # here
    return tanh(affine("all", x, h))


def too_many_returned(x, h):  # here
    h = tanh(affine("all", x, h))
    return h, h, h


def nothing_returned(x, h):  # here
    tanh(affine("all", x, h))


def state_of_another_width(x, h):  # here
    return tanh(affine("all", x, h, width=3))


def number_returned(x, h):  # here
    return 0.0


def value_called_as_a_state(x, h):  # here
    return tanh(affine("hidden", x, h)) + 1


def linear_gate_called_as_a_value(x, h):  # here
    h = affine("gate", x, h)
    named("gate", x)
    return h


kept = []


def symbol_of_another_trace_returned(x, h):  # here
    kept.append(tanh(affine("all", x, h)))
    return kept[0]


def symbol_of_another_trace_used(x, h):
    kept.append(tanh(affine("all", x, h)))
    return h + kept[0]  # here


MISTAKES = {
    if_on_a_symbol: "select(a > b, x, y)",
    and_of_symbols: "`and`",
    torch_function: "torch's `tanh` doesn't take symbols; use throughtime.language.tanh instead",
    torch_function_without_counterpart: "torch's `cumsum` doesn't take symbols; use numbers and throughtime.language",
    tensor_times_symbol: "torch's `mul` doesn't take symbols; use numbers and throughtime.language",
    numpy_function: "NumPy's `tanh` doesn't take symbols; use throughtime.language.tanh instead",
    numpy_array_times_symbol: "NumPy's `multiply` doesn't take symbols",
    symbol_times_numpy_array: "mul takes symbols and numbers, got ndarray",
    numpy_conversion: "NumPy",
    math_function: "use functions of throughtime.language",
    equality: "only the comparisons `>` and `<`",
    inequality: "only the comparisons `>` and `<`",
    at_least: "only the comparisons `>` and `<`",
    number_in_the_place_of_a_vector: "expected a vector of the cell, got float 1.0",
    text_in_the_place_of_a_vector: "add takes symbols and numbers, got str '1'",
    not_a_number: "NaN",
    widths_that_do_not_fit: "mul takes vectors of equal width; all has 4 and x has 3 elements",
    widths_of_gates_that_do_not_fit: "add takes vectors of equal width",
    loop_over_a_symbol: "use split(v, n)",
    unpacked_symbol: "use split(v, n)",
    element_out_of_range: "index 4 is out of range for a vector of width 4 (0 to 3)",
    slice_with_a_step: "index a symbol as `v[k]` or slice it as `v[start:stop]`",
    slice_by_a_symbol: "index a symbol as `v[k]` or slice it as `v[start:stop]`",
    empty_slice: "the slice 3:3 of a vector of width 4 is empty",
    fractional_power: "must be a positive integer, got 0.5",
    unequal_split: "a vector of width 4 can't be split into 3 equal parts",
    number_in_concat: "concat takes vectors, got int 1",
    unknown_activation: "no activation named 'tahn' (did you mean tanh?",
    parameters_of_one_name: "two sets of parameters are named 'gate'",
    values_of_one_name: "two values are named 'seen'",
    gate_called_as_another_value: "two values are named 'gate'",
    parameter_called_as_the_gates_bias: "'bias' is the name of a parameter of the gates",
    name_with_a_space: "got 'the gate'",
    name_that_is_a_number: "got 1",
    gate_without_a_source: "'all' needs at least one vector",
    gate_of_a_number: "'all' takes vectors, got float 1.0",
    gate_of_one_vector_twice: "'all' has the same vector twice",
    gate_of_no_width: "the width of 'all' must be a positive integer, got 0",
    unknown_name: "'tahn' is neither a variable of the cell nor a function of throughtime.language (did you mean tanh",
    too_few_arguments: "TypeError: select() missing 1 required positional argument",
    method_that_is_not_there: "a vector has no attribute 'tanh'; use throughtime.language.tanh",
    missing_state: "the cell has 2 states (hidden, cell) but returned 1 value:",
    too_many_returned: "the cell has 1 state (hidden) but returned 3 values:",
    nothing_returned: "must return symbols, but it returned None",
    state_of_another_width: "state 'hidden' has width 4, but its returned value has width 3",
    number_returned: "must return symbols, but it returned 0.0",
    value_called_as_a_state: "two values are named 'hidden'",
    linear_gate_called_as_a_value: "two values are named 'gate'",
    symbol_of_another_trace_returned: "kept from another trace",
    symbol_of_another_trace_used: "this symbol belongs to the trace of another cell",
}


@pytest.mark.parametrize("function", MISTAKES, ids=lambda f: f.__name__)
def test_an_error_shows_the_line_of_the_cells_source(function):
    kept.clear()
    lines, first = inspect.getsourcelines(function)
    (offset,) = (k for k, line in enumerate(lines) if line.endswith("# here\n"))
    with pytest.raises(CellError) as caught:
        cell(function).program(3, 4)
    where, source, *message = str(caught.value).split("\n")
    assert where == f"{__file__}, line {first + offset}, in {function.__name__}:"
    assert source.strip() == lines[offset].strip()
    assert MISTAKES[function] in "\n".join(message)


def test_an_error_about_a_decorated_cell_points_to_its_def():
    @cell
    def decorated(x, h):
        return None

    first = inspect.getsourcelines(decorated.function)[1]
    with pytest.raises(CellError, match=rf"line {first + 1}, in decorated:\n    def decorated\(x, h\):"):
        decorated.program(3, 4)


def test_an_error_in_a_function_called_by_a_cell_points_to_that_function():
    def helper(v):
        return torch.sigmoid(v)

    @cell
    def caller(x, h):
        return helper(affine("all", x, h))

    line = inspect.getsourcelines(helper)[1] + 1
    with pytest.raises(CellError, match=rf"line {line}, in helper:\n    return torch.sigmoid\(v\)"):
        caller.program(3, 4)


def test_an_error_has_a_line_number_if_the_source_is_not_available():
    space = {}
    exec("from throughtime.language import *\n@cell\ndef typed(x, h):\n    if x: return h\n    return h", space)
    with pytest.raises(CellError, match=r"<string>, line 4, in typed:\na symbol has no truth value"):
        space["typed"].program(3, 4)


def test_a_lambda_can_be_a_cell():
    short = cell(lambda x, h: tanh(affine("all", x, h)))
    assert short.program(3, 4).equivalent(cells.rnn.program(3, 4))


def star_arguments(x, *states):
    return states


def star_words(x, h, **hyper):
    return h


def no_state(x):
    return x


def hyper_without_a_default(x, h, *, size):
    return h


def hyper_that_is_not_keyword_only(x, h, size=3):
    return h


def state_with_a_bad_name(x, h=state("the hidden")):
    return h


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (star_arguments, r"not \*args or \*\*kwargs"),
        (star_words, r"not \*args or \*\*kwargs"),
        (no_state, "x and at least one state"),
        (hyper_without_a_default, "'size' needs a default"),
        (hyper_that_is_not_keyword_only, r"'size' must be a state .* move them after a `\*`"),
        (state_with_a_bad_name, "got 'the hidden'"),
    ],
)
def test_unsupported_arguments_of_a_cell_are_reported_at_its_def(function, message):
    with pytest.raises(CellError, match=message) as caught:
        cell(function)
    line = inspect.getsourcelines(function)[1]
    assert str(caught.value).startswith(f"{__file__}, line {line}, in {function.__name__}:\n    def ")


@pytest.mark.parametrize("thing", [max, 3, "lstm", cells.lstm, torch.nn.LSTM])
def test_only_a_function_can_be_a_cell(thing):
    with pytest.raises(CellError, match="a cell must be a function"):
        cell(thing)


def test_duplicate_state_names_raise():
    @cell
    def twins(x, a=state("same"), b=state("same")):
        return tanh(affine("all", x, a)), tanh(b)

    with pytest.raises(CellError, match="two values are named 'same'"):
        twins.program(3, 4)


def test_a_state_with_a_missing_or_invalid_width_raises():
    @cell
    def wide(x, h=state(width="size"), *, size=None):
        return tanh(affine("all", x, h, width=size))

    assert wide.program(3, 4).states[0].width == 4
    for size in (0, -1, 2.5, "2"):
        with pytest.raises(CellError, match=re.escape(f"must be a positive integer, got {size!r}")):
            wide.program(3, 4, size=size)

    @cell
    def lost(x, h=state(width="size")):
        return tanh(affine("all", x, h))

    with pytest.raises(CellError, match="'size', which is not a hyper-parameter"):
        lost.program(3, 4)


def test_an_unknown_hyper_parameter_raises_with_a_suggestion():
    with pytest.raises(CellError, match=r"cell rnn has no hyper-parameter 'activaton' .did you mean activation\?"):
        cells.rnn.program(3, 4, activaton="relu")
    with pytest.raises(CellError, match=r"cell gru has no hyper-parameter 'size'.*it has none"):
        cells.gru.program(3, 4, size=1)
    with pytest.raises(CellError, match="has no hyper-parameter"):
        cells.rnn.variant("other", "Another.", sizee=1)


def test_an_unhashable_hyper_parameter_raises():
    with pytest.raises(CellError, match="'activation' must be a number, a string or None"):
        cells.rnn.program(3, 4, activation=["tanh"])


@pytest.mark.parametrize("sizes", [(0, 4), (3, 0), (-1, 4), (3, 4.0), ("3", 4)])
def test_sizes_must_be_positive_integers(sizes):
    with pytest.raises(CellError, match="must be a positive integer"):
        cells.rnn.program(*sizes)


def test_functions_of_the_language_only_work_inside_a_cell():
    for word in (lambda: affine("all"), lambda: parameter("p"), lambda: layer_norm("n", None), lambda: linear("l", 1)):
        with pytest.raises(CellError, match="only in a cell's equations"):
            word()
    with pytest.raises(CellError, match="expected a vector of the cell"):
        tanh(1.0)


def package_frames(error: BaseException) -> list[str]:
    return [f.name for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(PACKAGE)]


def test_an_error_shows_the_cells_line_and_hides_the_tracers_frames():
    @cell
    def narrow(x, h):
        f = sigmoid(affine("forget", x, h))
        return f * h[:2]

    @cell
    def misspelled(x, h):
        return affine("all", x, h).tanh()

    for wrong, line in ((narrow, "return f * h[:2]"), (misspelled, 'return affine("all", x, h).tanh()')):
        with pytest.raises(CellError, match=re.escape(line)) as caught:
            wrong.program(3, 4)
        assert package_frames(caught.value) == ["program"]
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_an_error_in_a_function_called_by_a_cell_keeps_the_authors_frames():
    def look_up(table: dict[str, int]) -> int:
        return table["missing"]

    @cell
    def calling(x, h):
        return affine("all", x, h) * look_up({})

    with pytest.raises(CellError, match="KeyError: 'missing'") as caught:
        calling.program(3, 4)
    assert [f.name for f in traceback.extract_tb(caught.value.__cause__.__traceback__)] == ["calling", "look_up"]

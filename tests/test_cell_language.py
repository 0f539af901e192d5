"""Cells as equations: the programs they compile to, and the errors for mistakes in them."""

from __future__ import annotations

import inspect
import math
import re
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close, random_arguments, run
from hypothesis import given, settings
from hypothesis import strategies as st

import throughtime
from throughtime import cells
from throughtime.errors import CellError
from throughtime.language import (
    ACTIVATIONS,
    activate,
    affine,
    bias,
    cell,
    concat,
    exp,
    gate,
    layer_norm,
    linear,
    log,
    maximum,
    minimum,
    named,
    parameter,
    relu,
    row_mean,
    select,
    sigmoid,
    softplus,
    split,
    sqrt,
    state,
    tanh,
)
from throughtime.program.core import Program
from throughtime.program.operations import OPERATIONS

PACKAGE = str(Path(throughtime.__file__).parent)


def parts(program: Program) -> dict[str, list[tuple[str, int, int]]]:
    return {p.name: [(q.gate, q.start, q.stop) for q in p.parts] for p in program.parameters}


def shapes(program: Program) -> dict[str, tuple[int, ...]]:
    return {p.name: p.shape for p in program.parameters}


# Parameters.


def test_gates_share_one_matrix_per_source_and_one_bias_in_order_of_definition():
    program = cells.lstm.program(3, 4)
    gates = [(gate, 4 * k, 4 * k + 4) for k, gate in enumerate(["input", "forget", "candidate", "output"])]
    assert parts(program) == {"weight_x": gates, "weight_h": gates, "bias": gates}
    assert shapes(program) == {"weight_x": (16, 3), "weight_h": (16, 4), "bias": (16,)}
    products = [i for i in program.body if i.op == "linear"]
    assert [p.width for p in products] == [16, 16]


def test_gates_have_the_same_order_as_in_torch():
    assert [p.gate for p in cells.gru.program(3, 4).parameters[0].parts] == ["reset", "update", "candidate"]
    assert [p.gate for p in cells.lstm.program(3, 4).parameters[0].parts] == ["input", "forget", "candidate", "output"]


def test_a_gate_with_one_source_only_has_rows_in_that_matrix():
    program = cells.gru.program(3, 4)
    assert [g for g, _, _ in parts(program)["weight_x"]] == ["reset", "update", "candidate"]
    assert [g for g, _, _ in parts(program)["weight_h"]] == ["reset", "update", "candidate.recurrent"]
    assert [g for g, _, _ in parts(program)["bias"]] == ["reset", "update", "candidate", "candidate.recurrent"]


@pytest.mark.parametrize("name", cells.names())
def test_without_bias_there_is_no_bias_parameter(name):
    program = cells.get(name).program(3, 4, bias=False)
    assert "bias" not in shapes(program)


def test_a_projection_narrows_the_state_and_has_its_own_matrix():
    program = cells.lstm.program(3, 4, projection=2)
    assert [(s.name, s.width) for s in program.states] == [("hidden", 2), ("cell", 4)]
    assert shapes(program) == {
        "weight_x": (16, 3),
        "weight_h": (16, 2),
        "weight_projection": (2, 4),
        "bias": (16,),
    }


def test_gates_of_different_widths():
    @cell
    def mixed(x, h):
        scale = sigmoid(affine("scale", x, h, width=1))
        return tanh(affine("candidate", x, h)) * scale

    program = mixed.program(3, 4)
    assert parts(program)["weight_h"] == [("scale", 0, 1), ("candidate", 1, 5)]


def test_biases_and_vector_parameters_can_declare_initial_values():
    @cell
    def started(x, h):
        f = sigmoid(affine("forget", x, h, bias=1))
        g = tanh(affine("candidate", x, h))
        return f * h + parameter("rate", width=1, initial=0.5) * g + parameter("free")

    program = started.program(3, 4)
    initial = {(p.name, q.gate): q.initial for p in program.parameters for q in p.parts}
    assert initial["bias", "forget"] == 1.0
    assert initial["bias", "candidate"] is None
    assert initial["weight_x", "forget"] is None
    assert initial["rate", "rate"] == 0.5
    assert initial["free", "free"] is None
    assert shapes(program)["rate"] == (1,)
    assert shapes(program)["free"] == (4,)


def test_layer_norm_starts_with_gain_1_and_shift_0():
    @cell
    def normed(x, h):
        return tanh(layer_norm("norm", affine("all", x, h)))

    program = normed.program(3, 4)
    started = {p.name: p.parts[0].initial for p in program.parameters}
    assert started["norm.gain"] == 1.0
    assert started["norm.shift"] == 0.0


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["x", "h", "k", "xx"]), min_size=1, max_size=3, unique=True),
            st.integers(1, 3),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_each_fused_gate_equals_its_rows_times_its_sources(gates):
    @cell
    def fused(x, h, k=state(width=2)):
        sources = {"x": x, "h": h, "k": k, "xx": x * x}
        values = [
            affine(f"gate{n}", *(sources[s] for s in names), width=width, bias=has_bias)
            for n, (names, width, has_bias) in enumerate(gates)
        ]
        return concat(*values), h * 0.5, k * 0.5

    program = fused.program(3, 4)
    arguments = random_arguments(program, 1)
    tensors = {p.name: t for p, t in zip(program.parameters, arguments.parameters, strict=True)}
    rows = {(p.name, q.gate): slice(q.start, q.stop) for p in program.parameters for q in p.parts}
    assert sum(r.stop - r.start for r in rows.values()) == sum(len(t) for t in tensors.values())
    (x,), (h, k) = arguments.inputs[0], arguments.states
    sources = {"x": x, "h": h, "k": k, "xx": x * x}
    matrix = {"x": "weight_x", "h": "weight_h", "k": "weight_k"}
    matrix["xx"] = next((p.name for p in program.parameters if p.name.startswith("weight_gate")), "")
    wanted = []
    for n, (names, width, has_bias) in enumerate(gates):
        gate = f"gate{n}"
        value = torch.zeros(len(x), width, dtype=x.dtype)
        for source in names:
            value = value + sources[source] @ tensors[matrix[source]][rows[matrix[source], gate]].T
        wanted.append(value + tensors["bias"][rows["bias", gate]] if has_bias else value)
    assert_close(run(program, arguments, 1).outputs, [torch.cat(wanted, -1)[None]], 1e-14)
    # One matrix product per source, regardless of the number of gates.
    assert sum(i.op == "linear" for i in program.body) == len({s for names, _, _ in gates for s in names})


# Names of values.


def test_a_gates_name_refers_to_its_activation_and_pre_to_its_pre_activation():
    program = cells.lstm.program(3, 4)
    for name, function in (("input", "sigmoid"), ("forget", "sigmoid"), ("candidate", "tanh"), ("output", "sigmoid")):
        value = program.body[program.values[name]]
        assert value.op == function
        assert value.args == (program.values[f"{name}.pre"],)


@pytest.mark.parametrize("name", cells.names())
def test_states_and_their_previous_values_have_names(name):
    program = cells.get(name).program(3, 4)
    for k, s in enumerate(program.states):
        assert program.values[s.name] == s.next
        old = program.body[program.values[f"{s.name}.previous"]]
        assert (old.op, old["index"]) == ("previous", k)


def test_terms_added_to_a_gate_are_part_of_its_pre_activation():
    program = cells.gru.program(3, 4)
    candidate = program.body[program.values["candidate"]]
    assert candidate.op == "tanh"
    assert program.body[candidate.args[0]].op == "add"
    assert candidate.args == (program.values["candidate.pre"],)
    # A gate without an activation equals its pre-activation.
    assert program.values["candidate.recurrent"] == program.values["candidate.recurrent.pre"]


def test_named_gives_any_value_a_name():
    @cell
    def seen(x, h):
        inner = named("inner", x * x)
        return tanh(affine("hidden", inner, h))

    program = seen.program(3, 4)
    assert program.body[program.values["inner"]].op == "mul"


def test_states_have_conventional_names():
    @cell
    def some(x, h, c, m, n=state("normalizer")):
        return tanh(affine("all", x, h)), c * 0.5, m * 0.5, n * 0.5

    assert [s.name for s in some.program(3, 4).states] == ["hidden", "cell", "m", "normalizer"]


# States, outputs and hyper-parameters.


def test_states_declare_their_width_and_initial_value():
    @cell
    def declared(x, h, n=state(initial=1.0, width=2), m=state(width="size"), *, size=5):
        return tanh(affine("all", x, h)), n * 0.5, m * 0.5

    program = declared.program(3, 4)
    assert [(s.name, s.width, s.initial) for s in program.states] == [("hidden", 4, 0.0), ("n", 2, 1.0), ("m", 5, 0.0)]
    assert declared.program(3, 4, size=6).states[2].width == 6


def test_the_output_is_the_first_state_or_an_extra_value_before_the_states():
    @cell
    def first(x, h):
        return tanh(affine("all", x, h))

    @cell
    def before(x, h):
        h = tanh(affine("all", x, h))
        y = h * 2
        return y, h

    assert first.program(3, 4).outputs[0].value == first.program(3, 4).states[0].next
    program = before.program(3, 4)
    assert program.body[program.outputs[0].value].op == "mul"


def test_hyper_parameters_are_keyword_only_and_can_select_equations():
    assert cells.rnn.hyper == {"activation": "tanh"}
    with_relu = cells.rnn.program(3, 4, activation="relu")
    assert with_relu.body[with_relu.values["hidden"]].op == "relu"
    assert with_relu.equivalent(cells.rnn_relu.program(3, 4))
    assert not with_relu.equivalent(cells.rnn.program(3, 4))


def test_equal_arguments_return_the_same_program():
    assert cells.lstm.program(3, 4) is cells.lstm.program(3, 4)
    assert cells.lstm.program(3, 4) != cells.lstm.program(3, 5)


def test_a_cell_can_call_another_cell_with_different_hyper_parameters():
    @cell
    def residual(x, h):
        inner = cells.rnn(x, h, activation="relu")
        return inner

    assert residual.program(3, 4).equivalent(cells.rnn_relu.program(3, 4))


def test_numpy_scalars_are_numbers():
    @cell
    def scaled(x, h):
        return np.float64(0.5) * tanh(affine("all", x, h)) * np.float32(2) + np.sqrt(4.0) - h / np.int64(2)

    @cell
    def plain(x, h):
        return 0.5 * tanh(affine("all", x, h)) * 2.0 + 2.0 - h / 2.0

    assert scaled.program(3, 4).body == plain.program(3, 4).body


def test_redundant_operations_are_simplified():
    @cell
    def roundabout(x, h):
        opposite = -tanh(affine("all", x, h))
        h = -opposite * 1.0 / 1
        return concat(*split(h, 2))[0:4]

    assert roundabout.program(3, 4).equivalent(cells.rnn.program(3, 4))


def test_all_functions_match_torch():
    # One cell with all functions, compared with the same computation in torch.
    @cell
    def wordy(x, h):
        a, b = split(x, 2)
        positive = softplus(a) + 0.5
        one = row_mean(b)
        parts_of = [
            *(log(positive), sqrt(positive), exp(a), relu(a), sigmoid(a), tanh(a)),
            *(maximum(a, b), maximum(a, 0.5), minimum(a, b), minimum(0.25, a)),
            *(select(a > b, a, 2.0), select(b < 0.5, 1, b), a**3, 1 / positive, 1 - a, a - 1, 2 / positive / b, one),
            *(one * a, a + one),
        ]
        return concat(*parts_of), h * 1.5

    program = wordy.program(6, 2)
    arguments = random_arguments(program)
    a, b = arguments.inputs[0].split(3, -1)
    positive = torch.nn.functional.softplus(a) + 0.5
    one = b.mean(-1, keepdim=True)
    wanted = torch.cat(
        [
            *(positive.log(), positive.sqrt(), a.exp(), a.relu(), a.sigmoid(), a.tanh()),
            *(torch.maximum(a, b), a.clamp(min=0.5), torch.minimum(a, b), a.clamp(max=0.25)),
            *(torch.where(a > b, a, 2.0), torch.where(b < 0.5, 1.0, b), a**3, 1 / positive, 1 - a, a - 1),
            *(2 / positive / b, one, one * a, a + one),
        ],
        -1,
    )
    assert_close(run(program, arguments).outputs, [wanted], 1e-14)


def test_powers_and_slices_work_as_in_numpy():
    @cell
    def sliced(x, h):
        return concat(x[:2], x[1:], x[-2:-1], x[0:3][1:2], x**1, x**2), h * 1.0

    program = sliced.program(3, 4)
    arguments = random_arguments(program)
    x = arguments.inputs[0]
    wanted = torch.cat([x[..., :2], x[..., 1:], x[..., -2:-1], x[..., 1:2], x, x * x], -1)
    assert_close(run(program, arguments).outputs, [wanted], 1e-15)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name in OPERATIONS or name == "identity"])
def test_activations_can_be_selected_by_name(name):
    program = cells.rnn.program(3, 4, activation=name)
    assert program.body[program.values["hidden.pre"]].op == "add"
    assert program.body[program.values["hidden"]].op == (name if name != "identity" else "add")


def test_a_gate_that_is_not_an_affine_map_has_named_values():
    @cell
    def halves(x, h):
        i, g = split(linear("both", x, width=8) + linear("both_h", h, width=8), 2)
        return sigmoid(gate("input", i)) * tanh(gate("candidate", g))

    program = halves.program(3, 4)
    assert [program.body[program.values[f"{name}.pre"]].op for name in ("input", "candidate")] == ["slice"] * 2
    assert [program.body[program.values[name]].op for name in ("input", "candidate")] == ["sigmoid", "tanh"]


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_separate_bias_is_stored_with_the_biases_of_the_gates(with_bias):
    @cell
    def product(x, h):
        i = sigmoid(affine("input", x, h))
        return i * tanh(bias("candidate", 0.5) + linear("factor_x", x) * linear("factor_h", h))

    program = product.program(3, 4, bias=with_bias)
    arguments = random_arguments(program, 1)
    b = dict(zip((p.name for p in program.parameters), arguments.parameters, strict=True)).get("bias", torch.zeros(8))
    if with_bias:
        assert parts(program)["bias"] == [("input", 0, 4), ("candidate", 4, 8)]
        assert [part.initial for p in program.parameters if p.name == "bias" for part in p.parts] == [None, 0.5]
    x, h = arguments.inputs[0][0], arguments.states[0]
    wx, wh = (p.split(4) for p in arguments.parameters[:2])
    i = torch.sigmoid(x @ wx[0].T + b[:4] + h @ wh[0].T)
    wanted = i * torch.tanh(b[4:] + (x @ wx[1].T) * (h @ wh[1].T))
    assert_close([run(program, arguments, 1).outputs[0][0]], [wanted], 1e-14)
    assert program.body[program.values["candidate"]].op == "tanh"


def test_an_author_can_choose_which_value_a_gate_name_refers_to():
    @cell
    def exponential(x, h):
        a = affine("input", x, h)
        return named("input", exp(a - maximum(a, 1.0)))

    program = exponential.program(3, 4)
    assert program.body[program.values["input.pre"]].op == "add"
    assert program.body[program.values["input"]].op == "exp"


# Metadata of cells.


def test_a_cell_exposes_its_meaning_and_source():
    assert cells.lstm.name == "lstm"
    assert cells.lstm.meaning.startswith("Long short-term memory")
    assert 'f = sigmoid(affine("forget", x, h))' in cells.lstm.source
    assert cells.rnn_relu.name == "rnn_relu"
    assert "rectified" in cells.rnn_relu.meaning
    assert repr(cells.rnn_relu) == "<cell rnn_relu, activation='relu'>"


def test_cells_are_found_by_name_and_unknown_names_get_a_suggestion():
    assert cells.get("gru") is cells.gru
    assert cells.get(cells.gru) is cells.gru
    with pytest.raises(CellError, match=r"'ltsm'.*did you mean .*lstm"):
        cells.get("ltsm")


# Mistakes in cells. Each function is a cell, and its wrong line ends in `# here`.


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
    torch_function: "torch's `tanh` doesn't take symbols; use throughtime.language.tanh instead.",
    torch_function_without_counterpart: "torch's `cumsum` doesn't take symbols; use numbers and throughtime.language",
    tensor_times_symbol: "torch's `mul` doesn't take symbols; use numbers and throughtime.language",
    numpy_function: "NumPy's `tanh` doesn't take symbols; use throughtime.language.tanh instead.",
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
    unknown_activation: "no activation named 'tahn', did you mean tanh?",
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
    unknown_name: "'tahn' is neither a variable of the cell nor a word of throughtime.language, did you mean tanh",
    too_few_arguments: "TypeError: select() missing 1 required positional argument",
    method_that_is_not_there: "a vector has no attribute 'tanh'; use throughtime.language.tanh.",
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

    with pytest.raises(CellError, match="'size', but there is no such hyper-parameter"):
        lost.program(3, 4)


def test_an_unknown_hyper_parameter_raises_with_a_suggestion():
    with pytest.raises(CellError, match=r"cell rnn has no hyper-parameter 'activaton', did you mean activation\?"):
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


def test_cells_and_programs_render_in_a_notebook():
    shown = cells.rnn_leaky._repr_html_()
    assert '<td style="text-align: left">leak</td>' in shown
    assert "affine(&quot;candidate&quot;, x, h)" in shown
    program = cells.rnn.program(3, 4)
    assert repr(program) == str(program)
    assert program._repr_html_().startswith("<pre>program rnn\n")

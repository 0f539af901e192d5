"""Cells as equations, and the programs that they compile to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_close, random_arguments, run
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime import cells
from throughtime.errors import CellError
from throughtime.language import (
    ACTIVATIONS,
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


def test_gates_can_have_different_widths():
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


def test_cells_and_programs_render_in_a_notebook():
    shown = cells.rnn_leaky._repr_html_()
    assert '<td style="text-align: left">leak</td>' in shown
    assert "affine(&quot;candidate&quot;, x, h)" in shown
    program = cells.rnn.program(3, 4)
    assert repr(program) == str(program)
    assert program._repr_html_().startswith("<pre>program rnn\n")

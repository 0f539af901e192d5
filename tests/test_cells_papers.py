"""Every named cell matches a loop written from its paper: values and gradients, on both engines."""

from __future__ import annotations

import pytest
import torch
from cell_harness import STEPS, Weights, assert_matches_loop, loop
from cell_loops import LOOPS, Loop
from helpers import Arguments, assert_close, flat, random_arguments, run_on
from torch import Tensor
from torch.nn.functional import logsigmoid

import throughtime
from throughtime import cells
from throughtime.engines.reference import ReferenceEngine
from throughtime.language import affine, cell, layer_norm, sigmoid, tanh
from throughtime.program.phases import Phase, phases


def _id(of: Loop) -> str:
    return "-".join([of.cell, *(f"{key}={value}" for key, value in of.options.items() if key != "states")])


@pytest.mark.parametrize("of", LOOPS, ids=_id)
def test_a_cell_matches_the_loop_from_its_paper(of: Loop) -> None:
    assert_matches_loop(cells.get(of.cell), of.step, **of.options)


@pytest.mark.parametrize("of", LOOPS, ids=_id)
def test_a_cell_without_biases_matches_the_loop(of: Loop) -> None:
    program = cells.get(of.cell).program(**{"input_size": 3, "hidden_size": 4, "bias": False} | _own(of))
    arguments = random_arguments(program, STEPS, seed=1)
    outputs, states = loop(of.step, Weights(program, arguments.parameters), arguments)
    assert_close(flat(run_on(ReferenceEngine(), program, STEPS, *arguments, None)), [outputs, *states], 1e-13)


def _own(of: Loop) -> dict[str, object]:
    return {key: value for key, value in of.options.items() if key != "states"}


def test_every_named_cell_has_a_loop() -> None:
    assert {of.cell for of in LOOPS} == set(cells.names())


def test_grid_lstm_passes_its_depth_memory_to_the_next_layer() -> None:
    layers = throughtime.Recurrent("grid_lstm", 3, 4, 2, dtype=torch.float64)
    assert [p.inputs[0].width for p in layers.programs] == [3, 8]
    x = torch.randn(STEPS, 2, 3, dtype=torch.float64)
    y, states = layers(x)
    (step,) = {of.step for of in LOOPS if of.cell == "grid_lstm"}
    for depth, program in enumerate(layers.programs):
        weights = [layers.get_parameter(f"{p.name}_l{depth}") for p in program.parameters]
        start = [torch.zeros(2, 4, dtype=torch.float64)] * 2
        x, final = loop(step, Weights(program, weights), Arguments([x], start, weights))
        assert_close([s[depth] for s in states], final, 1e-13)
    assert_close([y], [x], 1e-13)


def test_a_wrong_loop_is_detected() -> None:
    def step(w: Weights, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        (h,) = states
        f = torch.sigmoid(w.affine("forget", x=x, h=h))
        h = f * h + (1 - f) * torch.tanh(w.affine("candidate", x=x, candidate=f * h))  # f and 1 - f swapped
        return h, [h]

    with pytest.raises(AssertionError, match="is off by"):
        assert_matches_loop(cells.mgu, step)


# The harness also works for a user's cell.


@cell
def own(x, h):
    """A cell with a normalized pre-activation and a second product after the gate."""
    r = sigmoid(layer_norm("norm", affine("reset", x, h)))
    n = tanh(affine("candidate", x, r * h))
    return n + h * (1 - r)


def own_step(w: Weights, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The same cell in plain torch."""
    (h,) = states
    a = w.affine("reset", x=x, h=h)
    r = torch.sigmoid(torch.nn.functional.layer_norm(a, a.shape[-1:], w["norm.gain"], w["norm.shift"]))
    h = torch.tanh(w.affine("candidate", x=x, candidate=r * h)) + h * (1 - r)
    return h, [h]


def test_a_users_cell_with_a_norm_and_a_second_product_matches_its_loop() -> None:
    assert_matches_loop(own, own_step)
    assert throughtime.gradcheck(own).passed


# Properties that a comparison over a few steps doesn't cover.


def test_the_first_step_of_the_slstm_matches_the_authors_code() -> None:
    # Where the normalizer is 0 everywhere, their code uses only the input gate as the stabilizer.
    program = cells.slstm.program(3, 4)
    drawn = random_arguments(program, STEPS)
    arguments = Arguments(drawn.inputs, [torch.full_like(s, 0.0) for s in drawn.states], drawn.parameters)

    def step(w: Weights, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h, c, n, m = states
        i, f, z, o = (w.affine(gate, x=x, h=h) for gate in ("input", "forget", "candidate", "output"))
        new = i if bool((n == 0).all()) else torch.maximum(i, m + logsigmoid(f))
        i, f = torch.exp(i - new), torch.exp(logsigmoid(f) + m - new)
        c, n = f * c + i * torch.tanh(z), f * n + i
        return torch.sigmoid(o) * c / n, [torch.sigmoid(o) * c / n, c, n, new]

    wanted, states = loop(step, Weights(program, arguments.parameters), arguments)
    start = [torch.full_like(s, of.initial) for s, of in zip(drawn.states, program.states, strict=True)]
    found = run_on(ReferenceEngine(), program, STEPS, drawn.inputs, start, drawn.parameters)
    assert_close(flat(found), [wanted, *states], 1e-13)


def test_the_slstm_stabilizer_prevents_gates_from_overflowing() -> None:
    layer = throughtime.Recurrent("slstm", 3, 4)
    x = 5000.0 * torch.randn(50, 2, 3)  # exp(x) overflows
    x.requires_grad_()
    y, states = layer(x)
    y.sum().backward()
    assert all(t.isfinite().all() for t in (y, *states, x.grad, *(p.grad for p in layer.parameters())))


@pytest.mark.parametrize("name", ["sru", "t_rnn", "mingru", "minlstm", "rg_lru", "indrnn", "brc", "unicornn"])
def test_no_matrix_product_depends_on_the_state(name: str) -> None:
    program = cells.get(name).program(3, 4)
    in_loop = [i.op for i, phase in zip(program.body, phases(program), strict=True) if phase is Phase.STEP]
    assert "linear" not in in_loop


@pytest.mark.parametrize(
    ("name", "widths"), [("gru", [12, 12]), ("gru_reset_before", [12, 8, 4]), ("lstm_fgr", [16, 16, 12, 12, 12])]
)
def test_there_is_one_matrix_product_per_vector(name: str, widths: list[int]) -> None:
    body = cells.get(name).program(3, 4).body
    assert [i.width for i in body if i.op == "linear"] == widths


def test_the_lstm_without_peepholes_equals_the_lstm() -> None:
    assert cells.lstm_np.program(3, 4).equivalent(cells.lstm.program(3, 4))


def test_initial_values_match_the_papers() -> None:
    """Parameters start at the values that a paper or its authors' code specifies."""

    def starts(name: str) -> dict[str, float]:
        parameters = throughtime.cells.get(name).program(3, 4).parameters
        return {f"{p.name}/{q.gate}": q.initial for p in parameters for q in p.parts if q.initial is not None}

    assert starts("ugrnn") == {"bias/update": 1.0}
    assert starts("janet") == {"bias/forget": 1.0}
    assert starts("fastrnn") == {"alpha/alpha": -3.0, "beta/beta": 3.0}
    assert starts("fastgrnn") == {"bias/update": 1.0, "bias/candidate": 1.0, "zeta/zeta": 1.0, "nu/nu": -4.0}
    assert starts("rhn") == {f"bias/transform{k}": -2.0 for k in range(3)}
    assert starts("lstm") == starts("gru") == starts("rnn") == {}

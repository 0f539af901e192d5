"""The language is general enough: cells of many kinds, each against a plain torch loop written from the paper.

Values and gradients are compared in float64. The loops below take a layer's parameters by gate, not as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import Arguments, assert_close, flat, random_arguments, random_cotangents, run, run_gradient
from torch import Tensor

from throughtime.language import (
    affine,
    cell,
    concat,
    exp,
    layer_norm,
    linear,
    maximum,
    parameter,
    sigmoid,
    softplus,
    split,
    state,
    tanh,
)
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.program.phases import Phase, phases

STEPS, ROWS, INPUT, HIDDEN = 5, 3, 3, 4


class Weights:
    """A layer's parameters by gate: `w.of("weight_x", "reset")` is that gate's rows of the matrix."""

    def __init__(self, program: Program, tensors: list[Tensor]) -> None:
        self.tensors = dict(zip((p.name for p in program.parameters), tensors, strict=True))
        self.rows = {(p.name, q.gate): slice(q.start, q.stop) for p in program.parameters for q in p.parts}

    def of(self, parameter: str, gate: str) -> Tensor:
        return self.tensors[parameter][self.rows[parameter, gate]]

    def x(self, gate: str, x: Tensor) -> Tensor:
        """W x + b."""
        return x @ self.of("weight_x", gate).T + self.of("bias", gate)

    def h(self, gate: str, h: Tensor, parameter: str = "weight_h") -> Tensor:
        """R h."""
        return h @ self.of(parameter, gate).T


Step = Callable[[Weights, Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


def compare(cell: Cell, step: Step, **hyper: object) -> Program:
    """Outputs, final states and every gradient of the cell are those of the loop over `step`."""
    program = cell.program(INPUT, HIDDEN, **hyper)
    arguments = random_arguments(program, STEPS, ROWS)
    for s, old in zip(program.states, arguments.states, strict=True):
        if s.initial:
            old.fill_(s.initial)
    result = run(program, arguments, STEPS)
    cotangents = random_cotangents(result)

    leaves = arguments.map(lambda t: t.clone().requires_grad_())
    weights, states, outputs = Weights(program, leaves.parameters), leaves.states, []
    for x in leaves.inputs[0]:
        y, states = step(weights, x, states)
        outputs.append(y)
    assert_close(flat(result), [torch.stack(outputs), *states], 1e-13)
    wanted = torch.autograd.grad([torch.stack(outputs), *states], leaves.flat, flat(cotangents), allow_unused=True)
    found: Arguments = run_gradient(program, arguments, cotangents, STEPS)
    assert all(g is not None for g in wanted)
    assert_close(found.flat, wanted, 1e-12)
    return program


def test_gru_with_the_reset_before_the_matrix_product():
    # Cho et al. 2014, equations 5 to 8: a second product, after a gate.
    @cell
    def gru_before(x, h):
        r = sigmoid(affine("reset", x, h))
        z = sigmoid(affine("update", x, h))
        n = tanh(affine("candidate", x, r * h))
        return z * h + (1 - z) * n

    def step(w, x, states):
        (h,) = states
        r = torch.sigmoid(w.x("reset", x) + w.h("reset", h))
        z = torch.sigmoid(w.x("update", x) + w.h("update", h))
        n = torch.tanh(w.x("candidate", x) + w.h("candidate", r * h, "weight_candidate"))
        h = z * h + (1 - z) * n
        return h, [h]

    program = compare(gru_before, step)
    # One product of x for all three gates, one of h for two, one of the gated state.
    assert [i.width for i in program.body if i.op == "linear"] == [12, 8, 4]


def test_layer_norm_over_all_gates():
    # Ba, Kiros & Hinton 2016, equations 20 to 22: W x and R h are normalised over all gates, and the cell state too.
    @cell
    def ln_lstm(x, h, c):
        from_x = layer_norm("norm_x", linear("gates_x", x, width=16))
        from_h = layer_norm("norm_h", linear("gates_h", h, width=16))
        f, i, o, g = split(from_x + from_h + parameter("shift", 16), 4)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(layer_norm("norm_c", c))
        return h, c

    def norm(w, name, v):
        return torch.nn.functional.layer_norm(v, v.shape[-1:], w.tensors[f"{name}.gain"], w.tensors[f"{name}.shift"])

    def step(w, x, states):
        h, c = states
        from_x = norm(w, "norm_x", x @ w.tensors["weight_x"].T)
        from_h = norm(w, "norm_h", h @ w.tensors["weight_h"].T)
        f, i, o, g = (from_x + from_h + w.tensors["shift"]).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(norm(w, "norm_c", c))
        return h, [h, c]

    program = compare(ln_lstm, step)
    assert {p.name: p.shape for p in program.parameters if p.name.startswith("norm_x")} == {
        "norm_x.gain": (16,),
        "norm_x.shift": (16,),
    }


def test_layer_norm_of_a_gates_sum_keeps_the_gates_name():
    @cell
    def normed(x, h):
        return tanh(layer_norm("norm", affine("candidate", x, h)))

    def step(w, x, states):
        (h,) = states
        a = w.x("candidate", x) + w.h("candidate", h)
        a = torch.nn.functional.layer_norm(a, (HIDDEN,), w.tensors["norm.gain"], w.tensors["norm.shift"])
        return torch.tanh(a), [torch.tanh(a)]

    program = compare(normed, step)
    assert program.body[program.values["candidate"]].args == (program.values["candidate.pre"],)
    assert program.body[program.values["candidate.pre"]].op == "add"


def test_peepholes():
    # Gers, Schraudolph & Schmidhuber 2002: input and forget gate see the old cell state, the output gate the new one.
    @cell
    def peephole(x, h, c):
        i = sigmoid(affine("input", x, h) + parameter("peephole.input") * c)
        f = sigmoid(affine("forget", x, h) + parameter("peephole.forget") * c)
        g = tanh(affine("candidate", x, h))
        c = f * c + i * g
        o = sigmoid(affine("output", x, h) + parameter("peephole.output") * c)
        h = o * tanh(c)
        return h, c

    def step(w, x, states):
        h, c = states
        i = torch.sigmoid(w.x("input", x) + w.h("input", h) + w.tensors["peephole.input"] * c)
        f = torch.sigmoid(w.x("forget", x) + w.h("forget", h) + w.tensors["peephole.forget"] * c)
        g = torch.tanh(w.x("candidate", x) + w.h("candidate", h))
        c = f * c + i * g
        o = torch.sigmoid(w.x("output", x) + w.h("output", h) + w.tensors["peephole.output"] * c)
        h = o * torch.tanh(c)
        return h, [h, c]

    program = compare(peephole, step)
    assert {p.shape for p in program.parameters if p.name.startswith("peephole")} == {(HIDDEN,)}
    assert program.values["input.pre"] != program.values["input"]


def test_two_states_that_both_feed_matrix_products():
    # An Elman and a Jordan memory at once, of different widths.
    @cell
    def two(x, h, k=state("context", width=2)):
        h = tanh(affine("hidden", x, h, k))
        k = sigmoid(affine("context", h, k, width=2))
        return h, k

    def step(w, x, states):
        h, k = states
        h = torch.tanh(w.x("hidden", x) + w.h("hidden", h) + w.h("hidden", k, "weight_k"))
        k = torch.sigmoid(w.h("context", h, "weight_context") + w.h("context", k, "weight_k") + w.of("bias", "context"))
        return h, [h, k]

    program = compare(two, step)
    assert {p.name: p.shape for p in program.parameters} == {
        "weight_x": (4, 3),
        "weight_h": (4, 4),
        "weight_k": (6, 2),
        "weight_context": (2, 4),
        "bias": (6,),
    }


@cell
def slstm(x, h, c, n=state("normaliser", initial=1.0), m=state("stabiliser")):
    """Scalar memory with exponential gates (Beck et al. 2024, arXiv:2405.04517, equations 8 to 17)."""
    log_i = affine("input", x, h)
    log_f = -softplus(-affine("forget", x, h))
    z = tanh(affine("candidate", x, h))
    o = sigmoid(affine("output", x, h))
    m_new = maximum(log_f + m, log_i)
    i = exp(log_i - m_new)
    f = exp(log_f + m - m_new)
    c = f * c + i * z
    n = f * n + i
    h = o * c / n
    return h, c, n, m_new


def test_a_max_stabilised_exponential_gate_and_a_state_that_starts_at_1():
    def step(w, x, states):
        h, c, n, m = states
        pre = {gate: w.x(gate, x) + w.h(gate, h) for gate in ("input", "forget", "candidate", "output")}
        log_f = torch.nn.functional.logsigmoid(pre["forget"])
        m_new = torch.maximum(log_f + m, pre["input"])
        i, f = torch.exp(pre["input"] - m_new), torch.exp(log_f + m - m_new)
        c = f * c + i * torch.tanh(pre["candidate"])
        n = f * n + i
        h = torch.sigmoid(pre["output"]) * c / n
        return h, [h, c, n, m_new]

    program = compare(slstm, step)
    assert {s.name: s.initial for s in program.states} == {
        "hidden": 0.0,
        "cell": 0.0,
        "normaliser": 1.0,
        "stabiliser": 0.0,
    }


def test_the_stabiliser_keeps_gates_finite_that_would_overflow():
    program = slstm.program(INPUT, HIDDEN)
    arguments = random_arguments(program, 50, ROWS)
    arguments.inputs[0].mul_(5000.0)  # exp of which is infinite
    arguments.states[2].fill_(1.0)
    result = run(program, arguments, 50)
    cotangents = random_cotangents(result)
    assert all(t.isfinite().all() for t in flat(result))
    assert all(t.isfinite().all() for t in run_gradient(program, arguments, cotangents, 50).flat)


def test_gates_of_x_alone():
    # minGRU (Feng et al. 2024, arXiv:2410.01201): no product waits for a state.
    @cell
    def mingru(x, h):
        z = sigmoid(affine("update", x))
        n = affine("candidate", x)
        return (1 - z) * h + z * n

    def step(w, x, states):
        (h,) = states
        z = torch.sigmoid(w.x("update", x))
        h = (1 - z) * h + z * w.x("candidate", x)
        return h, [h]

    program = compare(mingru, step)
    in_loop = [i.op for i, phase in zip(program.body, phases(program), strict=True) if phase is Phase.STEP]
    assert "linear" not in in_loop


def test_coupled_gates_a_vector_recurrence_and_a_scalar_parameter():
    # CIFG (Greff et al. 2015), an IndRNN's vector recurrence (Li et al. 2018) and a FastRNN's scalar, in one.
    @cell
    def mixture(x, h, c):
        f = sigmoid(affine("forget", x) + parameter("recurrent") * h)
        c = f * c + (1 - f) * tanh(affine("candidate", x, h))
        h = sigmoid(parameter("alpha", width=1)) * tanh(c) + h * parameter("beta", width=1)
        return h, c

    def step(w, x, states):
        h, c = states
        f = torch.sigmoid(w.x("forget", x) + w.tensors["recurrent"] * h)
        c = f * c + (1 - f) * torch.tanh(w.x("candidate", x) + w.h("candidate", h))
        h = torch.sigmoid(w.tensors["alpha"]) * torch.tanh(c) + h * w.tensors["beta"]
        return h, [h, c]

    compare(mixture, step)


def test_an_output_that_is_no_state_and_is_of_another_width():
    @cell
    def read_out(x, h):
        h = tanh(affine("hidden", x, h))
        y = concat(affine("out", h, width=2), x)
        return y, h

    def step(w, x, states):
        (h,) = states
        h = torch.tanh(w.x("hidden", x) + w.h("hidden", h))
        return torch.cat([w.h("out", h, "weight_out") + w.of("bias", "out"), x], -1), [h]

    compare(read_out, step)


def test_gates_that_see_all_gates_of_the_step_before():
    # FGR (Greff et al. 2015): the gates themselves are a state that feeds a product.
    @cell
    def full_gate_recurrence(x, h, c, gates=state(width="all_gates"), *, all_gates=12):
        i = sigmoid(affine("input", x, h, gates))
        f = sigmoid(affine("forget", x, h, gates))
        o = sigmoid(affine("output", x, h, gates))
        c = f * c + i * tanh(affine("candidate", x, h))
        return o * tanh(c), c, concat(i, f, o)

    def step(w, x, states):
        h, c, gates = states
        i, f, o = (
            torch.sigmoid(w.x(g, x) + w.h(g, h) + w.h(g, gates, "weight_gates")) for g in ("input", "forget", "output")
        )
        c = f * c + i * torch.tanh(w.x("candidate", x) + w.h("candidate", h))
        h = o * torch.tanh(c)
        return h, [h, c, torch.cat([i, f, o], -1)]

    compare(full_gate_recurrence, step)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_hyper_parameter_that_repeats_equations(depth):
    # Recurrence depth, as in the recurrent highway network (Zilly et al. 2017).
    @cell
    def highway(x, h, *, depth=1):
        for k in range(depth):
            sources = (x, h) if k == 0 else (h,)
            t = sigmoid(affine(f"transform{k}", *sources))
            h = tanh(affine(f"candidate{k}", *sources)) * t + h * (1 - t)
        return h

    def step(w, x, states):
        (h,) = states
        for k in range(depth):
            source = "weight_h" if k == 0 else f"weight_transform{k}"
            entry = {g: w.x(g, x) if k == 0 else w.of("bias", g) for g in (f"transform{k}", f"candidate{k}")}
            t = torch.sigmoid(entry[f"transform{k}"] + w.h(f"transform{k}", h, source))
            h = torch.tanh(entry[f"candidate{k}"] + w.h(f"candidate{k}", h, source)) * t + h * (1 - t)
        return h, [h]

    compare(highway, step, depth=depth)

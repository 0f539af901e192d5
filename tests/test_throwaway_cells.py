"""The cell language is general: cells that the package doesn't define match plain torch loops.

See test_cells_papers for the cells of the package.
"""

from __future__ import annotations

import torch
from cell_harness import HIDDEN, assert_matches_loop

from throughtime.language import affine, cell, concat, layer_norm, parameter, sigmoid, state, tanh


def test_layer_norm_of_a_pre_activation_keeps_the_gates_name():
    @cell
    def normed(x, h):
        return tanh(layer_norm("norm", affine("candidate", x, h)))

    def step(w, x, states):
        (h,) = states
        a = w.affine("candidate", x=x, h=h)
        h = torch.tanh(torch.nn.functional.layer_norm(a, (HIDDEN,), w["norm.gain"], w["norm.shift"]))
        return h, [h]

    program = assert_matches_loop(normed, step)
    assert program.body[program.values["candidate"]].args == (program.values["candidate.pre"],)
    assert program.body[program.values["candidate.pre"]].op == "add"


def test_two_states_can_feed_matrix_products():
    # An Elman and a Jordan memory of different widths.
    @cell
    def two(x, h, k=state("context", width=2)):
        h = tanh(affine("hidden", x, h, k))
        k = sigmoid(affine("context", h, k, width=2))
        return h, k

    def step(w, x, states):
        h, k = states
        h = torch.tanh(w.affine("hidden", x=x, h=h, k=k))
        k = torch.sigmoid(w.affine("context", context=h, k=k))
        return h, [h, k]

    program = assert_matches_loop(two, step)
    assert {p.name: p.shape for p in program.parameters} == {
        "weight_x": (4, 3),
        "weight_h": (4, 4),
        "weight_k": (6, 2),
        "weight_context": (2, 4),
        "bias": (6,),
    }


def test_gates_can_be_coupled_with_a_vector_recurrence_and_scalar_parameters():
    @cell
    def mixture(x, h, c):
        f = sigmoid(affine("forget", x) + parameter("recurrent") * h)
        c = f * c + (1 - f) * tanh(affine("candidate", x, h))
        h = sigmoid(parameter("alpha", width=1)) * tanh(c) + h * parameter("beta", width=1)
        return h, c

    def step(w, x, states):
        h, c = states
        f = torch.sigmoid(w.affine("forget", x=x) + w["recurrent"] * h)
        c = f * c + (1 - f) * torch.tanh(w.affine("candidate", x=x, h=h))
        h = torch.sigmoid(w["alpha"]) * torch.tanh(c) + h * w["beta"]
        return h, [h, c]

    assert_matches_loop(mixture, step)


def test_an_output_need_not_be_a_state_and_can_have_a_different_width():
    @cell
    def read_out(x, h):
        h = tanh(affine("hidden", x, h))
        y = concat(affine("out", h, width=2), x)
        return y, h

    def step(w, x, states):
        (h,) = states
        h = torch.tanh(w.affine("hidden", x=x, h=h))
        return torch.cat([w.affine("out", out=h), x], -1), [h]

    assert_matches_loop(read_out, step)

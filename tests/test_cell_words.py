"""Functions of the cell language: values and gradients match torch's, on every engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import REFERENCE, assert_close, random_arguments, run, run_on
from torch import Tensor

import throughtime
from throughtime import language
from throughtime.engines.native import NativeEngine
from throughtime.errors import CellError
from throughtime.language import (
    abs,
    affine,
    cell,
    concat,
    cos,
    gate,
    matrix,
    row_max,
    row_sum,
    sin,
    softmax,
    tanh,
)

ENGINES = [REFERENCE, NativeEngine(1), NativeEngine(2)]


@cell
def wordy(x, h):
    """A cell that uses every function with a direct counterpart in torch."""
    values = [abs(x), sin(x), cos(3 * x), row_sum(x), row_max(x), softmax(x), x[1], x[-1] * x]
    return concat(*values), tanh(affine("all", x, h))


def in_torch(x: Tensor) -> Tensor:
    largest, total = x.amax(-1, keepdim=True), x.sum(-1, keepdim=True)
    values = [x.abs(), x.sin(), (3 * x).cos(), total, largest, x.softmax(-1), x[..., 1:2], x[..., -1:] * x]
    return torch.cat(values, -1)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("width", [2, 5, 37])
def test_functions_match_torch(engine, width):
    program = wordy.program(width, 3)
    arguments = random_arguments(program, 4, 3)
    found = run_on(engine, program, 4, *arguments).outputs[0]
    assert_close([found], [in_torch(arguments.inputs[0])], 1e-14)


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_gradients_match_torch(engine):
    layer = throughtime.Recurrent(wordy, 5, 3, engine=engine, dtype=torch.float64)
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    x[0] = x[0, :, :1]  # equal elements share row_max's gradient, as in amax
    x[1] = 0.0  # the gradient of abs at 0 is 0
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = layer(mine)[0], in_torch(theirs)
    cotangent = torch.randn_like(wanted)
    (y * cotangent).sum().backward()
    (wanted * cotangent).sum().backward()
    assert_close([mine.grad], [theirs.grad], 1e-13)


@cell
def attentive(x, h):
    """A cell with a softmax gate, which distributes attention over the hidden units."""
    a = softmax(affine("attention", x, h))
    n = sin(affine("candidate", x, h))
    return (1 - a) * h + a * n / row_max(abs(n))


def test_a_softmax_gate_has_named_values_and_a_correct_gradient():
    program = attentive.program(3, 4)
    weights, _ = program.body[program.values["attention"]].args
    assert program.body[weights].op == "exp"
    assert "attention.pre" in program.values
    throughtime.gradcheck(attentive)


def test_a_softmax_of_large_numbers_stays_finite():
    layer = throughtime.Recurrent(wordy, 3, 2)
    y, _ = layer(torch.tensor([[[1e4, 1e4 - 1, -1e4]]]))
    assert_close([y[0, 0, 11:14]], [torch.tensor([1e4, 1e4 - 1, -1e4]).softmax(-1)], 1e-6)


@pytest.mark.parametrize("rows", [1, 33])
def test_results_are_bitwise_equal_for_any_number_of_threads(rows):
    program = attentive.program(9, 256)
    arguments = random_arguments(program, 12, rows).map(lambda t: t.float())
    alone = run_on(NativeEngine(1), program, 12, *arguments).outputs[0]
    for threads in (2, 3):
        assert torch.equal(run_on(NativeEngine(threads), program, 12, *arguments).outputs[0], alone)
    one = arguments.map(lambda t: t[:, -1:] if t.dim() == 3 else t)
    states = [s[-1:] for s in arguments.states]
    assert torch.equal(
        run_on(NativeEngine(1), program, 12, one.inputs, states, one.parameters).outputs[0], alone[:, -1:]
    )


# One matrix used in several places.


@cell
def tied(x, h):
    """A cell that uses one matrix twice within a step, and its transpose at the end."""
    w = matrix("inner")
    u = tanh(affine("first", x, h))
    u = tanh(w @ u + h)
    u = tanh(gate("second", w @ u))
    return u + w.T @ h


def test_a_matrix_can_multiply_several_vectors():
    program = tied.program(3, 4)
    assert sorted(i.op for i in program.body if "linear" in i.op and i["weight"] == 3) == [
        "linear",
        "linear",
        "linear_transposed",
    ]
    throughtime.gradcheck(tied)
    for width in (4, 40):
        arguments = random_arguments(tied.program(3, width), 1, 5)
        x, h = arguments.inputs[0][0], arguments.states[0]
        of_x, of_h, bias, w = arguments.parameters
        u = torch.tanh(x @ of_x.T + h @ of_h.T + bias)
        u = torch.tanh(torch.tanh(u @ w.T + h) @ w.T) + h @ w
        for engine in ENGINES:
            assert_close([run_on(engine, tied.program(3, width), 1, *arguments).outputs[0][0]], [u], 1e-14)


def test_layers_with_a_tied_matrix_can_be_trained_streamed_and_exported(tmp_path):
    layer = throughtime.Recurrent(tied, 3, 4, 2)
    x = torch.randn(5, 1, 3)
    y = layer(x)[0]
    reference = throughtime.Recurrent.from_programs(layer.programs, 4, engine="reference")
    reference.load_state_dict(layer.state_dict())
    for module in (layer, reference):
        module(x)[0].square().sum().backward()
    assert_close([p.grad for p in layer.parameters()], [p.grad for p in reference.parameters()], 1e-5)
    stream = throughtime.Stream(layer)
    assert np.array_equal([stream.step(step) for step in x[:, 0].numpy()], y[:, 0].detach().numpy())
    throughtime.to_c(layer, tmp_path / "net.c")


def two_widths(x, h):
    return tanh(matrix("w") @ x)


def matrix_of_a_number(x, h):
    return tanh(matrix("w") @ 2.0)


def one_name_twice(x, h):
    return tanh(affine("a", x) + affine("a", h))


# Functions that the language does not have.


def unknown_word(x, h):
    return sofmax(affine("all", x, h))  # noqa: F821


def word_not_imported(x, h):
    return softplus(affine("all", x, h))  # noqa: F821


def attribute_of_the_language(x, h):
    return language.sofplus(affine("all", x, h))


def method(x, h):
    return h * h.sum()


def function_of_torch(x, h):
    return h * torch.sum(h)


def outer_product(x, h):
    return outer(x, h)  # noqa: F821


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unknown_word, "nor a function of throughtime.language (did you mean softmax"),
        (word_not_imported, "'softplus' is not imported; add `from throughtime.language import softplus`"),
        (attribute_of_the_language, "the cell language has no function 'sofplus' (did you mean softplus"),
        (method, "a vector has no attribute 'sum'; use throughtime.language.row_sum"),
        (two_widths, "the matrix 'w' has 4 columns, but the vector has 3 elements"),
        (matrix_of_a_number, "the matrix 'w' multiplies vectors, got float 2.0"),
        (one_name_twice, "create it once, `w = matrix('a')`, and write `w @ v`"),
        (function_of_torch, "torch's `sum` doesn't take symbols; use throughtime.language.row_sum instead"),
        (outer_product, "matrix-valued states and outer products (fast weights, mLSTM) are unsupported"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_the_error_says_what_to_write_instead(function, message):
    with pytest.raises(CellError) as caught:
        cell(function).program(3, 4)
    assert message in str(caught.value)
    assert f"in {function.__name__}:" in str(caught.value)


def test_importing_an_unknown_function_suggests_the_closest_name():
    with pytest.raises(CellError, match=r"has no function 'row_sums' .did you mean row_sum"):
        exec("from throughtime.language import row_sums")


def test_the_alternative_that_the_matrix_state_error_suggests_works():
    """A matrix stored as one vector of rows supports outer products and matrix-vector products."""
    n = 3

    @cell
    def fast_weights(x, h, m=throughtime.language.state("memory", width=9)):
        k, v = tanh(affine("key", x, width=n)), tanh(affine("value", x, width=n))
        m = 0.9 * m + concat(*(k[i] * v for i in range(n)))
        read = concat(*(row_sum(m[i * n : (i + 1) * n] * h) for i in range(n)))
        return read, m

    program = fast_weights.program(3, n)
    arguments = random_arguments(program, 2, 2)
    x, (h, m), (w, b) = arguments.inputs[0], arguments.states, arguments.parameters
    m = m.view(2, n, n)
    for t in range(2):
        k, v = torch.tanh(x[t] @ w.T + b).split(n, -1)
        m = 0.9 * m + k[:, :, None] * v[:, None]
        h = (m @ h[:, :, None])[..., 0]
    assert_close([run(program, arguments, 2).outputs[0][-1]], [h], 1e-14)

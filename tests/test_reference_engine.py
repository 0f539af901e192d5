"""The reference engine matches an independent definition of programs in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import REFERENCE, Arguments, assert_close, flat, random_arguments, random_cotangents, run, run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs

from throughtime import cells
from throughtime.errors import ProgramError
from throughtime.language import affine, cell, linear, log, named, parameter, sigmoid, softplus, tanh
from throughtime.program.builder import Builder
from throughtime.program.core import Instruction, Program
from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS
from throughtime.program.phases import Phase, phases

STEPS, ROWS = 4, 3
Vector = list[float]


def elementwise(function: Callable[..., float]) -> Callable[..., Vector]:
    return lambda instruction, weight, *values: [function(*elements) for elements in zip(*values, strict=True)]


# Each operation for one sequence and one step, on lists of numbers.
PLAIN: dict[str, Callable[..., Vector]] = {
    "add": elementwise(lambda a, b: a + b),
    "sub": elementwise(lambda a, b: a - b),
    "mul": elementwise(lambda a, b: a * b),
    "div": elementwise(lambda a, b: a / b),
    "neg": elementwise(lambda a: -a),
    "greater": elementwise(lambda a, b: 1.0 if a > b else 0.0),
    "select": elementwise(lambda mask, a, b: a if mask != 0 else b),
    "max": elementwise(max),
    "relu": elementwise(lambda a: max(a, 0.0)),
    "abs": elementwise(abs),
    "tanh": elementwise(math.tanh),
    "sigmoid": elementwise(lambda a: 1 / (1 + math.exp(-a))),
    "exp": elementwise(math.exp),
    "log": elementwise(math.log),
    "sqrt": elementwise(math.sqrt),
    "softplus": elementwise(lambda a: math.log(1 + math.exp(a))),
    "sin": elementwise(math.sin),
    "cos": elementwise(math.cos),
    "linear": lambda i, w, v: [sum(w[r][k] * v[k] for k in range(len(v))) for r in range(i.width)],
    "linear_transposed": lambda i, w, v: [sum(w[k][r] * v[k] for k in range(len(v))) for r in range(i.width)],
    "slice": lambda i, w, v: v[i["start"] : i["start"] + i.width],
    "concat": lambda i, w, *values: [e for v in values for e in v],
    "expand": lambda i, w, v: v * i.width,
    "row_sum": lambda i, w, v: [sum(v)],
    "row_max": lambda i, w, v: [max(v)],
}


def one_step(program: Program, inputs: list[Vector], states: list[Vector], parameters: list) -> list[Vector]:
    """Return all values of the body for one sequence."""
    values: list[Vector] = []
    for instruction in program.body:
        words = dict(instruction.attributes)
        match instruction.op:
            case "input":
                values.append(inputs[words["index"]])
            case "previous":
                values.append(states[words["index"]])
            case "parameter":
                values.append(parameters[words["index"]])
            case "constant":
                values.append([words["value"]] * instruction.width)
            case op:
                weight = parameters[words["weight"]] if "weight" in words else None
                values.append(PLAIN[op](instruction, weight, *(values[a] for a in instruction.args)))
    return values


def plain_run(program: Program, arguments: Arguments, steps: int, sizes: list[int] | None) -> list[np.ndarray]:
    """Compute all outputs, final states and reductions with loops over steps, sequences and elements."""
    inputs, states, parameters = ([t.tolist() for t in of] for of in arguments)
    rows = len(states[0])
    outputs = [np.zeros((steps, rows, program.body[o.value].width)) for o in program.outputs]
    reductions = [np.zeros(r.shape) for r in program.reductions]
    for t in reversed(range(steps)) if program.reverse else range(steps):
        for b in range(rows if sizes is None else sizes[t]):
            values = one_step(program, [x[t][b] for x in inputs], [s[b] for s in states], parameters)
            for k, output in enumerate(program.outputs):
                outputs[k][t, b] = values[output.value]
            for k, reduction in enumerate(program.reductions):
                for term in reduction.terms:
                    vectors = [np.array(values[v]) for v in term]
                    reductions[k] += vectors[0] if len(term) == 1 else np.outer(*vectors)
            for k, state in enumerate(program.states):
                states[k][b] = values[state.next]
    finals = [np.array(s).reshape(rows, d.width) for s, d in zip(states, program.states, strict=True)]
    return [*outputs, *finals, *reductions]


def assert_matches_plain_run(
    program: Program, arguments: Arguments, steps: int, sizes: list[int] | None = None
) -> None:
    found = flat(run_on(REFERENCE, program, steps, *arguments, sizes))
    wanted = [torch.tensor(w, dtype=torch.float64) for w in plain_run(program, arguments, steps, sizes)]
    assert_close(found, wanted, 1e-13)


def batch_sizes() -> st.SearchStrategy[list[int] | None]:
    sizes = st.lists(st.integers(0, ROWS), min_size=STEPS, max_size=STEPS).map(lambda s: sorted(s, reverse=True))
    return st.none() | sizes


def test_the_plain_definitions_cover_the_whole_table():
    assert PLAIN.keys() == OPERATIONS.keys()


@settings(max_examples=200)
@given(programs(), batch_sizes())
def test_random_programs_match_the_plain_definition(program, sizes):
    assert_matches_plain_run(program, random_arguments(program), STEPS, sizes)


@settings(max_examples=40)
@given(programs(operations=6), batch_sizes())
def test_gradient_programs_match_the_plain_definition(program, sizes):
    augmented = with_residuals(program, everything_wanted(program))
    backward = gradient(augmented, everything_given(augmented), everything_wanted(augmented)).program
    arguments = random_arguments(backward)
    # Residuals are results of functions and never 0, but random numbers can be too close to 0 for a division.
    arguments = arguments._replace(inputs=[0.5 + x.abs() for x in arguments.inputs])
    assert_matches_plain_run(backward, arguments, STEPS, sizes)


@pytest.mark.parametrize("name", cells.names())
@pytest.mark.parametrize("sizes", [None, [3, 2, 2, 0]])
@pytest.mark.parametrize("reverse", [False, True])
def test_named_cells_match_the_plain_definition(name, sizes, reverse):
    program = cells.get(name).program(3, 4)
    program = program.flipped if reverse else program
    assert_matches_plain_run(program, random_arguments(program), STEPS, sizes)


# Lengths.


@pytest.mark.parametrize("reverse", [False, True])
def test_each_sequence_has_the_same_results_when_run_alone(reverse):
    program = cells.lstm.program(3, 4)
    program = program.flipped if reverse else program
    arguments = random_arguments(program)
    lengths = [4, 3, 1]
    sizes = [sum(n > t for n in lengths) for t in range(STEPS)]
    together = run(program, arguments, STEPS, sizes)
    for row, n in enumerate(lengths):
        alone = run_on(
            REFERENCE,
            program,
            n,
            [x[:n, row : row + 1] for x in arguments.inputs],
            [s[row : row + 1] for s in arguments.states],
            arguments.parameters,
        )
        assert_close([s[row : row + 1] for s in together.states], alone.states, 1e-14)
        assert_close([together.outputs[0][:n, row : row + 1]], alone.outputs, 1e-14)
        assert (together.outputs[0][n:, row] == 0).all()


def test_sequences_of_length_0_keep_their_state_exactly():
    program = cells.gru.program(3, 4)
    arguments = random_arguments(program)
    result = run(program, arguments, STEPS, [1, 1, 0, 0])
    assert torch.equal(result.states[0][1:], arguments.states[0][1:])


@cell
def delicate(x, h):
    """A cell that divides and takes logarithms in every phase, so that zeros in padding would produce NaN."""
    before = named("before", log(x * x) + linear("read", x, width=2))
    h = tanh(affine("inner", x, h)) + 2
    y = linear("out", h, width=2) / linear("other", h, width=2) + before
    return y, h


@pytest.mark.parametrize("padding", [math.nan, math.inf, 0.0])
def test_padding_affects_no_result_and_no_gradient(padding):
    program = delicate.program(2, 3)
    sizes = [3, 3, 2, 0]
    arguments = random_arguments(program)
    found = []
    for filled in (1.0, padding):
        leaves = arguments.map(torch.clone)
        for t, n in enumerate(sizes):
            leaves.inputs[0][t, n:] = filled
        leaves = leaves.map(lambda t: t.requires_grad_())
        result = run(program, leaves, STEPS, sizes)
        torch.autograd.backward(flat(result), flat(random_cotangents(result)))
        found.append([*flat(result), *(t.grad for t in leaves.flat)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(t.isfinite().all() for t in found[0])


def test_reductions_exclude_padding():
    program = cells.rnn.program(3, 4)
    augmented = with_residuals(program, everything_wanted(program))
    backward = gradient(augmented, everything_given(program), everything_wanted(program)).program
    arguments = random_arguments(backward)
    for x in arguments.inputs:
        x[2:, 1:] = math.nan
    result = run(backward, arguments, STEPS, [3, 3, 1, 1])
    assert all(r.isfinite().all() for r in result.reductions)


# Empty runs.


@given(programs(operations=5))
def test_zero_steps_return_the_initial_states_and_empty_outputs(program):
    arguments = random_arguments(program, steps=0)
    result = run_on(REFERENCE, program, 0, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(result.states, arguments.states, strict=True))
    assert [o.shape for o in result.outputs] == [(0, ROWS, program.body[o.value].width) for o in program.outputs]
    assert all((r == 0).all() for r in result.reductions)
    assert_matches_plain_run(program, arguments, 0)


@given(programs(operations=5), st.sampled_from([None, [0] * STEPS]))
def test_zero_sequences_return_empty_results(program, sizes):
    arguments = random_arguments(program, rows=0)
    result = run(program, arguments, STEPS, sizes)
    assert [s.shape for s in result.states] == [(0, s.width) for s in program.states]
    assert [o.shape for o in result.outputs] == [(STEPS, 0, program.body[o.value].width) for o in program.outputs]
    assert [r.shape for r in result.reductions] == [r.shape for r in program.reductions]
    assert all((r == 0).all() for r in result.reductions)


def test_a_state_set_to_a_parameter_is_the_same_for_all_sequences():
    @cell
    def constant(x, h):
        return tanh(x), parameter("value") * 1.0

    program = constant.program(3, 4)
    arguments = random_arguments(program)
    result = run(program, arguments)
    assert_close(result.states, [arguments.parameters[0].expand(ROWS, 4)])


# Transforms and dtypes of torch.


@pytest.mark.parametrize("name", cells.names())
def test_vmap_over_models_matches_each_model(name):
    program = cells.get(name).program(3, 4)
    models = [random_arguments(program, seed=seed) for seed in range(3)]
    stacked = models[0].like([torch.stack(of) for of in zip(*(m.flat for m in models), strict=True)])

    def step(*tensors):
        return tuple(flat(run(program, models[0].like(tensors))))

    found = torch.func.vmap(step)(*stacked.flat)
    for k, model in enumerate(models):
        assert_close([f[k] for f in found], flat(run(program, model)), 1e-14)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # raised by torch
@settings(max_examples=60)
@given(programs(operations=6), batch_sizes())
def test_forward_mode_agrees_with_backward_mode(program, sizes):
    arguments = random_arguments(program)
    direction = random_arguments(program, seed=5).flat

    def function(*tensors):
        return tuple(flat(run(program, arguments.like(tensors), STEPS, sizes)))

    results, tangents = torch.func.jvp(function, tuple(arguments.flat), tuple(direction))
    _, back = torch.func.vjp(function, *arguments.flat)
    cotangents = [torch.randn_like(r) for r in results]
    forward = sum((t * c).sum() for t, c in zip(tangents, cotangents, strict=True))
    backward = sum((g * d).sum() for g, d in zip(back(tuple(cotangents)), direction, strict=True))
    assert_close([forward], [backward], 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_results_have_the_dtype_of_the_arguments(dtype):
    program = delicate.program(2, 3)
    result = run(program, random_arguments(program).map(lambda t: t.to(dtype)))
    assert {t.dtype for t in flat(result)} == {dtype}


def test_a_constant_out_of_range_of_the_dtype_is_infinite():
    builder = Builder("large")
    state = builder.state("s", 2, 0.0)
    program = require_legal(builder.finish([state], [("y", state - 1e308)], []))
    for dtype, wanted in ((torch.float32, -torch.inf), (torch.float64, -1e308)):
        outputs, _, _ = run_on(REFERENCE, program, 1, [], [torch.zeros(1, 2, dtype=dtype)], [])
        assert (outputs[0] == wanted).all()


def test_arguments_are_not_modified():
    program = cells.lstm.program(3, 4)
    arguments = random_arguments(program)
    before = arguments.map(torch.clone)
    run(program, arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments.flat, before.flat, strict=True))


def test_an_illegal_program_raises():
    program = cells.rnn.program(3, 4)
    broken = Program(program.name, program.inputs, program.states, (), program.body, program.outputs)
    with pytest.raises(ProgramError, match="not legal"):
        run(broken, random_arguments(program))


# Phases.


def phase_of(program: Program) -> dict[str, Phase]:
    return {name: phases(program)[value] for name, value in program.names}


def test_gates_of_x_run_before_the_loop_and_outputs_after_it():
    @cell
    def minimal(x, h):
        z = sigmoid(affine("update", x))
        n = affine("candidate", x)
        h = (1 - z) * h + z * n
        y = named("seen", softplus(h))
        return y, h

    when = phase_of(minimal.program(3, 4))
    assert when["update"] is when["candidate"] is Phase.BEFORE
    assert when["hidden"] is Phase.STEP
    assert when["seen"] is Phase.AFTER


def test_all_weight_gradients_are_computed_after_the_loop():
    program = cells.lstm.program(3, 4)
    augmented = with_residuals(program, everything_wanted(program))
    backward = gradient(augmented, everything_given(program), everything_wanted(program)).program
    in_step = {id for id, phase in enumerate(phases(backward)) if phase is Phase.STEP}
    products = [backward.body[id] for id in in_step if backward.body[id].op.startswith("linear")]
    assert len(products) == 1  # the gradient of h through the recurrent matrix; the gradient of x is computed later
    assert phases(backward)[backward.outputs[0].value] is Phase.AFTER


@given(programs())
def test_no_phase_depends_on_a_later_one(program):
    order = [Phase.STATIC, Phase.BEFORE, Phase.STEP, Phase.AFTER]
    when = phases(program)
    for id, instruction in enumerate(program.body):
        assert all(order.index(when[arg]) <= order.index(when[id]) for arg in instruction.args)
    for state in program.states:
        assert when[state.next] is not Phase.AFTER


def test_every_kind_of_leaf_can_be_an_output_and_a_next_state():
    base = cells.rnn.program(2, 2)
    leaves = [
        Instruction("input", (), 2, (("index", 0),)),
        Instruction("previous", (), 2, (("index", 0),)),
        Instruction("parameter", (), 2, (("index", 0),)),
        Instruction("constant", (), 2, (("value", 0.5),)),
    ]
    make_state, make_output, make_parameter = (type(of[0]) for of in (base.states, base.outputs, base.parameters))
    program = require_legal(
        Program(
            name="leaves",
            inputs=base.inputs,
            states=tuple(make_state(f"s{k}", 2, 0.0, k) for k in range(4)),
            parameters=(make_parameter("p", (2,)),),
            body=tuple(leaves),
            outputs=tuple(make_output(f"y{k}", k) for k in range(4)),
        )
    )
    for sizes in (None, [3, 2, 1, 0]):
        assert_matches_plain_run(program, random_arguments(program), STEPS, sizes)

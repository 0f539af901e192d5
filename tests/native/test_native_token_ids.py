"""One-hot inputs passed as token ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import Arguments, assert_close, differentiable_run, flat, random_arguments, run, run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import family
from test_native_same_bits import assert_same_with_any_threads

from throughtime import cells
from throughtime.engines import operator
from throughtime.engines.base import Engine
from throughtime.engines.native import NativeEngine
from throughtime.engines.native.fusion import join
from throughtime.errors import ProgramError
from throughtime.program.core import Input, Instruction, Output, Parameter, Program, State
from throughtime.program.rewrite import input_weights, with_one_hot_input
from throughtime.program.saving import from_json, to_json

TOKENS = 5
LENGTHS = [5, 5, 3, 2, 0, 0]
# These cells use x outside matrix products if it has the width of the state.
TAKE_X_ITSELF = {name for name in cells.names() if with_one_hot_input(cells.get(name).program(7, 7), TOKENS) is None}


def over_token_ids(name: str, inputs: int = 7, hidden: int = 33) -> Program:
    program = with_one_hot_input(cells.get(name).program(inputs, hidden), TOKENS)
    assert program is not None
    return program


def test_most_cells_only_multiply_their_input() -> None:
    assert sorted(TAKE_X_ITSELF) == ["mut1", "mut2", "rg_lru", "sru"]


@pytest.mark.parametrize("name", sorted(set(cells.names()) - TAKE_X_ITSELF))
def test_token_ids_work_in_every_cell_that_only_multiplies_its_input(engine: NativeEngine, name: str) -> None:
    for program in family(over_token_ids(name)):
        for steps, rows, sizes in ((9, 3, None), (6, 5, LENGTHS), (12, 70, None)):  # the last one: several chunks
            arguments = random_arguments(program, steps, rows)
            wanted = run(program, arguments, steps, sizes)
            assert_close(flat(run_on(engine, program, steps, *arguments, sizes)), flat(wanted), 1e-12)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_token_ids_with_projected_weights_match_embedded_vectors(name: str) -> None:
    """A program over token ids whose matrices are `weight @ table.T` matches the program over the table's rows."""
    whole, tokens = cells.get(name).program(7, 4), over_token_ids(name, 7, 4)
    table = torch.randn(TOKENS, 7, dtype=torch.float64)
    _, states, parameters = random_arguments(whole, 6)
    chosen = torch.randint(TOKENS, (6, 3))
    weights = [p @ table.T if k in input_weights(whole) else p for k, p in enumerate(parameters)]
    wanted = run(whole, Arguments([table[chosen]], states, parameters), 6)
    assert_close(flat(run(tokens, Arguments([chosen], states, weights), 6)), flat(wanted), 1e-14)


@settings(max_examples=60)
@given(
    rows=st.integers(0, 40),
    steps=st.integers(0, 30),
    hidden=st.sampled_from([1, 16, 33]),
    ragged=st.booleans(),
    packed=st.booleans(),
    reverse=st.booleans(),
)
def test_results_are_the_same_for_any_number_of_threads(
    rows: int, steps: int, hidden: int, ragged: bool, packed: bool, reverse: bool
) -> None:
    forward = over_token_ids("lstm", 7, hidden)
    sizes = [max(0, rows - t) for t in range(steps)] if ragged else [rows] * steps
    packed = packed and steps > 0
    for program in family(forward.flipped if reverse else forward):
        arguments = random_arguments(program, steps, rows).map(torch.Tensor.float)
        assert_same_with_any_threads(program, steps, arguments, sizes, packed=packed)


@pytest.mark.parametrize("packed", [False, True])
def test_results_are_the_same_if_every_thread_has_work(engine: NativeEngine, packed: bool) -> None:
    steps, rows = 60, 40
    sizes = [max(0, 37 - t * t // 80) for t in range(steps)]
    for program in family(over_token_ids("lstm", 7, 260)):
        arguments, isa = random_arguments(program, steps, rows).map(torch.Tensor.float), engine.instruction_set
        assert_same_with_any_threads(program, steps, arguments, sizes, packed=packed, instruction_set=isa)


def test_segments_have_the_same_bits_as_an_undivided_run() -> None:
    program, steps, rows = over_token_ids("gru", 7, 9), 23, 170
    results = []
    for every in (None, 1, 5):
        inputs, states, parameters = random_arguments(program, steps, rows).map(torch.Tensor.float)
        leaves = [t.requires_grad_() for t in (*states, *parameters)]
        result = differentiable_run(NativeEngine(2), program, steps, inputs, states, parameters, checkpoint_every=every)
        loss = result.outputs[0].square().sum() + result.states[0].square().sum()
        results.append([*result.outputs, *torch.autograd.grad(loss, leaves)])
    for cut in results[1:]:
        for c, w in zip(cut, results[0], strict=True):
            assert torch.equal(c, w)


@pytest.mark.parametrize("of", ["native", "reference"])
def test_first_and_second_derivatives_match_finite_differences(of: str) -> None:
    program, engine = over_token_ids("lstm", 7, 3), operator.get(of)
    inputs, states, parameters = random_arguments(program, 3, 2)
    leaves = [t.requires_grad_() for t in (*states, *parameters)]

    def results(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = differentiable_run(engine, program, 3, inputs, leaves[: len(states)], leaves[len(states) :])
        return (*result.outputs, *result.states)

    assert torch.autograd.gradcheck(results, leaves)
    assert torch.autograd.gradgradcheck(results, leaves)


@pytest.mark.parametrize("make", [torch.asarray, np.asarray], ids=["torch", "numpy"])
def test_token_ids_are_checked(engine: NativeEngine, make: object) -> None:
    program = over_token_ids("rnn", 7, 3)
    given, states, parameters = random_arguments(program, 4, 3)

    def outputs(tokens: object, sizes: list[int] | None = None) -> list[torch.Tensor]:
        arrays = [[make(t.numpy()) for t in of] for of in (states, parameters)]  # type: ignore[operator]
        return [torch.asarray(y) for y in run_on(engine, program, 4, [tokens], *arrays, sizes).outputs]

    right = make(given[0].numpy())  # type: ignore[operator]
    wanted = outputs(right)
    turned = make(np.ascontiguousarray(given[0].numpy().T)).T  # type: ignore[operator]
    assert torch.equal(outputs(turned)[0], wanted[0])
    for bad in (TOKENS, -1, 1 << 62, -(1 << 63)):
        wrong = given[0].clone()
        wrong[3, 2] = bad
        array = make(wrong.numpy())  # type: ignore[operator]
        with pytest.raises(ProgramError, match=f"token ids must be from 0 to 4, got {bad}"):
            outputs(array)
        ended = outputs(array, [3, 3, 3, 2])  # the row with the bad id is inactive at that step
        assert torch.equal(ended[0][3, :2], wanted[0][3, :2])
    for kind in (np.int32, np.uint64, np.float64, np.bool_):
        with pytest.raises(ProgramError, match=r"expected an array of shape \(4, 3\) of int64"):
            outputs(make(given[0].numpy().astype(kind)))  # type: ignore[operator]
    with pytest.raises(ProgramError, match=r"expected an array of shape \(4, 3\) of int64"):
        outputs(right[:3])


def test_one_hot_inputs_survive_saving() -> None:
    program = over_token_ids("gru")
    assert from_json(to_json(program)) == program
    assert "x [5], one-hot" in " ".join(str(program).split())
    content = json.loads(to_json(program))
    content["inputs"][0][2] = 1
    with pytest.raises(ProgramError, match="expected bool, got int"):
        from_json(json.dumps(content))


def test_a_product_with_token_ids_can_accumulate_into_another(engine: NativeEngine) -> None:
    """In `W x + V x` one product accumulates into the other."""
    width = 20
    body = (
        Instruction("input", (), TOKENS, (("index", 0),)),
        Instruction("previous", (), width, (("index", 0),)),
        Instruction("linear", (0,), width, (("weight", 0),)),
        Instruction("linear", (0,), width, (("weight", 1),)),
        Instruction("add", (2, 3), width),
        Instruction("linear", (1,), width, (("weight", 2),)),
        Instruction("add", (4, 5), width),
        Instruction("tanh", (6,), width),
    )
    shapes = {"w": (width, TOKENS), "v": (width, TOKENS), "u": (width, width)}
    program = Program(
        "twice",
        (Input("x", TOKENS, one_hot=True),),
        (State("h", width, 0.0, 7),),
        tuple(Parameter(name, shape) for name, shape in shapes.items()),
        body,
        (Output("y", 7),),
    )
    begun = [i for i in join(program).values() if i.op == "linear" and len(i.args) == 2 and i.args[0] == 0]
    assert len(begun) == 1
    for of in family(program):
        arguments = random_arguments(of, 5, 4)
        assert_close(flat(run_on(engine, of, 5, *arguments)), flat(run(of, arguments, 5)), 1e-13)


def engines() -> list[Engine]:
    return [operator.get("native"), operator.get("reference")]


@pytest.mark.parametrize("chosen", engines(), ids=lambda e: e.name)
def test_the_operator_with_token_ids_passes_opcheck(chosen: Engine) -> None:
    program = over_token_ids("lstm", 7, 3)
    inputs, states, parameters = random_arguments(program, 4, 2)
    told = chosen.name, program.text, 4, None, False, None
    torch.library.opcheck(torch.ops.throughtime.run, (*told, inputs, states, parameters))

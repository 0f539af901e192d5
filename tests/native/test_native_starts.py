"""Without initial states, every engine uses the values that the program declares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import flat, random_arguments, run_on
from test_native_same_bits import pack
from torch import Tensor

from throughtime import cells
from throughtime.engines import get
from throughtime.engines.base import Constants, Engine
from throughtime.engines.native import NativeEngine
from throughtime.program.core import Instruction, Program, State
from throughtime.program.rewrite import with_one_hot_input

LENGTHS = [3, 3, 2, 1, 0]
COUNTER = Program(
    "counter",
    states=(State("count", 4, 0.0, 2),),
    body=(
        Instruction("previous", (), 4, (("index", 0),)),
        Instruction("constant", (), 4, (("value", 1.0),)),
        Instruction("add", (0, 1), 4),
    ),
)


def declared(program: Program, rows: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.full((rows, s.width), s.initial, dtype=dtype) for s in program.states]


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("sizes", "packed"), [(None, False), (LENGTHS, False), (LENGTHS, True)])
@pytest.mark.parametrize("name", ["rnn", "slstm"])  # the initial states of slstm are 0, 0, 1 and -10,000
def test_every_engine_uses_the_declared_states(
    engine: NativeEngine, name: str, sizes: list[int] | None, packed: bool
) -> None:
    program = cells.get(name).program(4, 6)
    inputs, _, parameters = random_arguments(program, 5, 3)
    if packed:
        inputs = [pack(x, LENGTHS) for x in inputs]
    others: list[Engine] = [get("reference"), get("torch")] if name == "rnn" else [get("reference")]
    for each in (engine, *others):
        wanted = run_on(each, program, 5, inputs, declared(program, 3), parameters, sizes, packed=packed)
        assert_same(flat(run_on(each, program, 5, inputs, None, parameters, sizes, packed=packed)), flat(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_declared_states_are_used_with_frozen_parameters_and_token_ids(
    engine: NativeEngine, dtype: torch.dtype
) -> None:
    program = with_one_hot_input(cells.get("slstm").program(4, 6), 7)
    assert program is not None
    inputs, _, parameters = random_arguments(program, 5, 3).map(lambda t: t.to(dtype))
    wanted = run_on(engine, program, 5, inputs, declared(program, 3, dtype), parameters)
    assert_same(flat(run_on(engine, program, 5, inputs, None, parameters)), flat(wanted))
    assert_same(flat(run_on(engine, program, 5, inputs, None, Constants(parameters))), flat(wanted))


def test_declared_states_are_used_with_numpy_arrays(engine: NativeEngine) -> None:
    program = cells.get("slstm").program(4, 6)
    inputs, _, parameters = random_arguments(program, 5, 3)
    wanted = run_on(engine, program, 5, inputs, None, parameters)
    found = run_on(engine, program, 5, [x.numpy() for x in inputs], None, [p.numpy() for p in parameters])
    assert all(np.array_equal(f, w.numpy()) for f, w in zip(flat(found), flat(wanted), strict=True))


@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (4, 0), (0, 0)])
def test_declared_states_are_returned_without_steps_or_rows(engine: NativeEngine, steps: int, rows: int) -> None:
    program = cells.get("slstm").program(4, 6)
    inputs, _, parameters = random_arguments(program, steps, rows)
    found = run_on(engine, program, steps, inputs, None, parameters)
    assert found.outputs[0].shape == (steps, rows, 6)
    assert_same(found.states, declared(program, rows))


def test_states_are_required_without_inputs(engine: NativeEngine) -> None:
    with pytest.raises(ValueError, match="states are required if there are no inputs"):
        run_on(engine, COUNTER, 3, [], None, [])
    assert_same(run_on(engine, COUNTER, 3, [], [torch.zeros(2, 4)], []).states, [torch.full((2, 4), 3.0)])

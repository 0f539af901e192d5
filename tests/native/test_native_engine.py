"""The native engine matches the reference engine for any program and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from helpers import Arguments, assert_close, flat, random_arguments, run, run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import family
from random_programs import programs

from throughtime import _native, cells
from throughtime.engines.native import NativeEngine, instruction_sets
from throughtime.engines.native.fusion import JOINED
from throughtime.engines.native.plan import lower
from throughtime.errors import ProgramError
from throughtime.program.builder import Builder
from throughtime.program.core import Parameter, Program, Reduction
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS

LENGTHS = [5, 5, 3, 2, 0, 0]


# One engine per instruction set. A test that loops over them computes the reference's results once.
ENGINES = [NativeEngine(threads=2, instruction_set=name) for name in instruction_sets()]


def compare(
    engines: NativeEngine | Sequence[NativeEngine],
    program: Program,
    steps: int,
    rows: int,
    batch_sizes: list[int] | None = None,
    tolerance: float = 1e-12,
    dtype: torch.dtype = torch.float64,
) -> None:
    arguments = random_arguments(program, steps, rows)
    wanted = run(program, arguments, steps, batch_sizes)
    for engine in [engines] if isinstance(engines, NativeEngine) else engines:
        found = run_on(engine, program, steps, *arguments.map(lambda t: t.to(dtype)), batch_sizes)
        try:
            assert_close(flat(found), flat(wanted), tolerance)
        except AssertionError as error:
            error.add_note(f"instruction set: {engine.instruction_set or 'the default'}")
            raise


@pytest.mark.parametrize(
    ("name", "hidden"),
    [*((name, 33) for name in cells.names()), *product(("rnn", "lstm", "mgu", "lstm_layer_norm", "minlstm"), (1, 16))],
)
def test_every_cell_matches_the_reference(name: str, hidden: int) -> None:
    for program in family(cells.get(name).program(7, hidden)):
        compare(ENGINES, program, 9, 3)
        compare(ENGINES, program, 6, 5, LENGTHS)
        compare(ENGINES, program, 12, 70)  # threads split the rows, and there are several chunks
        # float32 against float64: some rounding errors of 6e-8, amplified by a few steps of a random gradient
        compare(ENGINES, program, 5, 3, tolerance=2e-5, dtype=torch.float32)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_wide_layers_can_be_split_among_threads_by_units(name: str) -> None:
    for program in family(cells.get(name).program(20, 260)):
        for rows in (1, 3):
            compare(ENGINES, program, 3, rows, tolerance=1e-11)


@settings(max_examples=60)
@given(program=programs(), rows=st.integers(0, 9), steps=st.integers(0, 6), ragged=st.booleans())
def test_random_programs_match_the_reference(program: Program, rows: int, steps: int, ragged: bool) -> None:
    batch_sizes = [max(0, rows - t) for t in range(steps)] if ragged else None
    compare(NativeEngine(threads=2), program, steps, rows, batch_sizes)


@settings(max_examples=30)
@given(program=programs(reductions=False))
def test_gradients_of_random_programs_match_the_reference(program: Program) -> None:
    for derived in family(program):
        compare(NativeEngine(threads=1), derived, 4, 3, [3, 3, 2, 1])


def test_an_old_state_may_be_read_only_by_products_that_no_state_depends_on() -> None:
    builder = Builder("late")
    x, old = builder.input("x", 2), builder.state("s", 2, 0.0)
    product = builder.linear(old, builder.parameter(Parameter("w", (2, 2))))
    outputs = [("difference", old - product), ("both", builder.concat(old, product))]
    program = require_legal(builder.finish([x], outputs, []))
    for derived in family(program):
        compare(NativeEngine(), derived, 5, 3)


def test_neighbors_in_a_concatenation_can_be_concatenated_again() -> None:
    builder = Builder("neighbors")
    x, old = builder.input("x", 2), builder.state("s", 2, 0.0)
    a, b, c = builder.tanh(x), builder.sigmoid(old), builder.tanh(old - x)
    wide, narrow, same = builder.concat(a, b, c), builder.concat(b, c), builder.concat(a, b, c)
    w = builder.parameter(Parameter("w", (2, 4)))
    outputs = [("wide", wide), ("narrow", narrow), ("sum", same + wide)]
    program = require_legal(builder.finish([builder.linear(narrow, w)], outputs, []))
    for derived in family(program):
        compare(NativeEngine(), derived, 5, 3)


def test_a_concatenation_may_be_read_only_in_parts() -> None:
    # Its buffer is wider than any operation, so it holds fewer rows than the operations could process at once.
    builder = Builder("parts")
    x, old = builder.input("x", 20), builder.state("s", 20, 0.0)
    first = builder.tanh(builder.slice(builder.concat(builder.tanh(x), builder.sigmoid(old)), 10, 20))
    second = builder.sigmoid(builder.slice(builder.concat(builder.tanh(first), builder.sigmoid(first)), 5, 20))
    program = require_legal(builder.finish([second + old * 0.5], [("y", second)], []))
    for derived in family(program):
        compare(NativeEngine(), derived, 3, 70)


def test_units_can_read_other_units_of_a_value_in_the_same_stage() -> None:
    builder = Builder("shifted")
    x, old = builder.input("x", 260), builder.state("s", 260, 0.0)
    sums = builder.linear(old, builder.parameter(Parameter("w", (260, 260))))
    shifted = builder.tanh(builder.slice(builder.concat(builder.tanh(sums), builder.sigmoid(sums)), 100, 260))
    program = require_legal(builder.finish([shifted + x], [("y", shifted)], []))
    for derived in family(program):
        compare(NativeEngine(threads=2), derived, 60, 1)  # enough work to split the units among threads


def test_numpy_arrays_return_numpy_arrays() -> None:
    program = cells.get("gru").program(3, 4)
    arguments = random_arguments(program, 5, 2)
    wanted = run(program, arguments, 5)
    found = run_on(NativeEngine(), program, 5, *([a.numpy() for a in of] for of in arguments))
    assert all(isinstance(a, np.ndarray) for a in flat(found))
    assert_close([torch.from_numpy(a) for a in flat(found)], flat(wanted), 1e-12)


def test_arrays_need_not_be_contiguous_or_aligned() -> None:
    program = cells.get("lstm").program(3, 4)
    arguments = random_arguments(program, 5, 2)
    wanted = flat(run(program, arguments, 5))
    strided = arguments.map(lambda t: torch.stack([t, t], -1)[..., 0])
    assert not strided.inputs[0].is_contiguous()
    assert_close(flat(run_on(NativeEngine(), program, 5, *strided)), wanted, 1e-12)

    def misaligned(t: torch.Tensor) -> np.ndarray:
        memory = np.zeros(t.numel() * 8 + 1, np.uint8)
        array = memory[1:].view(np.float64).reshape(t.shape)
        array[...] = t.numpy()
        return array

    found = run_on(NativeEngine(), program, 5, *([misaligned(t) for t in of] for of in arguments))
    assert_close([torch.from_numpy(a) for a in flat(found)], wanted, 1e-12)


def test_negative_views_are_read_correctly() -> None:
    program = cells.get("lstm").program(3, 4)
    arguments = random_arguments(program, 5, 2)
    negative = arguments.map(lambda t: torch._neg_view(-t))
    assert negative.inputs[0].is_contiguous()
    assert_close(flat(run_on(NativeEngine(), program, 5, *negative)), flat(run(program, arguments, 5)), 1e-12)


class Older:
    """A tensor from a version of torch without DLPack's exchange interface; forwards all other attributes."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __getattr__(self, name: str) -> object:
        given = getattr(self.tensor, name)
        if name not in ("new_empty", "detach", "contiguous", "resolve_neg"):
            return given
        return lambda *args: Older(given(*args))


def test_tensors_without_the_dlpack_exchange_interface_are_supported() -> None:
    program = cells.get("lstm").program(3, 4)
    arguments = random_arguments(program, 5, 2)
    found = run_on(NativeEngine(), program, 5, *([Older(t) for t in of] for of in arguments))
    strided = arguments.map(lambda t: torch._neg_view(torch.stack([-t, t], -1))[..., 0])
    again = run_on(NativeEngine(), program, 5, *([Older(t) for t in of] for of in strided))
    for results in (found, again):
        assert_close([o.tensor for o in flat(results)], flat(run(program, arguments, 5)), 1e-12)


def test_reductions_accumulate_into_existing_arrays() -> None:
    program = family(cells.get("gru").program(3, 4))[2]
    arguments = random_arguments(program, 5, 2)
    wanted = run(program, arguments, 5).reductions
    onto = [torch.ones_like(w) for w in wanted]
    found = run_on(NativeEngine(), program, 5, *arguments, accumulate_into=onto).reductions
    assert all(f is o for f, o in zip(found, onto, strict=True))
    assert_close(found, [w + 1 for w in wanted], 1e-12)
    with pytest.raises(ProgramError, match="contiguous"):
        run_on(NativeEngine(), program, 5, *arguments, accumulate_into=[torch.stack([o, o], -1)[..., 0] for o in onto])


@pytest.mark.parametrize("change", ["shape", "type", "count"])
def test_mismatched_arrays_are_rejected(change: str) -> None:
    program = cells.get("gru").program(3, 4)
    inputs, states, parameters = random_arguments(program, 5, 2)
    if change == "shape":
        parameters[0] = parameters[0].T
    if change == "type":
        states[0] = states[0].float()
    error = ProgramError
    if change == "count":
        inputs, error = [], ValueError
    with pytest.raises(error):
        run_on(NativeEngine(), program, 5, inputs, states, parameters)


def test_increasing_batch_sizes_are_rejected() -> None:
    program = cells.get("gru").program(3, 4)
    with pytest.raises(ValueError, match="batch_sizes must be"):
        run_on(NativeEngine(), program, 3, *random_arguments(program, 3, 2), [1, 2, 1])


def test_nan_weights_produce_nan() -> None:
    program = cells.get("lstm").program(3, 20)
    inputs, states, parameters = random_arguments(program, 4, 2)
    found = run_on(NativeEngine(), program, 4, inputs, states, [p * float("nan") for p in parameters])
    assert all(torch.isnan(t).all() for t in flat(found))


def test_the_engine_supports_every_operation() -> None:
    elsewhere = {
        "linear",
        "linear_transposed",
        "slice",
        "concat",
    }  # products, and operations resolved by buffer placement
    assert set(_native.operations()) == {"copy", *(OPERATIONS.keys() - elsewhere), *JOINED}


def test_illegal_programs_are_rejected() -> None:
    program = cells.get("rnn").program(3, 4)
    broken = replace(program, reductions=(Reduction("r", (4, 4), ((99, 0),)),))
    with pytest.raises(ProgramError):
        lower(broken)


def test_sums_over_many_rows_stay_accurate() -> None:
    # Summing by chunks keeps the rounding error of 40,000 float32 terms near that of one chunk.
    program = family(cells.get("rnn").program(2, 3))[2]
    arguments = random_arguments(program, 20_000, 2)
    arguments = Arguments(arguments.inputs, arguments.states, [p * 0.1 for p in arguments.parameters])
    wanted = run(program, arguments, 20_000)
    found = run_on(NativeEngine(), program, 20_000, *arguments.map(lambda t: t.float()))
    assert_close(found.reductions, wanted.reductions, 2e-6)

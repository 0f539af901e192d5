"""Results have the same bits for any number of threads, batch size, chunking and packing."""

from __future__ import annotations

import pytest
import torch
from helpers import Arguments, flat, random_arguments, run_on
from native_cases import family
from torch import Tensor

from throughtime import _native, cells
from throughtime.engines.base import Constants, Result
from throughtime.engines.native import NativeEngine
from throughtime.program.core import Program

SHAPES = [(11, 33, 20), (5, 3, 270), (5, 3, 256), (40, 19, 64)]  # steps, rows, hidden


def arguments_of(program: Program, steps: int, rows: int) -> Arguments:
    return random_arguments(program, steps, rows).map(lambda t: t.float())


def assert_same(found: Result, wanted: Result) -> None:
    for f, w in zip(flat(found), flat(wanted), strict=True):
        assert torch.equal(f, w)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_results_are_the_same_for_any_number_of_threads(
    engine: NativeEngine, name: str, shape: tuple[int, int, int]
) -> None:
    steps, rows, hidden = shape
    for program in family(cells.get(name).program(9, hidden)):
        arguments = arguments_of(program, steps, rows)
        alone = run_on(NativeEngine(1, engine.instruction_set), program, steps, *arguments)
        for threads in (2, 3):
            assert_same(run_on(NativeEngine(threads, engine.instruction_set), program, steps, *arguments), alone)


@pytest.mark.parametrize("name", cells.names())
def test_results_are_the_same_if_threads_split_the_units_of_one_row(name: str) -> None:
    """Each thread computes its units of all gates, if the cell's equations treat units independently."""
    for program in family(cells.get(name).program(9, 256)):
        arguments = arguments_of(program, 40, 1).map(lambda t: 0.1 * t)  # keeps gradients finite
        alone, *shared = (run_on(NativeEngine(threads), program, 40, *arguments) for threads in (1, 2, 3))
        for found in shared:
            assert_same(found, alone)


@pytest.mark.parametrize("sizes", [(70, 33), (128, 128)])  # of input and state
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_single_step_reads_weights_unpacked(
    engine: NativeEngine, name: str, dtype: torch.dtype, sizes: tuple[int, int]
) -> None:
    """A run of one step multiplies by the parameters as they are; constant parameters are packed."""
    for program in family(cells.get(name).program(*sizes)):
        for rows in (1, 13):
            inputs, states, parameters = random_arguments(program, 1, rows).map(lambda t: 0.1 * t.to(dtype))
            if not parameters:  # the cell has no weights
                continue
            packed = run_on(engine, program, 1, inputs, states, Constants(parameters))
            for threads in (1, 2):
                alike = NativeEngine(threads, engine.instruction_set)
                assert_same(run_on(alike, program, 1, inputs, states, parameters), packed)


def assert_same_with_any_threads(
    program: Program,
    steps: int,
    arguments: Arguments,
    sizes: list[int],
    *,
    packed: bool,
    instruction_set: str = "",
) -> None:
    """Run a program whose rows end at different steps with several numbers of threads."""
    inputs, states, parameters = arguments
    inputs = [pack(i, sizes) for i in inputs] if packed else inputs
    alone, *shared = (
        run_on(NativeEngine(threads, instruction_set), program, steps, inputs, states, parameters, sizes, packed=packed)
        for threads in (1, 2, 3, 7)
    )
    for found in shared:
        assert_same(found, alone)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_results_are_the_same_for_any_number_of_threads_if_rows_end(
    engine: NativeEngine, reverse: bool, packed: bool
) -> None:
    forward = cells.get("lstm").program(9, 64)
    rows, steps = 40, 60  # several chunks, each of whose rows are split among the threads
    sizes = [max(0, 37 - t * t // 80) for t in range(steps)]  # three rows are never active; the last step has no rows
    for program in family(forward.flipped if reverse else forward):
        arguments, isa = arguments_of(program, steps, rows), engine.instruction_set
        assert_same_with_any_threads(program, steps, arguments, sizes, packed=packed, instruction_set=isa)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_rows_are_independent_of_the_batch(engine: NativeEngine, name: str) -> None:
    steps, rows = 6, 29
    for program in family(cells.get(name).program(9, 40)):
        inputs, states, parameters = arguments_of(program, steps, rows)
        together = run_on(engine, program, steps, inputs, states, parameters)
        for row in (0, 11, 28):
            one = slice(row, row + 1)
            alone = run_on(engine, program, steps, [i[:, one] for i in inputs], [s[one] for s in states], parameters)
            for f, w in zip([*alone.outputs], [o[:, one] for o in together.outputs], strict=True):
                assert torch.equal(f, w)
            for f, w in zip(alone.states, [s[one] for s in together.states], strict=True):
                assert torch.equal(f, w)


def test_a_run_in_several_pieces_equals_the_whole_run(engine: NativeEngine) -> None:
    program = cells.get("lstm").program(9, 40)
    inputs, states, parameters = arguments_of(program, 50, 3)
    whole = run_on(engine, program, 50, inputs, states, parameters)
    pieces = []
    for start, stop in ((0, 1), (1, 17), (17, 50)):
        part = run_on(engine, program, stop - start, [i[start:stop] for i in inputs], states, parameters)
        states = part.states
        pieces.append(part.outputs[0])
    assert torch.equal(torch.cat(pieces), whole.outputs[0])
    assert all(torch.equal(f, w) for f, w in zip(states, whole.states, strict=True))


def test_rows_that_end_do_not_affect_other_rows(engine: NativeEngine) -> None:
    program = cells.get("gru").program(9, 40)
    inputs, states, parameters = arguments_of(program, 6, 20)
    sizes = [20, 20, 13, 4, 1, 1]
    packed = run_on(engine, program, 6, inputs, states, parameters, sizes)
    whole = run_on(engine, program, 6, inputs, states, parameters)
    for t, size in enumerate(sizes):
        assert torch.equal(packed.outputs[0][t, :size], whole.outputs[0][t, :size])
        assert not packed.outputs[0][t, size:].any()
    lengths = [sum(size > row for size in sizes) for row in range(20)]
    last = torch.stack([whole.outputs[0][length - 1, row] for row, length in enumerate(lengths)])
    assert torch.equal(packed.states[0], last)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_arrays_equal_padded_ones(engine: NativeEngine, reverse: bool) -> None:
    forward = cells.get("lstm").program(9, 40)
    sizes = [60, 60, 33, 33, 17, 4, 1, 0]
    steps, rows = len(sizes), sizes[0]
    for program in family(forward.flipped if reverse else forward):
        inputs, states, parameters = arguments_of(program, steps, rows)
        padded = run_on(engine, program, steps, inputs, states, parameters, sizes)
        packed = run_on(
            engine, program, steps, [pack(i, sizes) for i in inputs], states, parameters, sizes, packed=True
        )
        assert_same(packed, padded._replace(outputs=[pack(o, sizes) for o in padded.outputs]))


def pack(padded: Tensor, sizes: list[int]) -> Tensor:
    return torch.cat([padded[t, :n] for t, n in enumerate(sizes)])


def test_reductions_accumulated_over_pieces_equal_those_of_the_whole_run(engine: NativeEngine) -> None:
    rows, steps = 100, 23
    program = family(cells.get("lstm").program(9, 20))[2]  # from the last step to the first
    inputs, states, parameters = arguments_of(program, steps, rows)
    whole = run_on(engine, program, steps, inputs, states, parameters)
    cut = steps - 3 * engine.chunk_steps(rows)
    late = run_on(engine, program, steps - cut, [i[cut:] for i in inputs], states, parameters)
    early = run_on(
        engine, program, cut, [i[:cut] for i in inputs], late.states, parameters, accumulate_into=late.reductions
    )
    assert_same(early._replace(outputs=whole.outputs), whole)


def test_recording_changes_no_bit(engine: NativeEngine) -> None:
    program, augmented, _ = family(cells.get("lstm").program(9, 40))
    arguments = arguments_of(program, 12, 5)
    assert torch.equal(
        run_on(engine, program, 12, *arguments).outputs[0], run_on(engine, augmented, 12, *arguments).outputs[0]
    )


@pytest.mark.parametrize("count", [1, 31, 32, 33, 99_999, 100_000, 200_037])
def test_dropout_is_the_same_for_any_number_of_threads_and_instruction_set(count: int) -> None:
    x = torch.randn(count, dtype=torch.float64)
    alone = _native.dropout(x, 7, 0.7, 2.0)
    assert torch.equal(alone, torch.where(alone != 0, 2 * x, 0.0))
    for isa in _native.instruction_sets():
        for threads in (1, 2, 3):
            assert torch.equal(_native.dropout(x, 7, 0.7, 2.0, threads, isa), alone)
            assert torch.equal(_native.dropout(x.float(), 7, 0.7, 2.0, threads, isa), alone.float())
    assert torch.equal(torch.from_numpy(_native.dropout(x.numpy(), 7, 0.7, 2.0)), alone)
    assert not torch.equal(_native.dropout(x, 8, 0.7, 2.0), alone) or count < 9
    for kept in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="keep_probability must be from 0 to 1"):
            _native.dropout(x, 7, kept, 2.0)

"""Every call that builds a plan is checked, and any plan that can be built runs safely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import COLLECTING, Outcomes

from throughtime._native import Plan, operations, run

INT64 = 1 << 63
STORAGES = ("input", "output", "previous", "next", "parameter", "constant", "per_chunk", "per_step", "scratch")


def small_plan() -> tuple[Plan, dict[str, int]]:
    """Return a plan with a buffer of each storage, of width 4, and one stage."""
    plan = Plan([4, 4], [4], [4], [(4, 0), (4, 4)], [(4, 0), (4, 4)], False, [1], [0.0])
    buffers = {storage.removeprefix("per_"): plan.add_buffer(storage, 0, 4, 1.0) for storage in STORAGES}
    buffers["tokens"] = plan.add_buffer("token_ids", 1, 4, 0.0)
    plan.add_stage("step")
    return plan, buffers


REFUSED: dict[str, Callable[[Plan, dict[str, int]], Any]] = {
    "an unknown storage": lambda plan, at: plan.add_buffer("cellar", 0, 4, 0.0),
    "an input that does not exist": lambda plan, at: plan.add_buffer("input", 2, 4, 0.0),
    "a token-id input as vectors": lambda plan, at: plan.add_buffer("input", 1, 4, 0.0),
    "a vector input as token ids": lambda plan, at: plan.add_buffer("token_ids", 0, 4, 0.0),
    "token ids of another width": lambda plan, at: plan.add_buffer("token_ids", 1, 5, 0.0),
    "an operation on token ids": lambda plan, at: plan.add_operation("tanh", 4, (at["chunk"], 0), [(at["tokens"], 0)]),
    "token ids that are written": lambda plan, at: plan.add_gemm(1, False, (at["tokens"], 0), (at["input"], 0), None),
    "a product accumulated onto token ids": lambda plan, at: plan.add_gemm(
        1, False, (at["chunk"], 0), (at["input"], 0), (at["tokens"], 0)
    ),
    "a sum of token ids": lambda plan, at: plan.add_term(0, [(at["tokens"], 0)]),
    "token ids on the left": lambda plan, at: plan.add_term(1, [(at["tokens"], 0), (at["input"], 0)]),
    "a sum with and without token ids": lambda plan, at: (
        plan.add_term(1, [(at["chunk"], 0), (at["tokens"], 0)]),
        plan.add_term(1, [(at["chunk"], 0), (at["input"], 0)]),
    ),
    "a negative output": lambda plan, at: plan.add_buffer("output", -1, 4, 0.0),
    "a state index far out of range": lambda plan, at: plan.add_buffer("next", INT64 - 1, 4, 0.0),
    "an input of another width": lambda plan, at: plan.add_buffer("input", 0, 5, 0.0),
    "a matrix as a vector": lambda plan, at: plan.add_buffer("parameter", 1, 4, 0.0),
    "a negative width": lambda plan, at: plan.add_buffer("per_chunk", 0, -1, 0.0),
    "an excessive width": lambda plan, at: plan.add_buffer("per_chunk", 0, 1 << 32, 0.0),
    "an unknown phase": lambda plan, at: plan.add_stage("never"),
    "an unknown operation": lambda plan, at: plan.add_operation("erf", 4, (at["chunk"], 0), [(at["input"], 0)]),
    "too few operands": lambda plan, at: plan.add_operation("add", 4, (at["chunk"], 0), [(at["input"], 0)]),
    "too many operands": lambda plan, at: plan.add_operation("tanh", 4, (at["chunk"], 0), [(at["input"], 0)] * 5),
    "a buffer that does not exist": lambda plan, at: plan.add_operation("tanh", 4, (99, 0), [(at["input"], 0)]),
    "a negative buffer": lambda plan, at: plan.add_operation("tanh", 4, (-1, 0), [(at["input"], 0)]),
    "beyond the end": lambda plan, at: plan.add_operation("tanh", 4, (at["chunk"], 1), [(at["input"], 0)]),
    "before the start": lambda plan, at: plan.add_operation("tanh", 2, (at["chunk"], -1), [(at["input"], 0)]),
    "an end that wraps around": lambda plan, at: plan.add_operation(
        "tanh", 2, (at["chunk"], INT64 - 1), [(at["input"], 0)]
    ),
    "a source that is too wide": lambda plan, at: plan.add_operation(
        "row_sum", 5, (at["chunk"], 0), [(at["input"], 0)]
    ),
    "an input that is written": lambda plan, at: plan.add_operation("tanh", 4, (at["input"], 0), [(at["chunk"], 0)]),
    "a parameter that is written": lambda plan, at: plan.add_gemm(
        1, False, (at["parameter"], 0), (at["input"], 0), None
    ),
    "a product with a vector": lambda plan, at: plan.add_gemm(0, False, (at["chunk"], 0), (at["input"], 0), None),
    "a product with nothing": lambda plan, at: plan.add_gemm(2, False, (at["chunk"], 0), (at["input"], 0), None),
    "rows beyond a matrix": lambda plan, at: plan.add_gemm(1, False, (at["chunk"], 0), (at["input"], 0), None, (1, 4)),
    "rows that wrap around": lambda plan, at: plan.add_gemm(
        1, False, (at["chunk"], 0), (at["input"], 0), None, (INT64 - 1, 2)
    ),
    "no rows": lambda plan, at: plan.add_gemm(1, False, (at["chunk"], 0), (at["input"], 0), None, (0, 0)),
    "some rows of a transposed matrix": lambda plan, at: plan.add_gemm(
        1, True, (at["chunk"], 0), (at["input"], 0), None, (0, 1)
    ),
    "a product with scratch": lambda plan, at: plan.add_gemm(1, False, (at["chunk"], 0), (at["scratch"], 0), None),
    "a product accumulated onto elements outside a buffer": lambda plan, at: plan.add_gemm(
        1, False, (at["chunk"], 0), (at["input"], 0), (at["step"], 1)
    ),
    "a sum of nothing": lambda plan, at: plan.add_term(0, []),
    "a sum of three": lambda plan, at: plan.add_term(1, [(at["chunk"], 0)] * 3),
    "a reduction that does not exist": lambda plan, at: plan.add_term(2, [(at["chunk"], 0)]),
    "a vector reduction of an outer product": lambda plan, at: plan.add_term(0, [(at["chunk"], 0)] * 2),
    "a matrix reduction of a vector": lambda plan, at: plan.add_term(1, [(at["chunk"], 0)]),
    "a sum of a value that does not outlive its step": lambda plan, at: plan.add_term(0, [(at["step"], 0)]),
    "a sum beyond the end": lambda plan, at: plan.add_term(1, [(at["chunk"], 0), (at["input"], 1)]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_invalid_plans_are_rejected(what: str) -> None:
    with pytest.raises(ValueError, match=r"the plan is not valid|a term must have"):
        REFUSED[what](*small_plan())


def test_one_hot_inputs_must_exist() -> None:
    for one_hot in ([1], [-1], [INT64 - 1]):
        with pytest.raises(ValueError, match="an index is out of range"):
            Plan([4], [], [], [], [], False, one_hot, [])


def test_each_state_needs_one_initial_value() -> None:
    for initial in ([], [0.0, 1.0]):
        with pytest.raises(ValueError, match="each state starts with one number"):
            Plan([4], [], [4], [], [], False, [], initial)


def test_invalid_shapes_and_widths_are_rejected() -> None:
    for widths in ([-1], [1 << 40], [-INT64]):
        for vectors in ((widths, [], []), ([], widths, []), ([], [], widths)):
            with pytest.raises(ValueError, match="width"):
                Plan(*vectors, [], [], False, [], [])
    for shape in ((-1, 0), (1, -1), (1 << 40, 1), (1 << 31, 1 << 31)):
        for parameters, reductions in (([shape], []), ([], [shape])):
            with pytest.raises(ValueError, match="shape"):
                Plan([], [], [], parameters, reductions, False, [], [])


def test_operations_need_a_stage() -> None:
    plan = Plan([4], [4], [4], [], [], False, [], [0.0])
    x, y = plan.add_buffer("input", 0, 4, 0.0), plan.add_buffer("output", 0, 4, 0.0)
    with pytest.raises(ValueError, match="no stage"):
        plan.add_operation("tanh", 4, (y, 0), [(x, 0)])


def test_excessive_memory_is_rejected() -> None:
    plan = Plan([1], [1], [1], [], [], False, [], [0.0])
    for _ in range(3):
        plan.add_buffer("per_chunk", 0, 1 << 31, 0.0)
        plan.add_buffer("scratch", 0, 1 << 31, 0.0)
    states = [np.zeros((1 << 15, 1), np.float32)]
    with pytest.raises((ValueError, MemoryError)):
        run(plan, 1, [np.zeros((1, 1 << 15, 1), np.float32)], states, [], threads=256)


numbers = st.one_of(st.integers(-1, 6), st.integers(0, 70), st.sampled_from([1 << 31, INT64 - 1, -INT64]))
wild_places = st.tuples(st.integers(0, 14), st.one_of(st.integers(0, 3), numbers))


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw from one strategy five times out of six, so that calls with several arguments are often valid."""
    return st.integers(0, 5).flatmap(lambda k: usual if k else other)


# Buffers 0 to 8 have the storages in order, and 9 and 10 are token ids.
places = mostly(st.tuples(st.integers(0, 9), st.just(0)), wild_places)
written = mostly(st.tuples(st.sampled_from([1, 3, 6, 7]), st.just(0)), wild_places)
calls = st.one_of(
    st.tuples(st.just("add_stage"), st.sampled_from(["before", "step", "after", "never"])),
    st.tuples(
        st.just("add_operation"),
        st.sampled_from(operations()),
        mostly(st.sampled_from([1, 2, 4, 20, 40]), numbers),
        written,
        st.lists(places, min_size=1, max_size=4),
    ),
    st.tuples(
        st.just("add_gemm"),
        mostly(st.integers(2, 5), st.integers(-1, 6)),
        st.booleans(),
        written,
        places,
        st.none() | places,
        mostly(st.none(), st.tuples(numbers, numbers)),
    ),
    st.tuples(st.just("add_term"), mostly(st.integers(0, 3), numbers), st.lists(places, min_size=1, max_size=2)),
)


@settings(COLLECTING, max_examples=150)
@given(
    buffers=st.lists(
        st.tuples(st.sampled_from(STORAGES), st.integers(0, 2), st.sampled_from([1, 4, 20, 40])), max_size=5
    ),
    made=st.lists(calls, min_size=5, max_size=60),
    steps=st.integers(0, 3),
    rows=st.sampled_from([0, 1, 3, 40]),
    reverse=st.booleans(),
)
def test_accepted_plans_can_be_run(
    outcomes: Outcomes, buffers: list[Any], made: list[Any], steps: int, rows: int, reverse: bool
) -> None:
    # The results are meaningless, but sanitizers (make sanitize) would detect out-of-bounds accesses.
    widths, shapes = [1, 4, 40], [(4, 0), (40, 0), (4, 40), (40, 20), (1, 1), (20, 4)]
    plan = Plan([*widths, 40, 20], widths, widths, shapes, shapes[:4], reverse, [3, 4], [0.0] * len(widths))
    for storage in STORAGES:
        plan.add_buffer(storage, *((1, 40, 1.0) if storage == "parameter" else (2, 40, 1.0)))
    for k, width in ((3, 40), (4, 20)):
        plan.add_buffer("token_ids", k, width, 0.0)
    for buffer in buffers:
        outcomes.of(plan.add_buffer, *buffer, 0.5, refusal=ValueError)
    plan.add_stage("step")
    for name, *arguments in made:
        outcomes.of(getattr(plan, name), *arguments, refusal=ValueError)
    shaped = [tuple(n for n in shape if n) for shape in shapes]
    outputs, states, sums = run(
        plan,
        steps,
        [
            *(np.ones((steps, rows, width), np.float32) for width in widths),
            *(np.arange(steps * rows).reshape(steps, rows) % width for width in (40, 20)),
        ],
        [np.ones((rows, width), np.float32) for width in widths],
        [np.ones(shape, np.float32) for shape in shaped],
    )
    assert [o.shape for o in outputs] == [(steps, rows, width) for width in widths]
    assert [s.shape for s in states] == [(rows, width) for width in widths]
    assert [s.shape for s in sums] == shaped[:4]

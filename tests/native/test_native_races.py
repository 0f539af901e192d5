"""Threads that share the engine get the same results as a single thread.

`make sanitize` runs these tests under ThreadSanitizer. They don't import torch, because the engine would then use
torch's OpenMP threads, which ThreadSanitizer can't follow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import throughtime
from throughtime import _native, cells
from throughtime.engines.base import Layout, Operands
from throughtime.engines.native import NativeEngine
from throughtime.engines.native.plan import lower
from throughtime.program.core import Program
from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals

Array = NDArray[Any]
CALLERS, ROUNDS = 4, 5


def arguments_of(program: Program, steps: int, rows: int) -> tuple[list[Array], list[Array], list[Array]]:
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return draw.normal(0, 0.3, shape).astype(np.float32)

    return (
        [normal(steps, rows, i.width) for i in program.inputs],
        [normal(rows, s.width) for s in program.states],
        [normal(*p.shape) for p in program.parameters],
    )


def at_once(work: Callable[[], None]) -> None:
    """Run `work` on several threads at once, and raise an exception that one of them raised."""
    errors: list[BaseException] = []

    def caught() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caught) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def flat(result: Any) -> list[Array]:
    return [np.asarray(a) for part in result for a in part]


# Few rows split the units of a step among the threads; many split the rows.
@pytest.mark.parametrize(("rows", "sizes"), [(2, None), (32, None), (32, [32] * 10 + [20] * 6 + [3] * 4)])
def test_concurrent_callers_get_the_results_of_a_single_thread(rows: int, sizes: list[int] | None) -> None:
    program = cells.get("lstm").program(24, 96)
    wanted = everything_wanted(program)
    augmented = with_residuals(program, wanted)
    for each in (program, augmented, gradient(augmented, everything_given(program), wanted).program):
        operands, layout = Operands(*arguments_of(each, 20, rows)), Layout(20, rows, sizes)

        def run(
            threads: int, each: Program = each, operands: Operands = operands, layout: Layout = layout
        ) -> list[Array]:
            return flat(NativeEngine(threads).run(each, operands, layout))

        alone = run(1)

        def work(run: Callable[[int], list[Array]] = run, alone: list[Array] = alone) -> None:
            for k in range(ROUNDS):
                for found, expected in zip(run(2 + k % 3), alone, strict=True):
                    np.testing.assert_array_equal(found, expected)

        at_once(work)


def test_threads_can_share_a_frozen_plan_and_pooled_memory() -> None:
    program = cells.get("gru").program(16, 64)
    inputs, states, parameters = arguments_of(program, 40, 32)
    frozen = _native.FrozenPlan(lower(program), parameters)
    expected = flat(frozen.run(40, inputs, states))

    def work() -> None:
        for _ in range(ROUNDS):
            for found, value in zip(flat(frozen.run(40, inputs, states, threads=2)), expected, strict=True):
                np.testing.assert_array_equal(found, value)
            throughtime.release_memory()

    at_once(work)


def test_a_stream_rejects_a_second_thread() -> None:
    program = cells.get("lstm").program(64, 256)  # large enough that a step releases the GIL
    _, _, parameters = arguments_of(program, 1, 8)
    stream = _native.Stream32([(lower(program), parameters)], 8, None, "")
    x = np.ones((8, 64), np.float32)
    done = []

    def work() -> None:
        for _ in range(50):
            try:
                stream.step(x, None)
                done.append(1)
            except RuntimeError as error:
                if "another thread" not in str(error):
                    raise

    at_once(work)
    assert done


def test_dropout_is_the_same_on_several_threads() -> None:
    x = np.ones(200_000, np.float32)
    expected = _native.dropout(x, 3, 0.5, 2.0)
    at_once(lambda: np.testing.assert_array_equal(_native.dropout(x, 3, 0.5, 2.0, 2), expected))

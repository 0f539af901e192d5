"""Fused operations match their parts, and operations are fused wherever possible."""

from __future__ import annotations

from collections import Counter

import pytest
from helpers import assert_close, flat, random_arguments, run, run_on
from native_cases import family

from throughtime import cells
from throughtime.engines.native import NativeEngine
from throughtime.engines.native.fusion import join
from throughtime.program.builder import Builder
from throughtime.program.core import Parameter, Program
from throughtime.program.legality import require_legal


def check(program: Program) -> None:
    """Compare with the reference engine; reordered sums of three terms differ by a few times 1e-16."""
    for derived in family(program):
        arguments = random_arguments(derived, 5, 7)
        assert_close(flat(run_on(NativeEngine(), derived, 5, *arguments)), flat(run(derived, arguments, 5)), 1e-13)


def test_a_gru_has_no_separate_sums() -> None:
    """All four sums are fused into products, and each matrix is divided into the gates' and the candidate's rows."""
    body = join(cells.get("gru").program(3, 4))
    slices = [(i["weight"], i["first"], i.width) for i in body.values() if i.op == "linear"]
    assert sorted(slices) == [(0, 0, 8), (0, 8, 4), (1, 0, 8), (1, 8, 4)]
    assert all(len(i.args) == 2 for i in body.values() if i.op == "linear")
    assert not any(i.op in ("add", "add3") for i in body.values())
    check(cells.get("gru").program(3, 4))


@pytest.mark.parametrize(
    ("cell", "joined"),
    [
        ("gru", {"sigmoid": 2, "tanh_add_mul": 1, "blend": 1}),
        ("lstm", {"sigmoid": 3, "tanh": 1, "mul_add_mul": 1, "mul_tanh": 1}),
    ],
)
def test_each_cell_is_fused_into_the_expected_operations(cell: str, joined: dict[str, int]) -> None:
    program = cells.get(cell).program(3, 4)
    taken = Counter(i.op for i in join(program).values())
    others = ("input", "previous", "parameter", "constant", "linear", "slice")
    assert {op: count for op, count in taken.items() if op not in others} == joined
    check(program)


NOT_DIVIDED = {
    "a slice twice": lambda of, p, x, s: [p[0:3] + x, p[3:6] + x, p[3:6] * x],
    "a slice in two sums": lambda of, p, x, s: [p[0:3] + x, p[3:6] + x, p[3:6] + 2.0 * x],
    "a slice that is not added": lambda of, p, x, s: [p[0:3] + x, p[3:6] * x],
    "slices that overlap": lambda of, p, x, s: [p[0:3] + x, p[2:5] + x, p[5:6] + x[0:1]],
    "elements that are never used": lambda of, p, x, s: [p[0:3] + x, p[4:6] + x[0:2]],
    "two slices in one sum": lambda of, p, x, s: [p[0:3] + p[3:6]],
    "the whole product too": lambda of, p, x, s: [p[0:3] + x, p[3:6] + x, of.tanh(p)],
    "a sum that depends on the state": lambda of, p, x, s: [p[0:3] + s, p[3:6] + x],
}


@pytest.mark.parametrize("case", NOT_DIVIDED)
def test_a_product_is_not_divided(case: str) -> None:
    builder = Builder("whole")
    x, old = builder.input("x", 3), builder.state("s", 3)
    product = builder.linear(x, builder.parameter(Parameter("w", (6, 3))))
    values = NOT_DIVIDED[case](builder, product, x, old)
    program = require_legal(builder.finish([values[0]], [(f"y{k}", v) for k, v in enumerate(values)], []))
    linear = [i for i in join(program).values() if i.op == "linear"]
    assert [(i.width, len(i.args), len(i.attributes)) for i in linear] == [(6, 1, 1)]
    check(program)


def test_only_one_of_two_products_with_the_same_sums_is_divided() -> None:
    """The order of the summands doesn't matter."""
    builder = Builder("both")
    x, old = builder.input("x", 6), builder.state("s", 6)
    p, q = (builder.linear(old, builder.parameter(Parameter(name, (6, 6)))) for name in "pq")
    program = require_legal(builder.finish([builder.concat(p[0:3] + q[0:3], q[3:6] + p[3:6]) + x], [], []))
    linear = [i for i in join(program).values() if i.op == "linear"]
    assert sorted((i.width, len(i.args)) for i in linear) == [(3, 2), (3, 2), (6, 1)]
    check(program)


CUTS = [(0, 1), (1, 33), (33, 36), (36, 70)]


def test_slices_need_not_be_aligned_with_register_tiles() -> None:
    builder = Builder("uneven")
    x, old = builder.input("x", 5), builder.state("s", 70, 0.0)
    product = builder.linear(old, builder.parameter(Parameter("w", (70, 70))))
    parts = [product[a:b] + builder.linear(x, builder.parameter(Parameter(f"v{a}", (b - a, 5)))) for a, b in CUTS]
    program = require_legal(builder.finish([builder.tanh(builder.concat(*parts))], [("y", old * 1.0)], []))
    assert Counter(i.op for i in join(program).values())["linear"] == 2 * len(CUTS)
    check(program)


def test_a_value_used_elsewhere_is_recomputed_from_available_values() -> None:
    """`1 - y` is fused into a sigmoid's derivative although it is also an output."""
    builder = Builder("slope")
    g, y = builder.input("g", 4), builder.state("y", 4, 0.0)
    rest = 1.0 - y
    program = require_legal(builder.finish([g * (y * rest)], [("rest", rest)], []))
    assert sorted(i.op for i in join(program).values()) == ["constant", "input", "previous", "sigmoid_gradient", "sub"]
    check(program)


def test_a_value_is_not_recomputed_if_that_needs_further_reads() -> None:
    builder = Builder("product")
    a, b, c = (builder.input(name, 4) for name in "abc")
    product = a * b
    program = require_legal(builder.finish([builder.state("s", 4) + product], [("sum", product + c)], []))
    assert "mul_add" not in {i.op for i in join(program).values()}
    check(program)

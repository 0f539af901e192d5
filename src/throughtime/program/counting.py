"""The cost of a program's step in multiplications and FLOPs."""

from __future__ import annotations

from math import prod

from throughtime.program.core import Program
from throughtime.program.operations import OPERATIONS, PRODUCTS, REDUCTIONS


def products(program: Program) -> int:
    """Count the multiplications of one step of one sequence, in matrix products and sums of outer products."""
    body = program.body
    linear: int = sum(prod(program.parameters[i["weight"]].shape) for i in body if i.op in PRODUCTS)
    terms = (term for reduction in program.reductions for term in reduction.terms if len(term) == 2)
    return linear + sum(body[u].width * body[v].width for u, v in terms)


def flops(program: Program) -> int:
    """Count the floating-point operations of one step of one sequence; a function such as tanh counts as one."""
    pointwise = sum(i.width for i in program.body if i.op in OPERATIONS and OPERATIONS[i.op].pointwise)
    sums = sum(program.body[i.args[0]].width for i in program.body if i.op in REDUCTIONS)
    return 2 * products(program) + pointwise + sums

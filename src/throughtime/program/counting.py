"""How much work a program's step is."""

from __future__ import annotations

from math import prod

from throughtime.program.core import Program
from throughtime.program.operations import OPERATIONS, PRODUCTS, REDUCTIONS


def products(program: Program) -> int:
    """The multiplications of a step of one row: in its products with a matrix, and in the sums of outer products."""
    body = program.body
    linear: int = sum(prod(program.parameters[i["weight"]].shape) for i in body if i.op in PRODUCTS)
    terms = (term for reduction in program.reductions for term in reduction.terms if len(term) == 2)
    return linear + sum(body[u].width * body[v].width for u, v in terms)


def flops(program: Program) -> int:
    """The arithmetic of a step of one row: a product's multiplications and additions; a function counts as one."""
    pointwise = sum(i.width for i in program.body if i.op in OPERATIONS and OPERATIONS[i.op].pointwise)
    sums = sum(program.body[i.args[0]].width for i in program.body if i.op in REDUCTIONS)
    return 2 * products(program) + pointwise + sums

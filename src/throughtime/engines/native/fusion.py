"""Fuse operations that the native engine can compute in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from throughtime.program.core import CONSTANT, Instruction, Program
from throughtime.program.operations import PRODUCTS
from throughtime.program.phases import Phase, phases

# The pattern of each fused operation: an operation and its arguments, where a letter matches any value (the same letter
# the same value) and a number a constant. Fused operations round exactly as their parts do, so results are bitwise
# identical with and without fusion.
Pattern = str | float | tuple[str | float | tuple, ...]  # type: ignore[type-arg]
_SIGMOID_SLOPE: Pattern = ("mul", "y", ("sub", 1.0, "y"))
_TANH_SLOPE: Pattern = ("sub", 1.0, ("mul", "y", "y"))
JOINED: dict[str, tuple[tuple[str, ...], Pattern]] = {  # the first match is used
    "mul_tanh_gradient_add": (("a", "b", "y", "c"), ("add", ("mul", ("mul", "a", "b"), _TANH_SLOPE), "c")),
    "mul_tanh_gradient": (("a", "b", "y"), ("mul", ("mul", "a", "b"), _TANH_SLOPE)),
    "mul_sigmoid_gradient": (("a", "b", "y"), ("mul", ("mul", "a", "b"), _SIGMOID_SLOPE)),
    "sigmoid_gradient": (("g", "y"), ("mul", "g", _SIGMOID_SLOPE)),
    "tanh_gradient": (("g", "y"), ("mul", "g", _TANH_SLOPE)),
    "sigmoid_add3": (("a", "b", "c"), ("sigmoid", ("add", ("add", "a", "b"), "c"))),
    "sigmoid_add": (("a", "b"), ("sigmoid", ("add", "a", "b"))),
    "tanh_add3": (("a", "b", "c"), ("tanh", ("add", ("add", "a", "b"), "c"))),
    "tanh_add_mul": (("a", "b", "c"), ("tanh", ("add", "a", ("mul", "b", "c")))),
    "tanh_add": (("a", "b"), ("tanh", ("add", "a", "b"))),
    "mul_tanh": (("a", "b"), ("mul", "a", ("tanh", "b"))),
    "blend": (("z", "a", "b"), ("add", ("mul", ("sub", 1.0, "z"), "a"), ("mul", "z", "b"))),
    "mul_add_mul": (("a", "b", "c", "d"), ("add", ("mul", "a", "b"), ("mul", "c", "d"))),
    "mul_sub_mul": (("a", "b", "c", "d"), ("add", ("mul", "a", "b"), ("neg", ("mul", "c", "d")))),
    "mul_add": (("a", "b", "c"), ("add", ("mul", "a", "b"), "c")),
    "add3": (("a", "b", "c"), ("add", ("add", "a", "b"), "c")),
}
_COMMUTATIVE = ("add", "mul")


def join(program: Program) -> dict[int, Instruction]:
    """Fuse a program's operations and return the remaining instructions, by the value that each computes.

    Values used more than once or outside the body are kept. A product with a second argument accumulates into that
    value.
    """
    left = accumulated_products(program)
    uses = _uses(program)
    for id in reversed(range(len(program.body))):
        if id not in left:
            continue
        for name, (letters, pattern) in JOINED.items():
            found = _match(left, uses, pattern, id, {}, [])
            if found is not None:
                values, inner = found
                left[id] = replace(left[id], op=name, args=tuple(values[letter] for letter in letters))
                for gone in inner:
                    del left[gone]
                break
    read = _roots(program)
    for id in reversed(left):
        if id in read:
            read.update(left[id].args)
    return {id: i for id, i in left.items() if id in read}


def accumulated_products(program: Program) -> dict[int, Instruction]:
    """Fuse sums with products: the product accumulates into the other summand, which saves a pass over memory.

    If each slice of a product is added to something, the product is divided into one product per slice, each with
    the slice's rows of the matrix. This fusion rounds differently, so it depends only on the body and not on the values
    that are recorded.
    """
    body = dict(enumerate(program.body))
    phase = phases(program)
    users: dict[int, list[int]] = {id: [] for id in body}
    for id, instruction in body.items():
        for arg in instruction.args:
            users[arg].append(id)
    for id, instruction in enumerate(program.body):
        sums = _sums_of(program, id, users, phase) if instruction.op in PRODUCTS else {}
        if any(body[add].op != "add" for add in sums):
            continue  # another product already accumulates into this value
        for add, (part, product) in sums.items():
            (start,) = (arg for arg in body[add].args if arg != part)
            body[add] = replace(product, args=(product.args[0], start))
    return body


def _sums_of(
    program: Program, id: int, users: dict[int, list[int]], phase: Sequence[Phase]
) -> dict[int, tuple[int, Instruction]]:
    """Map each sum that uses a slice of a product to that slice, and to a product that computes the slice alone."""
    product = program.body[id]
    parts = {id: product}
    if product.op == "linear" and users[id] and all(program.body[user].op == "slice" for user in users[id]):
        slices = sorted((program.body[user]["start"], user) for user in users[id])
        parts, end = {}, 0
        for start, part in slices:
            if start != end:
                return {}
            width = program.body[part].width
            parts[part] = replace(product, width=width, attributes=(*product.attributes, ("first", start)))
            end += width
        if end != product.width:
            return {}
    sums: dict[int, tuple[int, Instruction]] = {}
    for part, alone in parts.items():
        add = users[part][0] if len(users[part]) == 1 else part
        # A product that can be computed before the loop must not be moved into it.
        if program.body[add].op != "add" or phase[add] is not phase[id] or add in sums:
            return {}
        sums[add] = part, alone
    return sums


def _roots(program: Program) -> set[int]:
    roots = {state.next for state in program.states} | {output.value for output in program.outputs}
    return roots | {value for reduction in program.reductions for term in reduction.terms for value in term}


def _uses(program: Program) -> list[int]:
    uses = [0] * len(program.body)
    for instruction in program.body:
        for arg in instruction.args:
            uses[arg] += 1
    for root in _roots(program):
        uses[root] += 2  # never fused into another operation
    return uses


def _match(
    body: dict[int, Instruction], uses: list[int], pattern: Pattern, id: int, values: dict[str, int], inner: list[int]
) -> tuple[dict[str, int], list[int]] | None:
    """Match a pattern at value `id`; return the values of its letters and the instructions inside it, or None."""
    instruction = body.get(id)
    if isinstance(pattern, str):
        return (values | {pattern: id}, inner) if values.get(pattern, id) == id else None
    if isinstance(pattern, float):
        fits = instruction is not None and instruction.op == CONSTANT and instruction["value"] == pattern
        return (values, inner) if fits else None
    op, *parts = pattern
    if instruction is None or instruction.op != op:
        return None
    orders = [instruction.args]
    if op in _COMMUTATIVE:
        orders.append(instruction.args[::-1])
    for args in orders:
        found: tuple[dict[str, int], list[int]] | None = (values, inner)
        for part, arg in zip(parts, args, strict=True):
            if found is None:
                break
            if isinstance(part, tuple):
                before = found
                found = _match(body, uses, part, arg, before[0], [*before[1], arg])
                # A value that is also used elsewhere is kept, and recomputed only from available values.
                if found is not None and uses[arg] != 1:
                    found = before if found[0] == before[0] else None
            else:
                found = _match(body, uses, part, arg, *found)
        if found is not None:
            return found
    return None

"""Joins operations that the machine can do in one pass over memory."""

from __future__ import annotations

from dataclasses import replace

from throughtime.program.core import CONSTANT, Instruction, Program
from throughtime.program.phases import phases

# What each joined operation means: an operation and its values, of which a letter is any value (the same letter the
# same value), a number a constant. Each is computed exactly as its parts would be, so joining changes no bit.
Pattern = str | float | tuple[str | float | tuple, ...]  # type: ignore[type-arg]
_SIGMOID_SLOPE: Pattern = ("mul", "y", ("sub", 1.0, "y"))
_TANH_SLOPE: Pattern = ("sub", 1.0, ("mul", "y", "y"))
JOINED: dict[str, tuple[tuple[str, ...], Pattern]] = {  # the first that fits is taken
    "mul_tanh_gradient_add": (("a", "b", "y", "c"), ("add", ("mul", ("mul", "a", "b"), _TANH_SLOPE), "c")),
    "mul_tanh_gradient": (("a", "b", "y"), ("mul", ("mul", "a", "b"), _TANH_SLOPE)),
    "mul_sigmoid_gradient": (("a", "b", "y"), ("mul", ("mul", "a", "b"), _SIGMOID_SLOPE)),
    "sigmoid_gradient": (("g", "y"), ("mul", "g", _SIGMOID_SLOPE)),
    "tanh_gradient": (("g", "y"), ("mul", "g", _TANH_SLOPE)),
    "sigmoid_add3": (("a", "b", "c"), ("sigmoid", ("add", ("add", "a", "b"), "c"))),
    "sigmoid_add": (("a", "b"), ("sigmoid", ("add", "a", "b"))),
    "tanh_add3": (("a", "b", "c"), ("tanh", ("add", ("add", "a", "b"), "c"))),
    "tanh_add": (("a", "b"), ("tanh", ("add", "a", "b"))),
    "mul_add_mul": (("a", "b", "c", "d"), ("add", ("mul", "a", "b"), ("mul", "c", "d"))),
    "mul_sub_mul": (("a", "b", "c", "d"), ("add", ("mul", "a", "b"), ("neg", ("mul", "c", "d")))),
    "mul_add": (("a", "b", "c"), ("add", ("mul", "a", "b"), "c")),
    "add3": (("a", "b", "c"), ("add", ("add", "a", "b"), "c")),
}
_COMMUTATIVE = ("add", "mul")


PRODUCTS = ("linear", "linear_transposed")


def join(program: Program) -> dict[int, Instruction]:
    """The instructions of a program that are left when operations have been joined, by the value that each gives.

    A value that is used more than once, or outside the body, stays. A product takes a second value where its sums
    begin there.
    """
    left = _begun_products(program)
    uses = _uses(program)
    for id in reversed(range(len(program.body))):
        if id not in left or not uses[id]:
            left.pop(id, None)
            continue
        for name, (letters, pattern) in JOINED.items():
            found = _match(left, uses, pattern, id, {}, [])
            if found is not None:
                values, inner = found
                left[id] = replace(left[id], op=name, args=tuple(values[letter] for letter in letters))
                for gone in inner:
                    del left[gone]
                break
    read = {arg for instruction in left.values() for arg in instruction.args} | _roots(program)
    return {id: i for id, i in left.items() if id in read}


def _begun_products(program: Program) -> dict[int, Instruction]:
    """Sums with a product in which the product's own sums begin at the other value, which saves a pass over memory.

    This rounds otherwise than the sum does, so it depends on the body alone and not on what is recorded.
    """
    body = dict(enumerate(program.body))
    phase = phases(program)
    uses = [0] * len(body)
    for arg in (arg for instruction in program.body for arg in instruction.args):
        uses[arg] += 1
    for id, instruction in enumerate(program.body):
        if instruction.op != "add":
            continue
        for start, product in (instruction.args, instruction.args[::-1]):
            of = body[product]
            # A product that could be done before the steps must not be drawn into them.
            if of.op in PRODUCTS and len(of.args) == 1 and uses[product] == 1 and phase[product] is phase[id]:
                body[id] = replace(of, args=(of.args[0], start))
                break
    return body


def _roots(program: Program) -> set[int]:
    roots = {state.next for state in program.states} | {output.value for output in program.outputs}
    return roots | {value for reduction in program.reductions for term in reduction.terms for value in term}


def _uses(program: Program) -> list[int]:
    uses = [0] * len(program.body)
    for instruction in program.body:
        for arg in instruction.args:
            uses[arg] += 1
    for root in _roots(program):
        uses[root] += 2  # never to be joined into another
    return uses


def _match(
    body: dict[int, Instruction], uses: list[int], pattern: Pattern, id: int, values: dict[str, int], inner: list[int]
) -> tuple[dict[str, int], list[int]] | None:
    """The values of a pattern's letters, and the instructions within it, if it fits the value `id`."""
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
                # A square uses its value twice in one place; anything else used twice is needed elsewhere too.
                found = _match(body, uses, part, arg, found[0], [*found[1], arg]) if uses[arg] == 1 else None
            else:
                found = _match(body, uses, part, arg, *found)
        if found is not None:
            return found
    return None

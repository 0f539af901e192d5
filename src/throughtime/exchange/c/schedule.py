"""Order the operations of a layer's step for C: matrix products and loops over units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from throughtime.engines.native.fusion import accumulated_products
from throughtime.program.core import LEAVES, Instruction, Program
from throughtime.program.operations import OPERATIONS, PRODUCTS

ALIASES = ("slice", "expand")  # operations whose result shares its argument's memory


@dataclass(frozen=True)
class Item:
    """One unit of work: a loop or a single operation.

    Attributes:
        values: the values that the item computes: one, or several for pointwise operations in a loop.
        width: the number of elements of each value.
        loop: whether the item is a loop over pointwise operations.
    """

    values: tuple[int, ...]
    width: int
    loop: bool


@dataclass(frozen=True)
class Schedule:
    """The order in which the operations of a step run.

    Attributes:
        body: the instructions to run, by the value that each computes. A product may have a second argument, to which
            it adds, and an attribute `first`, its first row.
        items: the items in order.
    """

    body: dict[int, Instruction]
    items: tuple[Item, ...]

    def root(self, id: int) -> int:
        """Return the value that owns the memory of the given value."""
        while self.body[id].op in ALIASES:
            id = self.body[id].args[0]
        return id

    def reads(self, item: Item) -> Iterator[int]:
        """Yield the values that an item reads but does not compute."""
        for id in item.values:
            for arg in self.body[id].args:
                if arg not in item.values:
                    yield arg


def schedule(program: Program, results: set[int]) -> Schedule:
    """Order a program's step into as few loops as its products allow.

    Args:
        program: the program.
        results: the values that must be computed.
    """
    body = _needed(accumulated_products(program), results)
    order = Schedule(body, ())
    finished: set[int] = set()
    left = [id for id, instruction in body.items() if instruction.op not in (*LEAVES, *ALIASES)]
    items: list[Item] = []

    def ready(arg: int) -> bool:
        root = order.root(arg)
        return body[root].op in LEAVES or root in finished

    while left:
        # Products first, so that the operations waiting for them share one loop.
        chosen = [id for id in left if not _pointwise(body[id]) and all(map(ready, body[id].args))][:1]
        loop = not chosen
        if loop:
            width = next(body[id].width for id in left if all(map(ready, body[id].args)))
            for id in left:
                fits = _pointwise(body[id]) and body[id].width == width
                if fits and all(arg in chosen or ready(arg) for arg in body[id].args):
                    chosen.append(id)
        items.append(Item(tuple(chosen), body[chosen[0]].width, loop))
        finished.update(chosen)
        left = [id for id in left if id not in finished]
    return Schedule(body, tuple(items))


def _pointwise(instruction: Instruction) -> bool:
    return instruction.op not in PRODUCTS and OPERATIONS[instruction.op].pointwise


def _needed(body: dict[int, Instruction], results: set[int]) -> dict[int, Instruction]:
    needed = set(results)
    for id in sorted(body, reverse=True):
        if id in needed:
            needed.update(body[id].args)
    return {id: body[id] for id in sorted(needed)}

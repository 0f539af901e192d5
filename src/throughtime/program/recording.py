"""Values of a program as further outputs, which change nothing of what the program computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from throughtime.program.core import Instruction, Output, Program
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS


class Stretch(NamedTuple):
    """Some neighbouring elements of a value.

    Attributes:
        value: its index in the program's body.
        start: the first of the elements.
        width: how many there are.
    """

    value: int
    start: int
    width: int


class Found(NamedTuple):
    """Where a stretch is written: in an output of the program, from an element on."""

    output: int
    start: int


@lru_cache(maxsize=512)
def with_outputs(program: Program, stretches: tuple[Stretch, ...], own: int) -> tuple[Program, tuple[Found, ...]]:
    """The program with outputs that hold stretches of its values.

    Args:
        program: a legal program.
        stretches: what is to be written.
        own: how many outputs are the program's own. Those after them (the residuals of a training step) may hold what
            is asked for already; its own are given to the caller, who may write into them.

    Returns:
        The program, whose values keep their numbers and are computed as before, bit for bit, and where each stretch is.
    """
    holders = {output.value: own + k for k, output in reversed(list(enumerate(program.outputs[own:])))}
    written: dict[Stretch, Found] = {}
    body, outputs = list(program.body), list(program.outputs)
    for stretch in stretches:
        if stretch in written:
            continue
        id, start, width = stretch
        # An engine may begin a product, or a slice of one, that is used once with the sum it is in: a slice would be a
        # second use.
        if id not in holders and width < body[id].width and not _is_of_product(body, id):
            body.append(Instruction("slice", (id,), width, (("start", start),)))
            written[stretch] = Found(len(outputs), 0)
            outputs.append(Output(f"seen.{len(outputs)}", len(body) - 1))
            continue
        if id not in holders:
            holders[id] = len(outputs)
            outputs.append(Output(f"seen.{len(outputs)}", id))
        written[stretch] = Found(holders[id], start)
    full = require_legal(replace(program, body=tuple(body), outputs=tuple(outputs)))
    return full, tuple(written[stretch] for stretch in stretches)


def _is_of_product(body: Sequence[Instruction], id: int) -> bool:
    """Whether a value is a product with a weight, or a slice of one."""
    instruction = body[id]
    if instruction.op == "slice":
        instruction = body[instruction.args[0]]
    row = OPERATIONS.get(instruction.op)
    return row is not None and row.weight_gradient is not None

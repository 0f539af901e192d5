"""Recording: values of a program as additional outputs, without changing any result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from throughtime.program.core import Instruction, Output, Program
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS


class ValueSlice(NamedTuple):
    """Consecutive elements of a value.

    Attributes:
        value: the value's index in the program's body.
        start: the index of the first element.
        width: the number of elements.
    """

    value: int
    start: int
    width: int


class Found(NamedTuple):
    """The position of a slice: the index of an output of the program, and the first element in it."""

    output: int
    start: int


@lru_cache(maxsize=512)
def with_outputs(program: Program, slices: tuple[ValueSlice, ...], own: int) -> tuple[Program, tuple[Found, ...]]:
    """Add outputs that hold slices of a program's values.

    Args:
        program: a legal program.
        slices: the slices to write.
        own: the number of the program's own outputs. Later outputs (the residuals of a training step) are reused where
            they already hold a slice. Own outputs are not, because the caller receives them and may write into them.

    Returns:
        The program, whose values keep their indices and have the same bits as before, and the position of each slice.
    """
    holders = {output.value: own + k for k, output in reversed(list(enumerate(program.outputs[own:])))}
    written: dict[ValueSlice, Found] = {}
    body, outputs = list(program.body), list(program.outputs)
    for part in slices:
        if part in written:
            continue
        id, start, width = part
        # An engine may fuse a product (or a slice of one) that is used once into the sum that uses it; a slice for
        # recording would be a second use and prevent that.
        if id not in holders and width < body[id].width and not _is_of_product(body, id):
            body.append(Instruction("slice", (id,), width, (("start", start),)))
            written[part] = Found(len(outputs), 0)
            outputs.append(Output(f"seen.{len(outputs)}", len(body) - 1))
            continue
        if id not in holders:
            holders[id] = len(outputs)
            outputs.append(Output(f"seen.{len(outputs)}", id))
        written[part] = Found(holders[id], start)
    full = require_legal(replace(program, body=tuple(body), outputs=tuple(outputs)))
    return full, tuple(written[part] for part in slices)


def _is_of_product(body: Sequence[Instruction], id: int) -> bool:
    """Return whether a value is a matrix product, or a slice of one."""
    instruction = body[id]
    if instruction.op == "slice":
        instruction = body[instruction.args[0]]
    row = OPERATIONS.get(instruction.op)
    return row is not None and row.weight_gradient is not None

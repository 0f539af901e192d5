"""What the tests of seeing share: small layers, a loss of them, and a cell's step, in the plainest way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import throughtime
from throughtime.nn.recurrent import Recurrent
from throughtime.program.core import Program
from throughtime.program.operations import OPERATIONS

HIDDEN = 6  # divisible by what cells with heads or pieces ask for


def recurrent(name: str, layers: int = 1, **options: Any) -> Recurrent:
    return throughtime.Recurrent(name, 4, HIDDEN, layers, **options)


def total(output: Tensor, final: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A loss that all outputs and final states have a part in."""
    states = final if isinstance(final, tuple) else (final,)
    return output.square().sum() + sum((s.sin() * 0.5).sum() for s in states)


def one_step(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    held: Mapping[int, Tensor] | None = None,
) -> list[Tensor]:
    """The values of a program's body at one step of some rows, straight from the operations table; some may be held."""
    values: list[Tensor] = []
    for id, i in enumerate(program.body):
        words = dict(i.attributes)
        if held and id in held:
            values.append(held[id])
        elif i.op == "input":
            values.append(x)
        elif i.op == "previous":
            values.append(states[words["index"]])
        elif i.op == "parameter":
            values.append(parameters[words["index"]])
        elif i.op == "constant":
            values.append(x.new_full((i.width,), words["value"]))
        else:
            if "weight" in words:
                words["weight"] = parameters[words["weight"]]
            if i.op in ("slice", "expand"):
                words["width"] = i.width
            values.append(OPERATIONS[i.op].meaning(torch, *(values[a] for a in i.args), **words))
    return values

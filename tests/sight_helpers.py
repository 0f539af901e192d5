"""Shared helpers for the tests of `throughtime.sight`: small layers, a loss, and a reference for one step of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import throughtime
from throughtime.nn.recurrent import Recurrent
from throughtime.program.core import Program
from throughtime.program.operations import OPERATIONS

HIDDEN = 6  # divisible by the numbers of heads and pieces of all cells


def recurrent(name: str, layers: int = 1, **options: Any) -> Recurrent:
    return throughtime.Recurrent(name, 4, HIDDEN, layers, **options)


def total(output: Tensor, final: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return a loss that depends on all outputs and final states."""
    states = final if isinstance(final, tuple) else (final,)
    return output.square().sum() + sum((s.sin() * 0.5).sum() for s in states)


def one_step(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    held: Mapping[int, Tensor] | None = None,
) -> list[Tensor]:
    """Evaluate a program's body for one step with the operations table; `held` overrides values by id."""
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

"""The inputs of layers beside x, given at each step by name: checked, and put in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.errors import UserError, nearest
from throughtime.program.core import Input

Given = Tensor | PackedSequence


def in_order(
    declared: Sequence[Input], given: Mapping[str, Given], input: Given, steps: Sequence[int], dtype: torch.dtype | None
) -> list[Given]:
    """The inputs beside x, in the order in which the layers declare them.

    Args:
        declared: the layers' inputs beside x.
        given: what the caller gave, by name; `[*steps, width]`, or `steps` where the width is 1.
        input: the caller's x.
        steps: the shape of x without its features.
        dtype: the type that they must have; any if None.

    Raises:
        UserError: one is unknown, missing, or of another form than x.
    """
    names = [d.name for d in declared]
    for name in given:
        if name not in names:
            has = f"they take {', '.join(names)}" if names else "they take x alone"
            raise UserError(
                f"the layers take no input {name!r}{nearest(name, names)} ({has}). A cell's optional input is asked "
                f"for when they are made: Recurrent(..., inputs=[{name!r}])."
            )
    for name in names:
        if name not in given:
            raise UserError(f"the layers take {name} at each step, and it is missing: layer(x, {name}=...).")
    return [_checked(d, given[d.name], input, list(steps), dtype) for d in declared]


def _checked(declared: Input, given: Given, input: Given, steps: list[int], dtype: torch.dtype | None) -> Given:
    name, width = declared.name, declared.width
    if isinstance(input, PackedSequence):
        if not isinstance(given, PackedSequence) or not torch.equal(given.batch_sizes, input.batch_sizes):
            raise UserError(f"{name} must be a packed sequence of the lengths of the packed input.")
        data = given.data
    elif isinstance(given, Tensor):
        data = given
    else:
        raise UserError(f"{name} must be a tensor {[*steps, width]}; given {type(given).__name__}.")
    if dtype is not None and data.dtype != dtype:
        raise UserError(f"{name} must be {dtype}, as the layers' weights are; given {data.dtype}.")
    if width == 1 and list(data.shape) == steps:
        data = data.unsqueeze(-1)
    if list(data.shape) != [*steps, width]:
        raise UserError(f"{name} must have the shape {[*steps, width]}, as x has its steps; given {list(data.shape)}.")
    return given._replace(data=data) if isinstance(given, PackedSequence) else data

"""Check the step inputs other than x, which are passed by name, and put them in order."""

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
    """Return the inputs other than x in the order in which the layers declare them.

    Args:
        declared: the layers' inputs other than x.
        given: the caller's inputs by name, `[*steps, width]`, or `steps` if the width is 1.
        input: the caller's x.
        steps: the shape of x without its features.
        dtype: the required dtype; any if None.

    Raises:
        UserError: if an input is unknown or missing, or its form doesn't match that of x.
    """
    names = [d.name for d in declared]
    for name in given:
        if name not in names:
            has = f"they take {', '.join(names)}" if names else "they take x alone"
            raise UserError(
                f"the layers have no input {name!r}{nearest(name, names)}; {has}. To use a cell's optional input, "
                f"name it when you create the layers: Recurrent(..., inputs=[{name!r}])"
            )
    for name in names:
        if name not in given:
            raise UserError(f"missing input {name}, which the layers take at each step: layer(x, {name}=...)")
    return [_checked(d, given[d.name], input, list(steps), dtype) for d in declared]


def _checked(declared: Input, given: Given, input: Given, steps: list[int], dtype: torch.dtype | None) -> Given:
    name, width = declared.name, declared.width
    if isinstance(input, PackedSequence):
        if not isinstance(given, PackedSequence) or not torch.equal(given.batch_sizes, input.batch_sizes):
            raise UserError(f"{name} must be a packed sequence with the same lengths as the input")
        data = given.data
    elif isinstance(given, Tensor):
        data = given
    else:
        raise UserError(f"{name} must be a tensor of shape {[*steps, width]}, got {type(given).__name__}")
    if dtype is not None and data.dtype != dtype:
        raise UserError(f"{name} must have the layers' dtype, {dtype}, got {data.dtype}")
    if width == 1 and list(data.shape) == steps:
        data = data.unsqueeze(-1)
    if list(data.shape) != [*steps, width]:
        raise UserError(f"{name} must have shape {[*steps, width]}, to match x, got {list(data.shape)}")
    return given._replace(data=data) if isinstance(given, PackedSequence) else data

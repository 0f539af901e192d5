"""Check and concatenate the inputs of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError, nearest
from throughtime.program.core import Input

Array = NDArray[Any]


def joined(declared: Sequence[Input], x: Any, inputs: Mapping[str, Any], axes: int, dtype: np.dtype[Any]) -> Array:
    """Concatenate the inputs of one or more steps into the array that the engine takes.

    Args:
        declared: the network's declared inputs, x first.
        x: the caller's x, or all inputs one after another.
        inputs: the caller's other inputs, by name.
        axes: the number of axes of x before the feature axis.
        dtype: the dtype of all inputs.

    Raises:
        UserError: if an input is unknown, missing, or has the wrong shape or dtype.
    """
    (of_x, *others), steps = declared, np.shape(x)[:axes]
    names = [given.name for given in others]
    for name in inputs:
        if name not in names:
            has = f"it takes {', '.join(names)}" if names else "it takes x alone"
            raise UserError(f"the network has no input {name!r}{nearest(name, names)}; {has}")
    if not inputs and np.shape(x) == (*steps, sum(given.width for given in declared)):
        return np.asarray(x)
    for name in names:
        if name not in inputs:
            raise UserError(f"missing input {name}, which the network takes at each step: step(x, {name}=...)")
    found = []
    for given, value in zip(declared, [x, *(inputs[name] for name in names)], strict=True):
        array = np.asarray(value, None if isinstance(value, np.ndarray) else dtype)
        if given.width == 1 and array.shape == steps:
            array = array[..., None]
        if array.shape != (*steps, given.width) or array.dtype != dtype:
            name = "x" if given is of_x else given.name
            raise UserError(f"{name} must be {dtype} {[*steps, given.width]}, got {array.dtype} {list(array.shape)}")
        found.append(array)
    return np.concatenate(found, -1)

"""A step's inputs beside x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError, nearest
from throughtime.program.core import Input

Array = NDArray[Any]


def joined(declared: Sequence[Input], x: Any, inputs: Mapping[str, Any], axes: int, dtype: np.dtype[Any]) -> Array:
    """The inputs of a step or of steps side by side, as the machine takes them.

    Args:
        declared: the network's inputs, x first.
        x: the caller's x.
        inputs: the caller's other inputs, by name.
        axes: the number of axes of x before its features.
        dtype: the type of all.

    Raises:
        UserError: one is unknown, missing, or of another shape or type.
    """
    (of_x, *others), steps = declared, np.shape(x)[:axes]
    names = [given.name for given in others]
    for name in inputs:
        if name not in names:
            has = f"it takes {', '.join(names)}" if names else "it takes x alone"
            raise UserError(f"the network takes no input {name!r}{nearest(name, names)} ({has}).")
    for name in names:
        if name not in inputs:
            raise UserError(f"the network takes {name} at each step, and it is missing: step(x, {name}=...).")
    found = []
    for given, value in zip(declared, [x, *(inputs[name] for name in names)], strict=True):
        array = np.asarray(value, None if isinstance(value, np.ndarray) else dtype)
        if given.width == 1 and array.shape == steps:
            array = array[..., None]
        if array.shape != (*steps, given.width) or array.dtype != dtype:
            name = "x" if given is of_x else given.name
            raise UserError(f"{name} must be {dtype} {[*steps, given.width]}; got {array.dtype} {list(array.shape)}.")
        found.append(array)
    return np.concatenate(found, -1)

"""Values as the functions of this folder take them: arrays of numbers, ids of symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.errors import UserError

Array = NDArray[Any]


def as_array(values: Any, what: str, axes: str) -> Array:
    """Recorded values as an array of floating point.

    Args:
        values: a tensor or an array.
        what: what they are, for the message.
        axes: the names of the axes that are wanted, as in `"T B H"`; `B` may be left out.

    Raises:
        UserError: if the shape does not fit, there is no step, or a value is not finite.
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    wanted = axes.split()
    if array.ndim == len(wanted) - 1 and "B" in wanted:
        array = np.expand_dims(array, wanted.index("B"))
    shown = ", ".join(wanted)
    if array.ndim != len(wanted) or array.size == 0 or array.dtype.kind not in "fiub":
        given = f"{list(array.shape)}, {array.dtype}"
        if array.dtype.kind == "O" and array.ndim == 0:
            given = f"{type(values).__name__} (of a tape take a value by its name: tape['layer0.forget'])"
        raise UserError(f"{what} must be numbers [{shown}], with at least one of each; given {given}.")
    if not np.isfinite(array).all():
        raise UserError(f"{what} must be finite; {int((~np.isfinite(array)).sum())} of {array.size} are not.")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def symbols_of(given: Any, size: int, least: int = 2) -> Tensor:
    """Ids `[T, B]` of symbols from `[T, B]` or `[T]`.

    Raises:
        UserError: if they are no whole numbers below the vocabulary's size, or fewer steps than `least`.
    """
    ids = torch.as_tensor(np.asarray(given).astype(np.int64) if isinstance(given, np.ndarray) else given)
    ids = ids.unsqueeze(1) if ids.dim() == 1 else ids
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise UserError(f"ids of symbols, whole numbers [T, B], are wanted; given {list(ids.shape)}, {ids.dtype}.")
    if least == 1 and ids.numel() == 0:
        raise UserError(f"ids must have at least one step and one row, got {list(ids.shape)}.")
    if ids.shape[0] < least or ids.shape[1] < 1:
        raise UserError(f"two symbols or more are wanted, one to predict the other from; given {list(ids.shape)}.")
    if int(ids.min()) < 0 or int(ids.max()) >= size:
        raise UserError(f"an id is {int(ids.max() if ids.max() >= size else ids.min())}; there are {size} symbols.")
    return ids.long()


def inputs_of(given: Any, model: Any) -> Tensor:
    """The input of a sequence model: ids `[T, B]` from `[T, B]` or `[T]`, or numbers `[T, B, F]` also from `[T, F]`.

    Raises:
        UserError: if they don't fit the model.
    """
    if model.reads_symbols:
        return symbols_of(given, model.vocabulary_size, 1)
    like = next(model.parameters())
    numbers = torch.as_tensor(given).to(like.device, like.dtype)
    numbers = numbers.unsqueeze(1) if numbers.dim() == 2 else numbers
    if numbers.dim() != 3 or numbers.numel() == 0 or numbers.shape[2] != model.encoder.features:
        raise UserError(
            f"the input must be numbers [T, B, {model.encoder.features}] with at least one step and one row, "
            f"got {list(numbers.shape)}."
        )
    return numbers


def targets_of(given: Any, model: Any) -> Tensor:
    """The targets of a sequence model; those of a single row may lack the axis of rows."""
    like = next(model.parameters())
    targets = torch.as_tensor(np.asarray(given) if np.isscalar(given) else given).to(like.device)
    axes = len(model.head.output.target_shape) + (2 if model.per_step else 1)
    if targets.dim() == axes - 1:
        targets = targets.unsqueeze(1 if model.per_step else 0)
    return targets if targets.is_floating_point() else targets.long()

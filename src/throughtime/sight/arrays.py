"""Validate and convert inputs: arrays of numbers and token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.errors import UserError

Array = NDArray[Any]


def as_array(values: Any, what: str, axes: str) -> Array:
    """Convert recorded values to a floating-point array.

    Args:
        values: a tensor or an array.
        what: the name of the values in error messages.
        axes: the names of the expected axes, as in `"T B H"`; `B` is optional.

    Raises:
        UserError: if the shape does not fit, an axis is empty, or a value is not finite.
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    wanted = axes.split()
    if array.ndim == len(wanted) - 1 and "B" in wanted:
        array = np.expand_dims(array, wanted.index("B"))
    shown = ", ".join(wanted)
    if array.ndim != len(wanted) or array.size == 0 or array.dtype.kind not in "fiub":
        given = f"{list(array.shape)}, {array.dtype}"
        if array.dtype.kind == "O" and array.ndim == 0:
            given = f"{type(values).__name__} (to get a value from a tape, use its name: tape['layer0.forget'])"
        raise UserError(f"{what} must be numbers [{shown}], each axis non-empty; got {given}")
    if not np.isfinite(array).all():
        raise UserError(f"{what} must be finite; {int((~np.isfinite(array)).sum())} of {array.size} are not")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def token_ids_of(given: Any, size: int, least: int = 2) -> Tensor:
    """Convert token ids `[T, B]` or `[T]` to `[T, B]`.

    Raises:
        UserError: if they are not integers below the vocabulary size, or have fewer than `least` steps.
    """
    ids = torch.as_tensor(np.asarray(given).astype(np.int64) if isinstance(given, np.ndarray) else given)
    ids = ids.unsqueeze(1) if ids.dim() == 1 else ids
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise UserError(
            f"token ids must be integers of shape [T, B], got shape {list(ids.shape)} and dtype {ids.dtype}"
        )
    if least == 1 and ids.numel() == 0:
        raise UserError(f"ids must have at least one step and one sequence, got {list(ids.shape)}")
    if ids.shape[0] < least or ids.shape[1] < 1:
        raise UserError(
            "at least 2 tokens are needed, because each is predicted from the previous one; "
            f"got shape {list(ids.shape)}"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= size:
        raise UserError(
            f"token ids must be from 0 to {size - 1}, got {int(ids.max() if ids.max() >= size else ids.min())}"
        )
    return ids.long()


def inputs_of(given: Any, model: Any) -> Tensor:
    """Convert the input of a sequence model: ids to `[T, B]` from `[T, B]` or `[T]`, or numbers to `[T, B, F]`.

    Raises:
        UserError: if they don't fit the model.
    """
    if model.reads_tokens:
        return token_ids_of(given, model.vocabulary_size, 1)
    like = next(model.parameters())
    numbers = torch.as_tensor(given).to(like.device, like.dtype)
    numbers = numbers.unsqueeze(1) if numbers.dim() == 2 else numbers
    if numbers.dim() != 3 or numbers.numel() == 0 or numbers.shape[2] != model.input_size:
        raise UserError(
            f"the input must be numbers [T, B, {model.input_size}] with at least one step and one sequence, "
            f"got {list(numbers.shape)}"
        )
    return numbers


def targets_of(given: Any, model: Any) -> Tensor:
    """Convert the targets of a sequence model; a single sequence's targets may lack the batch axis."""
    like = next(model.parameters())
    targets = torch.as_tensor(np.asarray(given) if np.isscalar(given) else given).to(like.device)
    axes = len(model.head.output.target_shape) + (2 if model.per_step else 1)
    if targets.dim() == axes - 1:
        targets = targets.unsqueeze(1 if model.per_step else 0)
    return targets if targets.is_floating_point() else targets.long()

"""Separate sequences with targets, as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughtime.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of any length, each with one target or one target per step.

    Attributes:
        inputs: for each sequence, its token ids `[T]` (int64) or features `[T, F]` (float32).
        targets: one target per sequence: label ids `[N]` (int64) or values `[N, K]` (float32); or a list with one array
            per sequence of a target per step: ids `[T]` (int64) or values `[T, K]` (float32).
        weights: the weight of each sequence `[N]` (float32); None if all are 1.
        names: the name of each sequence in reports; its index by default.
        groups: the group of each sequence; a split keeps each group on one side.
        features: the names of the F features, if they have names.

    Raises:
        DataError: if there are no sequences, a sequence has no steps, or the arrays don't match.
    """

    inputs: Sequence[Array]
    targets: Array | Sequence[Array]
    weights: NDArray[np.float32] | None = None
    names: Sequence[str] = ()
    groups: Sequence[str] | None = None
    features: Sequence[str] = ()

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        keep("inputs", [_ids_or_values(x) for x in self.inputs])
        if not self.inputs:
            raise DataError("expected at least 1 sequence, got none")
        keep("names", list(self.names) or [str(k) for k in range(len(self))])
        _equal_count("names", self.names, len(self))
        self._check_alike("inputs", self.inputs)
        for name, x in zip(self.names, self.inputs, strict=True):
            if len(x) == 0:
                raise DataError(f"sequence {name} has no steps; remove it")
        if isinstance(self.targets, np.ndarray):
            keep("targets", _ids_or_values(self.targets))
            _equal_count("targets", self.targets, len(self))
            self._check_alike("targets", [self.targets])
        else:
            keep("targets", [_ids_or_values(y) for y in self.targets])
            _equal_count("targets", self.targets, len(self))
            self._check_alike("targets", self.targets)
            for name, x, y in zip(self.names, self.inputs, self.targets, strict=True):
                if len(x) != len(y):
                    raise DataError(f"sequence {name} has {len(x)} steps and {len(y)} targets; they must be equal")
        if self.weights is not None:
            keep("weights", np.asarray(self.weights, np.float32))
            _equal_count("weights", self.weights, len(self))
            if not (np.isfinite(self.weights) & (self.weights > 0)).all():
                raise DataError("weights must be finite and positive; remove sequences of weight 0")
        if self.groups is not None:
            keep("groups", list(self.groups))
            _equal_count("groups", self.groups, len(self))

    @property
    def per_step(self) -> bool:
        """Whether there is a target per step."""
        return not isinstance(self.targets, np.ndarray)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The number of steps of each sequence `[N]`."""
        return np.array([len(x) for x in self.inputs], np.int64)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: ArrayLike) -> Sequences:
        """Return the sequences at indices `[M]`, in that order."""
        rows = np.asarray(indices, np.int64)
        return Sequences(
            [self.inputs[k] for k in rows],
            self.targets[rows] if isinstance(self.targets, np.ndarray) else [self.targets[k] for k in rows],
            None if self.weights is None else self.weights[rows],
            [self.names[k] for k in rows],
            None if self.groups is None else [self.groups[k] for k in rows],
            self.features,
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all inputs, targets and weights, with their shapes and types."""
        digest = hashlib.sha256()
        targets = [self.targets] if isinstance(self.targets, np.ndarray) else self.targets
        for part in (self.inputs, targets, [] if self.weights is None else [self.weights]):
            digest.update(f"{len(part)};".encode())
            for array in part:
                digest.update(f"{array.dtype.str}{array.shape};".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _check_alike(self, kind: str, arrays: Sequence[Array]) -> None:
        """Check that arrays have the same features and that all values are finite."""
        first = arrays[0]
        for k, array in enumerate(arrays):
            name = self.names[k] if len(arrays) > 1 else "0"
            if array.shape[1:] != first.shape[1:]:
                raise DataError(
                    f"all sequences must have the same {kind} per step: {self.names[0]} has shape {list(first.shape)}, "
                    f"{name} has {list(array.shape)}"
                )
            if array.ndim == 2 and not np.isfinite(array).all():
                step, column = np.argwhere(~np.isfinite(array))[0]
                raise DataError(
                    f"{kind} must be finite, got {array[step, column]} "
                    f"{f'in sequence {name}, ' if len(arrays) > 1 else ''}in row {step}, column {column}; "
                    "fill or drop such values first"
                )


def _ids_or_values(array: ArrayLike) -> Array:
    """Convert an array to one-dimensional int64 ids or two-dimensional float32 values."""
    values = np.asarray(array)
    if values.ndim == 1 and (values.dtype.kind in "iub" or values.size == 0):
        return values.astype(np.int64, copy=False)
    if values.ndim == 2 and values.dtype.kind in "iubf":
        return values.astype(np.float32, copy=False)
    raise DataError(
        f"an array must hold ids [steps] (integers) or values [steps, features] (numbers), got shape "
        f"{list(values.shape)} of {values.dtype}"
    )


def _equal_count(kind: str, values: Sequence[Any] | Array, count: int) -> None:
    if len(values) != count:
        raise DataError(f"the number of {kind} must match the sequences, got {len(values)} for {count} sequences")

"""Standardize features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import DataError


@dataclass(frozen=True, eq=False)
class Scaler:
    """Shift and scale each feature to mean 0 and standard deviation 1.

    Attributes:
        mean: the mean of each feature `[F]` (float64).
        scale: the standard deviation of each feature `[F]` (float64), 1 for a constant feature.
        names: the names of the features, if they are columns of a table.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    names: tuple[str, ...] = ()

    @classmethod
    def fit(cls, series: Sequence[NDArray[Any]], names: Sequence[str] = ()) -> Self:
        """Fit a scaler to arrays `[T, F]`, over all their steps.

        Args:
            series: the arrays.
            names: the names of the features.

        Raises:
            DataError: if there are no steps, the arrays have different numbers of features, or a value is not finite.
        """
        arrays = [np.asarray(values, np.float64) for values in series]
        shapes = {values.shape[1:] for values in arrays}
        if len(shapes) != 1 or any(values.ndim != 2 for values in arrays):
            raise DataError(
                f"a scaler needs arrays [steps, features] with the same features, got shapes "
                f"{sorted({values.shape for values in arrays})[:5]}"
            )
        steps = sum(len(values) for values in arrays)
        if steps == 0:
            raise DataError("a scaler needs at least 1 step, got none")
        # Two passes instead of concatenating the arrays, which may fill the memory.
        mean = sum(values.sum(0) for values in arrays) / steps
        if not np.isfinite(mean).all():
            columns = np.flatnonzero(~np.isfinite(mean)).tolist()
            raise DataError(f"features must be finite: NaN or infinity in columns {columns}; fill or drop these steps")
        variance = sum(((values - mean) ** 2).sum(0) for values in arrays) / steps
        scale = np.sqrt(variance)
        # The mean of equal values is rounded, so a constant feature may have a deviation of about 1e-16 of its value.
        constant = scale <= 1e-14 * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, scale), tuple(names))

    def encode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Standardize values `[..., F]`."""
        result: NDArray[np.float32] = ((np.asarray(values, np.float64) - self.mean) / self.scale).astype(np.float32)
        return result

    def decode(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Convert standardized values `[..., F]` back to the features' original scale."""
        result: NDArray[np.float64] = np.asarray(values, np.float64) * self.scale + self.mean
        return result

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data without loss of precision (see `of_data`)."""
        names = {"names": list(self.names)} if self.names else {}
        return {"kind": "scaler", "mean": self.mean.tolist(), "scale": self.scale.tolist(), **names}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        try:
            mean, scale = (np.array(data[name], np.float64) for name in ("mean", "scale"))
            sound = mean.ndim == 1 and mean.shape == scale.shape and np.isfinite(mean).all()
            sound = sound and bool((scale > 0).all()) and np.isfinite(scale).all()
            names = tuple(data.get("names", ()))
            named = len(names) in (0, len(mean)) and all(isinstance(name, str) for name in names)
        except (KeyError, TypeError, ValueError):
            sound = named = False
        if not (sound and named):
            raise DataError(f"damaged scaler: expected lists 'mean' and 'scale' of equal length, got {data!r:.200}")
        return cls(mean, scale, names)

"""Encode labels as ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughtime.errors import DataError, nearest

_SHOWN = 20  # the maximum number of labels to list in a message


@dataclass(frozen=True)
class Labels:
    """The labels of a data set; the id of a label is its index.

    Attributes:
        names: the labels.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or not all(isinstance(name, str) and name for name in self.names):
            raise DataError(f"labels must be one or more non-empty strings, got {list(self.names)!r}")
        if len(set(self.names)) < len(self.names):
            raise DataError(f"labels must be distinct, got {list(self.names)!r}")

    @classmethod
    def of(cls, values: Iterable[str]) -> Self:
        """Return the distinct labels among the values, sorted."""
        return cls(tuple(sorted(set(values))))

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, values: Sequence[str], source: str = "") -> NDArray[np.int64]:
        """Return the ids of labels, `[len(values)]`.

        Args:
            values: the labels.
            source: what the labels are, for messages, such as "the file's name".

        Raises:
            DataError: if a label is unknown.
        """
        ids = {name: k for k, name in enumerate(self.names)}
        unknown = sorted(set(values) - ids.keys())
        if unknown:
            shown = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
            known = ", ".join(map(repr, self.names[:_SHOWN]))
            more = f" and {len(self) - _SHOWN} more" if len(self) > _SHOWN else ""
            taken = source and f" ({source})"
            raise DataError(
                f"unknown label{'s' if len(unknown) > 1 else ''} {shown}{taken}; the known labels are {known}{more}"
                f"{nearest(unknown[0], self.names) if len(unknown) == 1 else ''}. Correct or remove them, or train on "
                "data that have them"
            )
        return np.array([ids[value] for value in values], np.int64)

    def decode(self, ids: ArrayLike) -> list[str]:
        """Return the labels of ids `[N]`."""
        return [self.names[k] for k in np.asarray(ids, np.int64)]

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return {"kind": "labels", "names": list(self.names)}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        names = data.get("names") if isinstance(data, Mapping) else None
        if not isinstance(names, list):
            raise DataError(f"damaged labels: expected a list of names, got {data!r:.200}")
        return cls(tuple(names))

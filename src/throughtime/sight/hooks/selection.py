"""Select steps or units."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

from throughtime.errors import UserError

Chosen = slice | Iterable[int] | None


class Selection:
    """A selection of steps or of units.

    Args:
        what: "steps" or "units".
        chosen: a slice, or integers, of which negative ones count from the end; all if None.

    Raises:
        UserError: if `chosen` is neither a slice nor integers, or contains a number twice.
    """

    def __init__(self, what: str, chosen: Chosen) -> None:
        self.what = what
        self._slice = chosen if isinstance(chosen, slice) else None
        self._list: list[int] | None = None
        if chosen is not None and self._slice is None:
            self._list = self._numbers(chosen)

    @property
    def all(self) -> bool:
        """Whether the selection covers everything."""
        return self._slice is None and self._list is None

    def __str__(self) -> str:
        if self._slice is None:
            return str(self._list)
        parts = (self._slice.start, self._slice.stop, self._slice.step)
        return f"slice({', '.join(map(str, parts))})"

    def of(self, size: int, whose: str) -> Sequence[int] | None:
        """Return the selected indices in the given order; None for all.

        Args:
            size: the number of elements to choose from.
            whose: the name of the value, for error messages.

        Raises:
            UserError: if an index is out of range, or the selection is empty.
        """
        if self.all:
            return None
        if self._slice is not None:
            found: Sequence[int] = range(size)[self._slice]
        else:
            assert self._list is not None
            outside = [n for n in self._list if not -size <= n < size]
            if outside:
                raise UserError(
                    f"{self.what} {', '.join(map(str, outside[:5]))} of {whose} out of range: must be 0 to {size - 1}"
                )
            found = [n % size for n in self._list]
            if len(set(found)) < len(found):
                raise UserError(f"{self.what} {self} selects an element of {whose} (size {size}) twice")
        if not found:
            raise UserError(f"{self.what} {self} selects none of the {size} elements of {whose}")
        return found

    def _numbers(self, chosen: Any) -> list[int]:
        given = chosen.tolist() if hasattr(chosen, "tolist") else chosen
        wrong = UserError(f"{self.what} must be a slice or a list of integers, got {chosen!r}")
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):
            raise wrong
        try:
            given = list(given)
            numbers = [operator.index(n) for n in given]
        except TypeError:
            raise wrong from None
        if any(isinstance(n, bool) for n in given):
            raise wrong
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{self.what} must be distinct, got {numbers}")
        return numbers

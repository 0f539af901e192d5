"""Which steps and which units are meant."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

from throughtime.errors import UserError

Chosen = slice | Iterable[int] | None


class Selection:
    """Some of the steps, or some of the units.

    Args:
        what: "steps" or "units".
        chosen: a slice, or whole numbers, which may count from the end; all if None.

    Raises:
        UserError: if it is neither, or a number is there twice.
    """

    def __init__(self, what: str, chosen: Chosen) -> None:
        self.what = what
        self._slice = chosen if isinstance(chosen, slice) else None
        self._list: list[int] | None = None
        if chosen is not None and self._slice is None:
            self._list = self._numbers(chosen)

    @property
    def all(self) -> bool:
        """Whether nothing is left out."""
        return self._slice is None and self._list is None

    def __str__(self) -> str:
        if self._slice is None:
            return str(self._list)
        parts = (self._slice.start, self._slice.stop, self._slice.step)
        return f"slice({', '.join(map(str, parts))})"

    def of(self, size: int, whose: str) -> Sequence[int] | None:
        """The numbers that are meant among `size` of them, in the order given; None for all.

        Args:
            size: how many there are.
            whose: what has them, for the message.

        Raises:
            UserError: if one is not among them, or none is.
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
                    f"{self.what} {', '.join(map(str, outside[:5]))} of {whose}: it has {size}, from 0 to {size - 1}."
                )
            found = [n % size for n in self._list]
            if len(set(found)) < len(found):
                raise UserError(f"{self.what} {self} of {whose}, which has {size}: one is meant twice.")
        if not found:
            raise UserError(f"{self.what} {self} leaves none of the {size} of {whose}.")
        return found

    def _numbers(self, chosen: Any) -> list[int]:
        given = chosen.tolist() if hasattr(chosen, "tolist") else chosen
        wrong = UserError(f"{self.what} are a slice or a list of whole numbers; given {chosen!r}.")
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
            raise UserError(f"{self.what} {numbers}: one is there twice.")
        return numbers

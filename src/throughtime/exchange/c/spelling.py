"""Names and numbers as C spells them."""

from __future__ import annotations

import re

import numpy as np

from throughtime.program.core import Program


def identifier(text: str) -> str:
    """Replace everything that C does not allow in a name; the result may start with a digit or be empty."""
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_")


def prefix_of(stem: str) -> str:
    """The prefix of a file's public names, from the file's name: `net` of `net.c`."""
    found = identifier(stem)
    return found if found[:1].isalpha() else f"net_{found}".rstrip("_")


class Names:
    """Hand out names that differ from each other.

    Args:
        taken: names that are already in use.
    """

    def __init__(self, *taken: str) -> None:
        self._taken = set(taken)

    def new(self, start: str, text: str = "") -> str:
        """Return a new name.

        Args:
            start: a C name to begin with.
            text: any text to go on with.
        """
        wanted = name = f"{start}_{identifier(text)}".rstrip("_")
        number = 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def number(value: float) -> str:
    """A float32 as a constant: the shortest decimals that read as the same float."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if np.isinf(single):
        return "HUGE_VALF" if single > 0 else "(-HUGE_VALF)"
    return f"{single}f" if not np.signbit(single) else f"({single}f)"


def labels(program: Program) -> dict[int, str]:
    """A readable local name for each value of a program that has a name."""
    return {id: f"v{id}_{identifier(name)}".rstrip("_") for name, id in reversed(program.names)}

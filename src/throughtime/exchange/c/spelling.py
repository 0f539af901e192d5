"""Format names and numbers for C."""

from __future__ import annotations

import re

import numpy as np

from throughtime.program.core import Program


def identifier(text: str) -> str:
    """Replace characters that C doesn't allow in a name; the result may start with a digit or be empty."""
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_")


def prefix_of(stem: str) -> str:
    """Return the prefix of a file's public names: `net` for `net.c`."""
    found = identifier(stem)
    return found if found[:1].isalpha() else f"net_{found}".rstrip("_")


class Names:
    """A generator of unique C names.

    Args:
        taken: the names that are already in use.
    """

    def __init__(self, *taken: str) -> None:
        self._taken = set(taken)

    def new(self, start: str, text: str = "") -> str:
        """Return a new name.

        Args:
            start: a C name to start with.
            text: any text to append.
        """
        wanted = name = f"{start}_{identifier(text)}".rstrip("_")
        number = 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def number(value: float) -> str:
    """Format a float32 constant with the fewest digits that read back as the same value."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if np.isinf(single):
        return "HUGE_VALF" if single > 0 else "(-HUGE_VALF)"
    return f"{single}f" if not np.signbit(single) else f"({single}f)"


def string(text: str) -> str:
    """Format a C string literal.

    Characters other than plain ASCII become octal escapes of their UTF-8 bytes, because a compiler may assume another
    encoding. So do question marks, because C99 reads `??/` as a backslash.
    """
    plain = set(range(32, 127)) - set(b'"\\?')
    encoded = text.encode(errors="replace")
    return '"' + "".join(chr(byte) if byte in plain else rf"\{byte:03o}" for byte in encoded) + '"'


def labels(program: Program) -> dict[int, str]:
    """Return a readable local name for each named value of a program."""
    return {id: f"v{id}_{identifier(name)}".rstrip("_") for name, id in reversed(program.names)}

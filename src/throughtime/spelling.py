"""Option names in messages: `hidden_size` in Python, `--hidden` on the command line."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

SHORT_FORMS = {"data": "DATA", "cell_options": "--set", "hidden_size": "--hidden", "num_layers": "--layers"}
"""The short forms that messages on the command line use instead of some options' long names."""

_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


def flag(name: str) -> str:
    """Return an option's long name on the command line: `--vocab-size` for `vocab_size`."""
    return f"--{name.replace('_', '-')}"


def option(name: str) -> str:
    """Return an option's name as the user writes it."""
    return SHORT_FORMS.get(name, flag(name)) if _on_command_line.get() else name


def setting(name: str, value: object) -> str:
    """Return an option with a value as the user writes it: `clip=1` or `--clip 1`."""
    return f"{option(name)}{' ' if _on_command_line.get() else '='}{value}"


def command(arguments: str) -> str:
    """Return a throughtime command line that the user can run as is.

    On the command line it starts with the path of the running program, unless the shell finds `throughtime` itself.
    """
    program = "throughtime"
    if _on_command_line.get():
        started = Path(sys.argv[0])
        if started.parts[-2:] == (program, "__main__.py"):
            program = f"{shlex.quote(sys.executable)} -m throughtime"
        elif started.name == program:
            found = shutil.which(program)
            if found is None or os.path.realpath(found) != os.path.realpath(started):
                program = shlex.quote(str(started))
    return f"{program} {arguments}"


@contextmanager
def command_line() -> Iterator[None]:
    """Within the context, spell options as on the command line."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def counted(number: float, noun: str) -> str:
    """Return a whole number with its noun in the singular or plural, such as "1 step" or "2,000 losses"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,.0f} {noun}{ending}"


def figure(value: float) -> str:
    """Format a metric with four decimals, or with three significant digits if it is very small or very large."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 1e6 or not value else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Format a duration in suitable units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"

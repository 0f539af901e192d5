"""Report errors to the user as one message. Bugs keep their traceback."""

from __future__ import annotations

import os

import typer

from throughtime.errors import Interrupted, UserError, nearest
from throughtime.files import DISK_FULL
from throughtime.packages import installing

REFUSED, WRONG, INTERRUPTED = 1, 2, 130

_OPTIONAL = ("torch", "lightning", "pydantic", "rich", "tokenizers", "jinja2", "plotly")


def explained(error: Exception) -> tuple[str, int] | None:
    """Return the message and exit code for a user or system error; None for a bug."""
    match error:
        case Interrupted():
            return str(error), INTERRUPTED
        case UserError():
            return str(error), WRONG
        case typer.TyperException():
            return _usage(error), WRONG
        case OSError(errno=int() as number):
            return _refused(error, number), REFUSED
        case ModuleNotFoundError(name=str() as name) if name.split(".")[0] in _OPTIONAL:
            return f"this command needs {name.split('.')[0]}, {installing('train')}", WRONG
    return None


def tell(message: str, code: int = WRONG) -> None:
    """Write an error message to standard error; a run that the user interrupted is not labeled as an error."""
    if code == INTERRUPTED:
        typer.echo(message[:1].upper() + message[1:], err=True)
        return
    # typer honors NO_COLOR where it formats help, but not for text that is already styled.
    colored = not os.environ.get("NO_COLOR")
    label = typer.style("error:", fg="red", bold=True) if colored else "error:"
    typer.echo(f"{label} {message}", err=True)


def _usage(error: typer.TyperException) -> str:
    message = error.format_message()
    possible = getattr(error, "possibilities", None)
    if possible:
        option = str(getattr(error, "option_name", ""))
        message = f"no such option: {option}{nearest(option, possible)}"
    context = getattr(error, "ctx", None)
    hint = f"\nRun `{context.command_path} --help` for usage." if context else ""
    return message[:1].lower() + message[1:] + hint


def _refused(error: OSError, number: int) -> str:
    where = f": {error.filename}" if error.filename else ""
    if number in DISK_FULL:
        return f"disk full{where}. Free some space or choose another location. Completed files are unchanged"
    return f"{(error.strerror or str(error)).lower()}{where}"

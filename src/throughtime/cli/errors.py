"""What went wrong, as one message to the user; a mistake of the program itself keeps its traceback."""

from __future__ import annotations

import os

import typer

from throughtime.errors import Interrupted, UserError, nearest
from throughtime.files import DISK_FULL

REFUSED, WRONG, INTERRUPTED = 1, 2, 130

_OPTIONAL = ("torch", "lightning", "pydantic", "rich", "tokenizers", "jinja2", "plotly")


def explained(error: Exception) -> tuple[str, int] | None:
    """The message and the exit code for an error; None if it is not one of the user's or the machine's."""
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
            return f"this command needs {name.split('.')[0]}: pip install 'throughtime[train]'", WRONG
    return None


def tell(message: str) -> None:
    """Writes an error message to standard error."""
    # NO_COLOR is typer's affair where it formats help, but not where it strips what others have coloured.
    coloured = not os.environ.get("NO_COLOR")
    label = typer.style("error:", fg="red", bold=True) if coloured else "error:"
    typer.echo(f"{label} {message}", err=True)


def _usage(error: typer.TyperException) -> str:
    message = error.format_message()
    possible = getattr(error, "possibilities", None)
    if possible:
        option = str(getattr(error, "option_name", ""))
        message = f"there is no option {option}{nearest(option, possible)}"
    context = getattr(error, "ctx", None)
    hint = f"\n`{context.command_path} --help` shows what there is." if context else ""
    return message[:1].lower() + message[1:] + hint


def _refused(error: OSError, number: int) -> str:
    where = f": {error.filename}" if error.filename else ""
    if number in DISK_FULL:
        return f"the disk is full{where}. Make room there, or choose another place. No complete file has changed."
    return f"{(error.strerror or str(error)).lower()}{where}"

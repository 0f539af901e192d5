"""Errors that a user can fix. The command line prints their message without a traceback."""

import difflib
from collections.abc import Iterable

_SHORT = 2  # a name of this many characters or fewer is a prefix of too many others to suggest one


class UserError(ValueError):
    """Base class of errors that the user can fix. The message says what was wrong, what is allowed, and what to do."""


class CellError(UserError):
    """Raised for a mistake in a cell's equations."""


class ProgramError(UserError):
    """Raised for a program that is illegal or can't be read."""


class DataError(UserError):
    """Raised for data, such as a text or a table, that can't be read or don't suit the task."""


class RunError(UserError):
    """Raised for a run directory that is missing, incomplete, damaged, or from another version."""


class ModelError(UserError):
    """Raised for a model file that is missing, damaged, from another version, or of another kind."""


class VersionError(ProgramError, RunError, ModelError):
    """Raised for a program, a run or a model file whose format this version doesn't support."""


class TrainingError(UserError):
    """Raised when training can't start or continue."""


class Interrupted(TrainingError):
    """Raised when training was stopped by Ctrl-C or a signal; it can be resumed."""


def nearest(name: str, names: Iterable[str], count: int = 1) -> str:
    """Return a suggestion of similar names, to append to a message about an unknown name.

    Args:
        name: the name that the user wrote.
        names: the valid names; `name` itself is never suggested.
        count: the maximum number of suggestions.

    Returns:
        `" (did you mean X?)"` or `" (did you mean X, Y or Z?)"` for the most similar names, or `""` if none is similar.
    """
    others = [other for other in names if other != name]
    begun = sorted((other for other in others if other.startswith(name)), key=len) if len(name) > _SHORT else []
    if begun and count == 1:
        return f" (did you mean {begun[0]}?)"
    found = difflib.get_close_matches(name, others, count, cutoff=0.6 if count == 1 else 0.3)
    if not found:
        return ""
    *first, last = found
    return f" (did you mean {' or '.join(filter(None, [', '.join(first), last]))}?)"

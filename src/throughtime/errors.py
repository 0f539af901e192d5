"""What a user did wrong, said so that it can be put right. The command line prints the message alone."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake. The message says what was wrong, what is allowed and what to do."""


class CellError(UserError):
    """A mistake in a cell's equations."""


class ProgramError(UserError):
    """A program that is not legal, or not one that can be read."""


class DataError(UserError):
    """A text, a sound or a table that can't be read or doesn't fit."""


class RunError(UserError):
    """A run directory that is missing, half written, damaged or of another version."""


class ModelError(UserError):
    """A file with a model that is missing, damaged, of another version, or of another kind."""


class TrainingError(UserError):
    """Training that can't begin or can't go on."""


class Interrupted(TrainingError):
    """Training that was asked to stop, by Ctrl-C or a signal, and can go on later."""


def nearest(name: str, names: Iterable[str], count: int = 1) -> str:
    """The end of a message about an unknown name.

    Args:
        name: what the user wrote.
        names: what it could have been; `name` itself is never suggested.
        count: how many names to suggest at most.

    Returns:
        `", did you mean X?"` or `", did you mean X, Y or Z?"` for the most similar names, or `""` when none is similar.
    """
    others = [other for other in names if other != name]
    found = difflib.get_close_matches(name, others, count, cutoff=0.6 if count == 1 else 0.3)
    if not found:
        return ""
    *first, last = found
    return f", did you mean {' or '.join(filter(None, [', '.join(first), last]))}?"

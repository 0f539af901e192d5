"""Check whether optional packages are installed, and say how to install them."""

from __future__ import annotations

from importlib.util import find_spec

from throughtime.errors import UserError


def installing(extra: str) -> str:
    """Return the instructions to install an extra of throughtime, to append to a message that names a package of it."""
    return f"from the extra `{extra}`: run pip install '.[{extra}]' in a checkout of throughtime"


def require(package: str, extra: str | None = None, purpose: str = "this") -> None:
    """Raise an error if a package is not installed.

    Args:
        package: the package's name.
        extra: the extra of throughtime that installs it; the package's name if None.
        purpose: the feature that needs it, as the subject of the message, such as "reading MIDI files".

    Raises:
        UserError: if it is missing; the message names the extra.
    """
    if find_spec(package) is None:
        raise UserError(f"{purpose} needs {package}, {installing(extra or package)}")

"""Check whether optional packages are installed."""

from __future__ import annotations

from importlib.util import find_spec

from throughtime.errors import UserError


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
        raise UserError(f"{purpose} needs {package}: pip install 'throughtime[{extra or package}]'")

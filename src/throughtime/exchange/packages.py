"""Packages that only exchange needs, and that may be absent."""

from __future__ import annotations

from importlib.util import find_spec

from throughtime.errors import UserError


def require(package: str, extra: str | None = None) -> None:
    """Says which extra to install where a package is missing.

    Args:
        package: its name.
        extra: the extra of throughtime that has it; of the same name if not given.

    Raises:
        UserError: if it is missing.
    """
    if find_spec(package) is None:
        raise UserError(f"this needs the package {package}: pip install 'throughtime[{extra or package}]'")

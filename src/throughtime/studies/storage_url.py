"""Check the URL of a search's storage, before torch and optuna are loaded."""

from __future__ import annotations

import re

from throughtime.errors import UserError
from throughtime.spelling import setting

JOURNAL = "journal:"
"""The prefix of a journal file's URL."""


def require_url(storage: str | None) -> None:
    """Check the form of a storage's URL.

    Args:
        storage: a journal file or a database; None for the search's own file.

    Raises:
        UserError: if it has another form.
    """
    if storage is not None and not re.fullmatch(rf"{JOURNAL}.+|[a-z][a-z0-9+]*://.+", storage):
        raise UserError(
            f"{setting('storage', storage)}: expected postgresql://HOST/NAME, sqlite:///FILE or {JOURNAL}FILE"
        )

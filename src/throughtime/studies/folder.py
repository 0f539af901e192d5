"""Choose the directory of a study."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from throughtime.errors import UserError
from throughtime.paths import display_path
from throughtime.spelling import option
from throughtime.training.config import TrainConfig


def folder_of(out: Any, config: TrainConfig, study: tuple[str, str], known: Sequence[str]) -> Path:
    """Return the directory of a study, which may hold an earlier part of it.

    Args:
        out: the directory that the user chose; named after the time, the study and the data if None.
        config: the study's options.
        study: the study's name in the directory's name, and in a message.
        known: the names of files and directories of which a directory of such a study has at least one.

    Raises:
        UserError: if the directory holds something else.
    """
    name, kind = study
    if out is not None:
        folder = Path(out)
        foreign = not folder.is_dir() or (any(folder.iterdir()) and not any((folder / each).exists() for each in known))
        if folder.exists() and foreign:
            raise UserError(
                f"{display_path(folder)} already exists and is not a {kind}; choose another directory with "
                f"{option('out')}"
            )
        return folder
    first = config.task.data[0] if config.task.data else config.task.task
    data = re.sub(r"[^\w.-]+", "-", Path(first).stem).strip("-.") or config.task.task
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}-{data}"

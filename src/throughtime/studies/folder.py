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
    """Return the directory of a study, which may contain earlier results of it.

    Args:
        out: the directory that the user chose; if None, one named after the time, the study and the data.
        config: the study's options.
        study: the study's name for the name of the directory, and for error messages.
        known: names of files and directories; a directory of such a study contains at least one of them.

    Raises:
        UserError: if the directory has other contents.
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

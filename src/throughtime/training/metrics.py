"""Write metrics.csv: rows of metrics at intervals, truncated when a run is resumed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughtime.files import replacing

COLUMNS = ("step", "epoch", "time", "lr", "train_loss", "grad_norm", "valid_loss")
"""The columns common to all tasks; a task's other metrics follow, such as valid_accuracy."""


class MetricsFile:
    """Append rows to metrics.csv.

    Args:
        path: the path of the file.
        step: the step to resume from; rows of later steps are removed because they will be written again.
        metrics: the names of the task's metrics.
    """

    def __init__(self, path: Path, step: int, metrics: Sequence[str] = ()) -> None:
        self._columns = (*COLUMNS, *(f"valid_{name}" for name in metrics))
        rows = [row for row in _whole_rows(path) if int(row.split(",", 1)[0]) <= step]
        with replacing(path) as file:
            file.write("".join([",".join(self._columns) + "\n", *rows]).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; it may be lost if the process is killed before the next `sync`."""
        self._file.write(",".join("" if row.get(c) is None else f"{row[c]:.8g}" for c in self._columns) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Flush all rows to disk, before a checkpoint relies on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_rows(path: Path) -> list[str]:
    """Return the complete rows of the file, each with its line end; a truncated last row is dropped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[1:]
    return [line for line in lines if line.endswith("\n") and line.split(",", 1)[0].isdecimal()]

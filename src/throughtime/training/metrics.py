"""metrics.csv: a row of figures every so many steps, cut back when a run is resumed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughtime.files import replacing

COLUMNS = ("step", "epoch", "time", "lr", "train_loss", "grad_norm", "valid_loss")
"""The columns of every task; a task's other metrics follow, as valid_accuracy does."""


class MetricsFile:
    """Appends rows to metrics.csv.

    Args:
        path: the file.
        step: the step that the run goes on from: rows of later steps, which will be written again, are cut off.
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
        """Make sure that all rows are on the disk, before a checkpoint says that they are."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_rows(path: Path) -> list[str]:
    """The rows of the file but the last if it was cut short, each with its line end."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[1:]
    return [line for line in lines if line.endswith("\n") and line.split(",", 1)[0].isdecimal()]

"""Knob settings of a device, which a network reads as constant inputs along with the sound. Requires only NumPy."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from throughtime.data.waveform import Waveform
from throughtime.errors import DataError, UserError, nearest
from throughtime.paths import display_path
from throughtime.spelling import option

Knobs = Mapping[str, Sequence[float]]
"""The settings by knob name: one value per pair of sounds, or one for all pairs."""

TABLE = "knobs.csv"
"""The table in a directory with dry and wet sounds; it has a column `file` and one column per knob."""


@dataclass(frozen=True)
class DeviceInput(Waveform):
    """The input of a device: samples of a sound, and the settings of its knobs.

    Attributes:
        knobs: the names of the knobs, in the order of the network's inputs after the samples.
    """

    knobs: tuple[str, ...] = ()

    def settings(self, given: Mapping[str, float] | None) -> NDArray[np.float32]:
        """Return the settings `[knobs]` in the order of the network's inputs.

        Raises:
            UserError: if a knob is missing or unknown, or a setting is not from 0 to 1.
        """
        given = given or {}
        for name in given:
            if name not in self.knobs:
                known = f"its knobs are {', '.join(self.knobs)}" if self.knobs else "it has none"
                raise UserError(f"the network has no knob named {name!r} ({known}){nearest(name, self.knobs)}")
        if lacking := [name for name in self.knobs if name not in given]:
            raise UserError(
                f"the network has knobs; {option('knob')} must set {', '.join(lacking)}, from 0 to 1, such as "
                f"{lacking[0]}=0.5"
            )
        values = [given[name] for name in self.knobs]
        for name, value in zip(self.knobs, values, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"knob {name} must be from 0 to 1, got {value!r:.100}")
        return np.array(values, np.float32)

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return {**super().to_data(), "kind": "device_input", "knobs": list(self.knobs)}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        knobs = data.get("knobs")
        if not isinstance(knobs, list) or not all(isinstance(name, str) for name in knobs):
            raise DataError(f"damaged knob names: expected a list of names, got {knobs!r:.200}")
        return cls(data.get("rate", 0), data.get("channels", 0), tuple(knobs))


def read_table(folder: Path, files: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Read the knob settings of each pair from a directory's table; empty if there is no table.

    Args:
        folder: the directory.
        files: the file names of the pairs, in order.

    Raises:
        DataError: if a pair has no row, or a setting is not a number from 0 to 1.
    """
    path = folder / TABLE
    if not path.is_file():
        return {}
    shown = display_path(path)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        names = [name for name in reader.fieldnames or () if name != "file"]
        if len(names) != len(reader.fieldnames or ()) - 1 or not names:
            raise DataError(f"{shown} must have a column named file and one column per knob")
        rows = {row["file"]: row for row in reader}
    found: dict[str, list[float]] = {name: [] for name in names}
    for file_name in files:
        if file_name not in rows:
            raise DataError(f"{shown} has no row for {file_name}")
        for name in names:
            try:
                value = float(rows[file_name][name])
            except (TypeError, ValueError):
                value = float("nan")
            if not 0 <= value <= 1:
                raise DataError(f"{shown}: {name} of {file_name} must be a number from 0 to 1")
            found[name].append(value)
    return {name: tuple(values) for name, values in found.items()}


def settings_by_pair(knobs: Knobs, pairs: int, where: str) -> list[dict[str, float]]:
    """Return the settings of each pair.

    Args:
        knobs: the settings.
        pairs: the number of pairs.
        where: a description of the pairs for messages.

    Raises:
        DataError: if a knob has neither one setting nor one per pair.
    """
    for name, values in knobs.items():
        if len(values) not in (1, pairs):
            each = f", or one for each of the {pairs} pairs" if pairs > 1 else " for one pair"
            raise DataError(f"{option('knob')} {name} must have one value{each} of {where}, got {len(values)}")
    return [{name: values[k % len(values)] for name, values in knobs.items()} for k in range(pairs)]

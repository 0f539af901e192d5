"""Read piano rolls (which of a piano's 88 keys sound at each step) from MATLAB, NumPy and MIDI files."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughtime.data.midi import KEYS, read_midi, write_midi
from throughtime.data.splits import split
from throughtime.errors import DataError
from throughtime.packages import require
from throughtime.paths import display_path, files_in, joint_name, missing

__all__ = ["MIDI_FILES", "Pieces", "Roll", "Rolls", "read_pieces", "read_rolls", "write_midi"]

Roll = NDArray[np.uint8]

MIDI_FILES = (".mid", ".midi")
"""The extensions of MIDI files."""

_PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
_SOURCES = (
    ".mat or .npz with arrays named traindata, validdata and testdata, .npz with one array per piece, .mid, or a "
    "directory of .mid files"
)
_AS_NPZ = "np.savez(path, **{f'train_{k}': roll for k, roll in enumerate(rolls)})"


@dataclass(frozen=True)
class Rolls:
    """Pieces as piano rolls in three parts. Each roll is `[T, 88]` of 0s and 1s; column 0 is A0, MIDI note 21.

    Attributes:
        name: the name of the data in reports.
        train: the pieces of the training part.
        valid: the pieces of the validation part.
        test: the pieces of the test part.
        notes: remarks on the data for the user, one sentence each.
    """

    name: str
    train: list[Roll]
    valid: list[Roll]
    test: list[Roll]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pieces:
    """Pieces as piano rolls, grouped by the part of a split.

    Attributes:
        name: the name of the data in reports.
        parts: the rolls of "train", "valid" and "test"; all are in "" if the data have no split.
        names: the name of each piece in reports.
        notes: remarks on the data for the user, one sentence each.
    """

    name: str
    parts: dict[str, list[Roll]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, part: str, name: str, roll: Roll) -> None:
        """Add a piece to a part."""
        self.parts.setdefault(part, []).append(roll)
        self.names.setdefault(part, []).append(name)

    def part(self, name: str | None) -> tuple[list[Roll], list[str]]:
        """Return the rolls and names of a part, or those of all pieces for None or the name of a missing part."""
        if name is not None and name in self.parts:
            return self.parts[name], self.names[name]
        return [roll for rolls in self.parts.values() for roll in rolls], [x for xs in self.names.values() for x in xs]


def read_rolls(
    paths: str | Path | Sequence[str | Path],
    *,
    step: float = 0.25,
    seed: int = 0,
    share: float = 0.1,
    valid: str | Path | None = None,
    test: str | Path | None = None,
) -> Rolls:
    """Read piano rolls to train on.

    Args:
        paths: see `read_pieces`.
        step: the length of a step of MIDI files in beats.
        seed: the seed of the random split, if the data have no split.
        share: the fraction of pieces for each of validation and test (at least one), if the data have no split.
        valid: other data to validate on: their validation part, or all pieces if they have no split.
        test: other data to test on, in the same way.

    Raises:
        DataError: if a file is missing, damaged or unsupported, or there are too few pieces for a split.
        UserError: if the package that reads a file is not installed.
    """
    pieces = read_pieces(paths, step=step)
    name, notes = pieces.name, list(pieces.notes)
    parts = dict(pieces.parts)
    for part, path in (("valid", valid), ("test", test)):
        if path is not None:
            other = read_pieces(path, step=step)
            parts[part] = other.part(part)[0]
            notes += other.notes
    if pieces.parts.keys() == {""}:
        parts |= _with_missing_parts(name, parts.pop(""), [x for x in ("test", "valid") if x not in parts], seed, share)
    lacking = [part for part in ("train", "valid", "test") if not parts.get(part)]
    if lacking or "" in parts:
        has = ", ".join(part or "pieces outside a part" for part, rolls in pieces.parts.items() if rolls)
        raise DataError(
            f"{name} must have pieces in all of train, valid and test, or in none; it has {has or 'no pieces'}"
        )
    return Rolls(name, parts["train"], parts["valid"], parts["test"], notes)


def read_pieces(paths: str | Path | Sequence[str | Path], *, step: float = 0.25) -> Pieces:
    """Read piano rolls.

    Args:
        paths: one or more of: a .mat or .npz file with the arrays traindata, validdata and testdata (lists of pieces,
            as in JSB_Chorales.mat; in .npz also train_0, train_1 and so on); an .npz file with one array per piece; a
            MIDI file; or a directory of MIDI files, optionally in subdirectories train, valid and test.
        step: the length of a step of MIDI files in beats.

    Raises:
        DataError: if a file is missing, damaged or unsupported.
        UserError: if the package that reads it is not installed.
    """
    files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    if not files:
        raise DataError(f"no data given; expected {_SOURCES}")
    found = Pieces(joint_name(files))
    for path in files:
        name = display_path(path)
        kind = path.suffix.lower()
        if not path.exists():
            raise DataError(missing(path))
        if path.is_dir() or kind in MIDI_FILES:
            _add_midi(found, path, step)
        elif kind == ".mat":
            _add_arrays(found, name, _mat(path))
        elif kind == ".npz":
            _add_arrays(found, name, _npz(path))
        else:
            raise DataError(f"{name} has an unsupported type ({kind or 'no extension'}); expected {_SOURCES}")
    return found


def _with_missing_parts(
    name: str, rolls: list[Roll], wanted: Sequence[str], seed: int, share: float
) -> dict[str, list[Roll]]:
    """Split pieces into a training part and the missing parts."""
    if len(rolls) <= len(wanted):
        verbs = ["train", *("validate" if part == "valid" else part for part in wanted[::-1])]
        purposes = f"{', '.join(verbs[:-1])} and {verbs[-1]}"
        raise DataError(
            f"{name} has {len(rolls)} piece{'' if len(rolls) == 1 else 's'}; at least {len(wanted) + 1} are needed, "
            f"one each to {purposes}"
        )
    if not 0 < share < 0.5:
        raise DataError(f"the fraction for validation and test must be between 0 and 0.5, got {share}")
    rest = np.arange(len(rolls))
    parts = {}
    for part in wanted:
        train, held, _ = split(range(len(rest)), None, share * len(rolls) / len(rest), seed)
        parts[part], rest = [rolls[k] for k in rest[held]], rest[train]
    return {**parts, "train": [rolls[k] for k in rest]}


def _add_midi(found: Pieces, path: Path, step: float) -> None:
    files = files_in(path, MIDI_FILES) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{display_path(path)} has no .mid files; expected {_SOURCES}")
    outside = 0
    for file in files:
        inside = file.relative_to(path) if file != path else Path(file.name)
        first = inside.parts[0].lower() if len(inside.parts) > 1 else ""
        roll, left = read_midi(file, step=step)
        found.add(_PARTS.get(first, ""), display_path(inside), roll)
        outside += left
    if outside:
        what = "1 note" if outside == 1 else f"{outside} notes"
        found.notes.append(f"Dropped {what} outside a piano's range (MIDI 21 to 108).")


def _mat(path: Path) -> dict[str, Any]:
    require("scipy", "notes", "reading .mat files")
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path)
    except NotImplementedError:
        raise DataError(f"{display_path(path)} uses MATLAB's format 7.3; save it with '-v7'") from None
    except Exception as error:  # loadmat raises many kinds of errors for damaged files
        raise DataError(f"{display_path(path)} is not a readable .mat file: {error}") from None
    return {key: value for key, value in content.items() if not key.startswith("__")}


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle can run code
            return {key: file[key] for key in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        if "pickle" in str(error).lower() and zipfile.is_zipfile(path):
            raise DataError(
                f"{display_path(path)} contains Python objects, which are not loaded because they can run code. "
                f"Save one array per piece instead: {_AS_NPZ}"
            ) from None
        raise DataError(f"{display_path(path)} is not a readable .npz file: {error}") from None


def _add_arrays(found: Pieces, name: str, arrays: Mapping[str, Any]) -> None:
    if not arrays:
        raise DataError(f"{name} has no pieces; expected {_SOURCES}")
    for key in sorted(arrays, key=lambda key: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", key)]):
        part = re.match(r"(train|valid|test)", key)
        array = np.asarray(arrays[key])
        single = array.ndim == 2 and array.dtype != object
        items: Iterable[Any] = [array] if single else array if array.ndim == 3 else array.ravel()
        for k, item in enumerate(items):
            roll = _roll(item, f"{name}, {key}, piece {k}")
            found.add(part[1] if part else "", key if single else f"{key} {k}", roll)


def _roll(values: ArrayLike, place: str) -> Roll:
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] != KEYS or array.dtype.kind not in "buif":
        raise DataError(
            f"{place}: expected an array [steps, {KEYS}] of 0s and 1s, got {list(array.shape)} {array.dtype}"
        )
    if len(array) == 0:
        raise DataError(f"{place} has no steps; remove it")
    if not np.isin(array, (0, 1)).all():
        wrong = array[~np.isin(array, (0, 1))][0]
        raise DataError(f"{place}: a piano roll must contain only 0 and 1, got {wrong}; save `roll > 0`, for example")
    return array.astype(np.uint8)

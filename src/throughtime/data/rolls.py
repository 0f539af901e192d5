"""Piano rolls: which of a piano's 88 keys sound at each step, from MATLAB, NumPy and MIDI files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughtime.data.midi import KEYS, read_midi, write_midi
from throughtime.data.splits import split
from throughtime.errors import DataError
from throughtime.packages import require
from throughtime.paths import display_path, missing

__all__ = ["Roll", "Rolls", "read_rolls", "write_midi"]

Roll = NDArray[np.uint8]

_MIDI = (".mid", ".midi")
_PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
_SOURCES = (
    ".mat or .npz with arrays named traindata, validdata and testdata, .npz with one array per piece, .mid, or a "
    "directory of .mid files"
)
_AS_NPZ = "np.savez(path, **{f'train_{k}': roll for k, roll in enumerate(rolls)})"


@dataclass(frozen=True)
class Rolls:
    """Pieces as piano rolls, in three parts. Each is `[T, 88]` of 0 and 1; column 0 is A0, MIDI key 21.

    Attributes:
        name: what to call the data in a report.
        train: the pieces of the training part.
        valid: those of the validation part.
        test: those of the test part.
        notes: what the user should know of the reading, one sentence each.
    """

    name: str
    train: list[Roll]
    valid: list[Roll]
    test: list[Roll]
    notes: list[str] = field(default_factory=list)


def read_rolls(path: str | Path, *, step: float = 0.25, seed: int = 0, share: float = 0.1) -> Rolls:
    """Read piano rolls.

    Args:
        path: a .mat or .npz file with the arrays traindata, validdata and testdata (lists of pieces, as in
            JSB_Chorales.mat; in .npz also train_0, train_1 and so on); a .npz file with one array per piece; a MIDI
            file; or a directory of MIDI files, which may be in subdirectories train, valid and test.
        step: the length of a step in beats, for MIDI files.
        seed: of the split, where the file has none of its own.
        share: of the pieces for each of validation and test, where the file has no split of its own; at least one.

    Raises:
        DataError: the file is missing, of another kind or damaged, or has too few pieces for a split.
        UserError: the package that reads it is not installed.
    """
    path = Path(path)
    name = display_path(path)
    kind = path.suffix.lower()
    notes: list[str] = []
    if not path.exists():
        raise DataError(missing(path, "file or directory"))
    if path.is_dir() or kind in _MIDI:
        pieces = _from_midi(path, step, notes)
    elif kind == ".mat":
        pieces = _from_arrays(name, _mat(path))
    elif kind == ".npz":
        pieces = _from_arrays(name, _npz(path))
    else:
        raise DataError(f"{name} is of an unsupported kind ({kind or 'no extension'}): expected {_SOURCES}.")
    if pieces.keys() == {""}:
        return Rolls(name, *_shared_out(name, pieces[""], seed, share), notes)
    lacking = [part for part in ("train", "valid", "test") if not pieces.get(part)]
    if lacking or "" in pieces:
        has = ", ".join(part or "pieces outside a part" for part, rolls in pieces.items() if rolls)
        raise DataError(
            f"{name} must have pieces in all of train, valid and test, or in none; it has {has or 'no pieces'}."
        )
    return Rolls(name, pieces["train"], pieces["valid"], pieces["test"], notes)


def _shared_out(name: str, rolls: list[Roll], seed: int, share: float) -> tuple[list[Roll], list[Roll], list[Roll]]:
    if len(rolls) < 3:
        raise DataError(
            f"{name} has {len(rolls)} piece{'' if len(rolls) == 1 else 's'}: 3 or more are needed, one each to train, "
            "validate and test."
        )
    if not 0 < share < 0.5:
        raise DataError(f"the share of validation and test must be between 0 and 0.5, got {share}.")
    rest, test, _ = split(range(len(rolls)), None, share, seed)
    train, valid, _ = split(range(len(rest)), None, share * len(rolls) / len(rest), seed)
    return [rolls[rest[k]] for k in train], [rolls[rest[k]] for k in valid], [rolls[k] for k in test]


def _from_midi(path: Path, step: float, notes: list[str]) -> dict[str, list[Roll]]:
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _MIDI and file.is_file())
    if not files:
        raise DataError(f"{display_path(path)} has no .mid files: expected {_SOURCES}.")
    pieces: dict[str, list[Roll]] = {}
    outside = 0
    for file in files:
        first = file.relative_to(path).parts[0].lower() if file.parent != path and file != path else ""
        roll, left = read_midi(file, step=step)
        pieces.setdefault(_PARTS.get(first, ""), []).append(roll)
        outside += left
    if outside:
        what = "1 note" if outside == 1 else f"{outside} notes"
        notes.append(f"Left out {what} outside a piano's keys (MIDI 21 to 108).")
    return pieces


def _mat(path: Path) -> dict[str, Any]:
    require("scipy", "notes", "reading .mat files")
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path)
    except NotImplementedError:
        raise DataError(f"{display_path(path)} is of MATLAB's version 7.3: save it with '-v7'.") from None
    except Exception as error:  # the reader of damaged files raises errors of many kinds
        raise DataError(f"{display_path(path)} is not a readable .mat file: {error}") from None
    return {key: value for key, value in content.items() if not key.startswith("__")}


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle can run code
            return {key: file[key] for key in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        if "pickle" in str(error).lower() and zipfile.is_zipfile(path):
            raise DataError(
                f"{display_path(path)} holds Python objects, which are not read because they can run code. "
                f"Save one array per piece instead: {_AS_NPZ}"
            ) from None
        raise DataError(f"{display_path(path)} is not a readable .npz file: {error}") from None


def _from_arrays(name: str, arrays: Mapping[str, Any]) -> dict[str, list[Roll]]:
    pieces: dict[str, list[Roll]] = {}
    for key in sorted(arrays, key=lambda key: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", key)]):
        part = re.match(r"(train|valid|test)", key)
        array = np.asarray(arrays[key])
        items: Iterable[Any] = [array] if array.ndim == 2 and array.dtype != object else array.ravel()
        if array.ndim == 3:
            items = array
        for k, item in enumerate(items):
            pieces.setdefault(part[1] if part else "", []).append(_roll(item, f"{name}, {key}, piece {k}"))
    if not pieces:
        raise DataError(f"{name} has no pieces: expected {_SOURCES}.")
    return pieces


def _roll(values: ArrayLike, place: str) -> Roll:
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] != KEYS or array.dtype.kind not in "buif":
        raise DataError(
            f"{place}: expected an array [steps, {KEYS}] of 0 and 1, got {list(array.shape)} {array.dtype}."
        )
    if len(array) == 0:
        raise DataError(f"{place} has no steps: leave it out.")
    if not np.isin(array, (0, 1)).all():
        wrong = array[~np.isin(array, (0, 1))][0]
        raise DataError(f"{place}: a piano roll holds 0 and 1, got {wrong}; write `roll > 0`, say, to the file.")
    return array.astype(np.uint8)

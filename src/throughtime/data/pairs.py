"""What goes into a device and what comes out of it, sample by sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data import cache
from throughtime.data.knobs import DeviceInput, Knobs, read_table, settings_by_pair
from throughtime.data.sound import SOUND_FILES, Recording
from throughtime.data.waveform import Samples, Waveform
from throughtime.errors import DataError
from throughtime.paths import display_path, missing
from throughtime.spelling import option

LATENCY = 0.1  # seconds, the most that is aligned
MARGIN = 2  # samples by which less is aligned: a network can wait for its input, but can't look ahead
_WHITENING = 1e-3  # of the mean power: frequencies with less say little about the latency
_SEARCHED = 1.0  # seconds of latency that are looked for, to say how far off a pair is
_COMPARED = 60  # seconds of a pair that are compared
_DIFFERENCE = 1.0  # seconds by which the lengths of a pair may differ
_RELATED = 0.1  # the least correlation of a pair that belongs together
_MOST_NOTES = 4  # on pairs
_FORMAT = 1  # of what the cache keeps; a change of what is written needs a new number

Progress = Callable[[str, int, int], None]


class Alignment(NamedTuple):
    """How a wet signal relates to a dry one.

    Attributes:
        latency: by how many samples the wet signal is late.
        correlation: of the aligned signals, -1 to 1.
    """

    latency: int
    correlation: float


class Pair(NamedTuple):
    """The files of a pair.

    Attributes:
        dry: what went into a device.
        wet: what came out.
        knobs: the settings of the device's knobs.
    """

    dry: Recording
    wet: Recording
    knobs: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Dry and wet signals.

    Attributes:
        name: what to call them in a report.
        signals: for each pair an array `[n, 2]`, dry and wet, in a file that is read as needed.
        rate: samples per second.
        digest: tells the samples and the settings.
        knobs: the settings of each pair's knobs, `[pairs, knobs]`.
        notes: what the user should know of the reading, one sentence each.
    """

    name: str
    signals: Sequence[Samples]
    rate: int
    digest: str
    knobs: Samples
    notes: Sequence[str] = ()

    @property
    def samples(self) -> int:
        """How many samples all pairs have."""
        return sum(map(len, self.signals))


def find_pairs(paths: Sequence[str | Path], knobs: Knobs | None = None) -> list[Pair]:
    """Open the files of pairs.

    Args:
        paths: dry and wet files by turns; a directory of dry and one of wet files with matching names; or one directory
            that holds `dry` and `wet`, files or directories, and where the device has knobs a table of their settings
            (see `throughtime.data.knobs.TABLE`).
        knobs: the settings of the device's knobs; those of the table if not given.

    Raises:
        DataError: a file is missing, has no partner, or can't be read; or settings don't fit the pairs.
    """
    given = [Path(path) for path in paths]
    folder = given[0] if len(given) == 1 and given[0].is_dir() else None
    if folder is not None:
        given = [side for name in ("dry", "wet") for side in sorted(folder.glob(f"{name}*")) if _is_side(side, name)]
        if len(given) != 2:
            raise DataError(f"{display_path(folder)} must have a file or directory called dry and one called wet")
    files = _files(given)
    settings = knobs or (read_table(folder, [dry.name for dry, _ in files]) if folder else {})
    each = settings_by_pair(settings, len(files), display_path(paths[0]))
    return [Pair(Recording.open(dry), Recording.open(wet), own) for (dry, wet), own in zip(files, each, strict=True)]


def _files(given: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The files of pairs, from paths of files or of two directories."""
    if len(given) % 2 or not given:
        raise DataError(f"a pair is two files or two directories, dry and wet; got {len(given)} paths")
    for path in given:
        if not path.exists():
            raise DataError(missing(path, "file or directory"))
    sides = list(zip(given[::2], given[1::2], strict=True))
    for dry, wet in sides:
        if dry.is_dir() != wet.is_dir():
            raise DataError(f"{display_path(dry)} and {display_path(wet)} must both be files or both directories")
    if not any(dry.is_dir() for dry, _ in sides):
        return sides
    if len(sides) > 1:
        raise DataError(f"pairs are files, dry and wet by turns, or two directories; got {len(given)} paths")
    dry, wet = sides[0]
    names = [{f.name for f in side.iterdir() if f.suffix.lower() in SOUND_FILES} for side in (dry, wet)]
    if alone := sorted(names[0] ^ names[1]):
        side, other = (dry, wet) if alone[0] in names[0] else (wet, dry)
        raise DataError(f"{display_path(side / alone[0])} has no partner in {display_path(other)}")
    if not names[0]:
        raise DataError(f"{display_path(dry)} has no sound files ({', '.join(SOUND_FILES)})")
    return [(dry / name, wet / name) for name in sorted(names[0])]


def read_pairs(
    pairs: Sequence[Pair],
    name: str,
    device: DeviceInput,
    *,
    align: bool = True,
    progress: Progress | None = None,
) -> Pairs:
    """Read pairs, resample and align them, or find the result in the cache.

    Args:
        pairs: their files (see `find_pairs`).
        name: what to call them in a report.
        device: the rate of the samples, in mono, and the names of the knobs.
        align: whether to move each wet signal by its latency, of up to 100 ms.
        progress: told how much has been read.

    Raises:
        DataError: a file can't be read, or a pair differs in rate or length, is silent, or does not belong together.
        UserError: the settings of a pair are not those of the device's knobs.
    """
    found, notes, digest = [], [], hashlib.sha256()
    settings = np.stack([device.settings(pair.knobs) for pair in pairs])
    for number, (dry, wet, _) in enumerate(pairs, 1):
        signal, key, note = _read_pair(dry, wet, Waveform(device.rate), align)
        found.append(signal)
        notes += [note] if note else []
        digest.update(key.encode())
        if progress:
            progress("reading pairs", number, len(pairs))
    if device.knobs:
        digest.update(settings.tobytes())
    if len(notes) > _MOST_NOTES:
        notes = [*notes[:_MOST_NOTES], f"The other {len(notes) - _MOST_NOTES} pairs were aligned likewise."]
    return Pairs(name, found, device.rate, digest.hexdigest(), settings, notes)


def _read_pair(dry: Recording, wet: Recording, waveform: Waveform, align: bool) -> tuple[Samples, str, str]:
    """The signals `[n, 2]`, their key, and a note on their alignment."""
    if dry.rate != wet.rate:
        raise DataError(
            f"{dry.name} has {dry.rate} samples per second, and {wet.name} {wet.rate}: record or convert both at one "
            "rate"
        )
    if abs(dry.seconds - wet.seconds) > _DIFFERENCE:
        raise DataError(
            f"{dry.name} is {dry.seconds:.2f} s long, and {wet.name} {wet.seconds:.2f} s: they must not differ by more "
            f"than {_DIFFERENCE:g} s; cut them to what belongs together"
        )
    identity = [_FORMAT, waveform.to_data(), align and MARGIN, dry.digest, wet.digest]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40]
    directory, dtype = cache.cache_directory(), np.dtype(np.float32)
    kept = cache.load_ids(directory, key, dtype)
    if kept is not None:
        flat, counts = kept
    else:
        found = _aligned(dry, wet, waveform) if align else Alignment(0, 0.0)
        counts = {"latency": found.latency, "correlation": round(found.correlation * 1000)}
        flat = cache.store_ids(directory, key, dtype, _joined(dry, wet, waveform, _moved(found.latency)), counts)
    note = ""
    if align:
        latency = counts["latency"]
        moved = f"; it was moved by {_moved(latency)}" if _moved(latency) else ""
        late = f"{latency} sample{'' if latency == 1 else 's'} ({1000 * latency / waveform.rate:.1f} ms)"
        note = (
            f"{wet.name} is late by {late}{moved}. Its correlation with {dry.name} is "
            f"{counts['correlation'] / 1000:.2f}."
        )
    signal: Any = flat.reshape(-1, 2)
    return signal, key, note


def _aligned(dry: Recording, wet: Recording, waveform: Waveform) -> Alignment:
    """How a pair is aligned.

    Raises:
        DataError: a side is silent, or nothing suggests that they belong together.
    """
    starts = [_start(side, waveform, _COMPARED * waveform.rate) for side in (dry, wet)]
    for side, start in zip((dry, wet), starts, strict=True):
        if not start.any():
            raise DataError(f"{side.name} is silent: {option('align')} off trains all the same")
    found = alignment(starts[0], starts[1], round(_SEARCHED * waveform.rate))
    latency = f"{1000 * found.latency / waveform.rate:.0f} ms"
    off = f"{option('align')} off trains on them as they are"
    if abs(found.correlation) < _RELATED:
        raise DataError(
            f"{dry.name} and {wet.name} don't seem to belong together: their correlation is {found.correlation:.3f} at "
            f"best; {off}"
        )
    if abs(found.latency) > LATENCY * waveform.rate:
        raise DataError(
            f"{wet.name} is {latency} late, beyond the {1000 * LATENCY:.0f} ms that are aligned (correlation "
            f"{found.correlation:.2f}): cut it; {off}"
        )
    return found


def alignment(dry: NDArray[np.floating], wet: NDArray[np.floating], most: int) -> Alignment:
    """Return by how much a wet signal is late, of either sign.

    It is where the impulse response that explains most of the wet signal peaks. The correlation itself peaks later, by
    the time that the device's filters take for low frequencies.

    Args:
        dry: the one signal `[n]`.
        wet: the other one `[m]`.
        most: the largest latency, in either direction.
    """
    dry, wet = (np.asarray(x, np.float64) - np.mean(x, dtype=np.float64) for x in (dry, wet))
    size = 1 << (max(len(dry), len(wet)) + most).bit_length()
    source = np.fft.rfft(dry, size)
    power = np.abs(source) ** 2
    crossed = np.conj(source) * np.fft.rfft(wet, size)
    lags = np.arange(-most, most + 1)
    response = np.fft.irfft(crossed / (power + _WHITENING * power.mean() + 1e-30), size)[lags]
    products = np.fft.irfft(crossed, size)[lags]
    best = int(np.abs(response).argmax())
    if abs(products[best]) < 0.5 * np.abs(products).max():  # tones have no clear response
        best = int(np.abs(products).argmax())
    energy = float(np.sqrt((dry**2).sum() * (wet**2).sum()))
    return Alignment(int(lags[best]), float(products[best] / energy) if energy else 0.0)


def _moved(latency: int) -> int:
    """By how many samples a wet signal is moved."""
    return 0 if abs(latency) <= MARGIN else latency - MARGIN


def _start(recording: Recording, waveform: Waveform, count: int) -> NDArray[np.float32]:
    found, have = [], 0
    for block in recording.blocks(waveform):
        found.append(block[:, 0])
        have += len(block)
        if have >= count:
            break
    return np.concatenate(found)[:count]


def _joined(dry: Recording, wet: Recording, waveform: Waveform, latency: int) -> Iterator[Any]:
    """The samples of both by turns, without those of the one that is late before its partner begins."""
    sides = [_after(dry.blocks(waveform), max(0, -latency)), _after(wet.blocks(waveform), max(0, latency))]
    left = [np.zeros(0, np.float32)] * 2
    whole = 0
    while True:
        for k in (0, 1):
            if len(left[k]) == 0:
                block = next(sides[k], None)
                if block is None:
                    if whole == 0:
                        raise DataError(f"{dry.name} and {wet.name} are too short to be aligned")
                    return
                left[k] = block
        count = min(map(len, left))
        yield np.stack([side[:count] for side in left], 1).reshape(-1)
        whole += count
        left = [side[count:] for side in left]


def _after(blocks: Iterator[Samples], skipped: int) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        rest = block[skipped:, 0]
        skipped = max(0, skipped - len(block))
        if len(rest):
            yield rest


def _is_side(path: Path, name: str) -> bool:
    return (path.is_dir() and path.name == name) or (path.stem == name and path.suffix.lower() in SOUND_FILES)

"""Recordings of a device's input and output, aligned sample by sample."""

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
from throughtime.spelling import counted, option

LATENCY = 0.1  # the maximum latency to align, in seconds
MARGIN = 2  # samples of latency left in place: a network can delay its output, but can't look ahead
_WHITENING = 1e-3  # relative to the mean power; weaker frequencies carry little information about the latency
_SEARCHED = 1.0  # seconds of latency to search, so that messages can report a latency that is too large to align
_COMPARED = 60  # seconds of a pair to compare
_DIFFERENCE = 1.0  # the maximum difference in length within a pair, in seconds
_RELATED = 0.1  # the minimum correlation of a matching pair
_MAX_NOTES = 4  # the maximum number of notes on pairs to show
_FORMAT = 1  # the version of cache entries; increment it when their content changes

Progress = Callable[[str, int, int], None]


class Alignment(NamedTuple):
    """The alignment of a wet signal with a dry one.

    Attributes:
        latency: the delay of the wet signal in samples.
        correlation: the correlation of the aligned signals, from -1 to 1.
    """

    latency: int
    correlation: float


class Pair(NamedTuple):
    """A dry and a wet recording.

    Attributes:
        dry: the input of the device.
        wet: the output of the device.
        knobs: the knob settings of the device.
    """

    dry: Recording
    wet: Recording
    knobs: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Dry and wet signals.

    Attributes:
        name: the name of the pairs in reports.
        signals: one array `[n, 2]` per pair, dry and wet, memory-mapped.
        rate: the sampling rate in Hz.
        digest: a hash of the samples and the settings.
        knobs: the knob settings of each pair, `[pairs, knobs]`.
        notes: remarks on the data for the user, one sentence each.
    """

    name: str
    signals: Sequence[Samples]
    rate: int
    digest: str
    knobs: Samples
    notes: Sequence[str] = ()

    @property
    def samples(self) -> int:
        """The total number of samples."""
        return sum(map(len, self.signals))


def find_pairs(paths: Sequence[str | Path], knobs: Knobs | None = None) -> list[Pair]:
    """Find and open the recordings of pairs.

    Args:
        paths: alternating dry and wet files; a directory of dry and one of wet files with matching names; or a single
            directory that contains `dry` and `wet`, as files or directories, and optionally a table of knob settings
            (see `throughtime.data.knobs.TABLE`).
        knobs: the knob settings of the device; read from the table if None.

    Raises:
        DataError: if a file is missing, has no partner or can't be read, or the settings don't match the pairs.
    """
    given = [Path(path) for path in paths]
    folder = given[0] if len(given) == 1 and given[0].is_dir() else None
    if folder is not None:
        given = [side for name in ("dry", "wet") for side in sorted(folder.glob(f"{name}*")) if _is_side(side, name)]
        if len(given) != 2:
            raise DataError(f"{display_path(folder)} must have a file or directory named dry and one named wet")
    files = _files(given)
    settings = knobs or (read_table(folder, [dry.name for dry, _ in files]) if folder else {})
    each = settings_by_pair(settings, len(files), display_path(paths[0]))
    return [Pair(Recording.open(dry), Recording.open(wet), own) for (dry, wet), own in zip(files, each, strict=True)]


def _files(given: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return the dry and wet files of pairs, given their paths or those of two directories."""
    if len(given) % 2 or not given:
        raise DataError(f"pairs need two files or two directories each, dry and wet; got {counted(len(given), 'path')}")
    for path in given:
        if not path.exists():
            raise DataError(missing(path))
    sides = list(zip(given[::2], given[1::2], strict=True))
    for dry, wet in sides:
        if dry.is_dir() != wet.is_dir():
            raise DataError(f"{display_path(dry)} and {display_path(wet)} must both be files or both directories")
    if not any(dry.is_dir() for dry, _ in sides):
        return sides
    if len(sides) > 1:
        raise DataError(
            f"pairs are alternating dry and wet files, or two directories; got {counted(len(given), 'path')}"
        )
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
    """Read, resample and align pairs, using the cache if possible.

    Args:
        pairs: the files (see `find_pairs`).
        name: the name of the pairs in reports.
        device: the sampling rate, in mono, and the names of the knobs.
        align: whether to remove the latency of each wet signal, up to 100 ms.
        progress: called with the number of pairs read.

    Raises:
        DataError: if a file can't be read, or the sides of a pair differ in rate or length, are silent or unrelated.
        UserError: if the settings of a pair don't match the device's knobs.
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
    if len(notes) > _MAX_NOTES:
        notes = [*notes[:_MAX_NOTES], f"The other {len(notes) - _MAX_NOTES} pairs were aligned in the same way."]
    return Pairs(name, found, device.rate, digest.hexdigest(), settings, notes)


def _read_pair(dry: Recording, wet: Recording, waveform: Waveform, align: bool) -> tuple[Samples, str, str]:
    """Return the signals `[n, 2]`, their cache key, and a note on their alignment."""
    if dry.rate != wet.rate:
        raise DataError(
            f"{dry.name} has {dry.rate} samples per second, but {wet.name} has {wet.rate}; record or convert both at "
            "the same rate"
        )
    if abs(dry.seconds - wet.seconds) > _DIFFERENCE:
        raise DataError(
            f"{dry.name} is {dry.seconds:.2f} s long, but {wet.name} is {wet.seconds:.2f} s; they must not differ by "
            f"more than {_DIFFERENCE:g} s. Cut them to the same content"
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
        flat = cache.store_ids(directory, key, dtype, _joined(dry, wet, waveform, _shift(found.latency)), counts)
    note = ""
    if align:
        latency = counts["latency"]
        moved = f"; shifted by {_shift(latency)} to compensate, as predictions will be" if _shift(latency) else ""
        late = f"{latency} sample{'' if latency == 1 else 's'} ({1000 * latency / waveform.rate:.1f} ms)"
        aligned = f"is late by {late}{moved}" if latency else "is aligned with the dry sound"
        note = f"{wet.name} {aligned}. Its correlation with {dry.name} is {counts['correlation'] / 1000:.2f}."
    signal: Any = flat.reshape(-1, 2)
    return signal, key, note


def _aligned(dry: Recording, wet: Recording, waveform: Waveform) -> Alignment:
    """Align a pair.

    Raises:
        DataError: if a side is silent, or the two seem unrelated.
    """
    starts = [_start(side, waveform, _COMPARED * waveform.rate) for side in (dry, wet)]
    for side, start in zip((dry, wet), starts, strict=True):
        if not start.any():
            raise DataError(f"{side.name} is silent; {option('align')} off trains on it anyway")
    found = alignment(starts[0], starts[1], round(_SEARCHED * waveform.rate))
    latency = f"{1000 * found.latency / waveform.rate:.0f} ms"
    off = f"{option('align')} off trains on them as they are"
    if abs(found.correlation) < _RELATED:
        raise DataError(
            f"{dry.name} and {wet.name} seem unrelated: their correlation is at most {found.correlation:.3f}; {off}"
        )
    if abs(found.latency) > LATENCY * waveform.rate:
        raise DataError(
            f"{wet.name} is {latency} late, beyond the maximum of {1000 * LATENCY:.0f} ms (correlation "
            f"{found.correlation:.2f}). Cut it; {off}"
        )
    return found


def alignment(dry: NDArray[np.floating], wet: NDArray[np.floating], max_latency: int) -> Alignment:
    """Estimate the latency of a wet signal, which may be negative.

    The latency is at the peak of the impulse response that explains most of the wet signal. The correlation itself
    peaks later because the device's filters delay low frequencies.

    Args:
        dry: the dry signal `[n]`.
        wet: the wet signal `[m]`.
        max_latency: the maximum latency in either direction, in samples.
    """
    dry, wet = (np.asarray(x, np.float64) - np.mean(x, dtype=np.float64) for x in (dry, wet))
    size = 1 << (max(len(dry), len(wet)) + max_latency).bit_length()
    source = np.fft.rfft(dry, size)
    power = np.abs(source) ** 2
    crossed = np.conj(source) * np.fft.rfft(wet, size)
    lags = np.arange(-max_latency, max_latency + 1)
    response = np.fft.irfft(crossed / (power + _WHITENING * power.mean() + 1e-30), size)[lags]
    products = np.fft.irfft(crossed, size)[lags]
    best = int(np.abs(response).argmax())
    if abs(products[best]) < 0.5 * np.abs(products).max():  # pure tones have no clear impulse response
        best = int(np.abs(products).argmax())
    energy = float(np.sqrt((dry**2).sum() * (wet**2).sum()))
    return Alignment(int(lags[best]), float(products[best] / energy) if energy else 0.0)


def _shift(latency: int) -> int:
    """Return the number of samples to shift a wet signal by."""
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
    """Yield interleaved dry and wet samples, skipping the start of the delayed side."""
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

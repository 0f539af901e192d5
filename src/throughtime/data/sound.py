"""Read sound files block by block, so that memory use doesn't depend on their length."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from throughtime.data.limits import MAX_RATE
from throughtime.data.waveform import Samples, Waveform
from throughtime.errors import DataError, UserError
from throughtime.files import replacing, require_directory_of
from throughtime.packages import require
from throughtime.paths import display_path, files_in, missing
from throughtime.spelling import counted, option

if TYPE_CHECKING:
    from types import ModuleType

SOUND_FILES = (".wav", ".flac", ".ogg")
"""The extensions of sound files."""

BLOCK = 1 << 16
"""The number of samples per channel to read at a time."""

Progress = Callable[[str, int, int], None]

_log = logging.getLogger("throughtime")


@dataclass(frozen=True)
class Recording:
    """A sound file.

    Attributes:
        path: the path of the file.
        name: the name of the file in reports.
        rate: the sampling rate in Hz.
        channels: the number of channels.
        frames: the number of samples per channel.
    """

    path: Path
    name: str
    rate: int
    channels: int
    frames: int

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> Recording:
        """Read a file's header.

        Raises:
            DataError: if the file is missing, empty, damaged, truncated, or not a sound file.
            UserError: if soundfile is not installed.
        """
        path = Path(path)
        name = display_path(path) if name is None else name
        if not path.is_file():
            raise DataError(missing(path) if not path.exists() else f"{name} is not a file")
        with _reading(name) as soundfile:
            found = soundfile.info(str(path), verbose=True)
        if found.frames < 1:
            raise DataError(f"{name} has no samples; remove it")
        # libsndfile reads a truncated WAV file as if it were complete, and reports the difference only in its log.
        if found.format == "WAV" and re.search(r"^data : \d+ \(should be \d+\)", found.extra_info, re.M):
            raise DataError(f"{name} is truncated: it is shorter than its header says; copy or export it again")
        if found.samplerate > MAX_RATE:
            raise DataError(f"{name} has {found.samplerate} samples per second; at most {MAX_RATE} can be read")
        return cls(path, name, found.samplerate, found.channels, found.frames)

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.frames / self.rate

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def blocks(self, waveform: Waveform, *, mix: bool = False, size: int = BLOCK) -> Iterator[Samples]:
        """Read the samples block by block, resampling if necessary.

        Args:
            waveform: the sampling rate and the number of channels to read.
            mix: whether to average the channels if mono is requested and the file has more.
            size: the number of samples per block before resampling.

        Yields:
            Arrays `[n, channels]` in [-1, 1]; values of floating-point files may be outside.

        Raises:
            DataError: if the channels don't match, a sample is not finite, or the file is damaged or truncated.
            UserError: if soundfile or soxr is not installed.
        """
        if self.channels != waveform.channels and not (mix and waveform.channels == 1):
            few = "1 channel" if self.channels == 1 else f"{self.channels} channels"
            wanted = "mono" if waveform.channels == 1 else "stereo"
            raise DataError(f"{self.name} has {few}, but {wanted} is expected; convert it first")
        resample = _resampler(self.rate, waveform)
        read = 0
        with _reading(self.name) as soundfile, soundfile.SoundFile(str(self.path)) as file:
            while read < self.frames:
                block = file.read(size, dtype="float32", always_2d=True)
                read += len(block)
                if len(block) == 0:
                    raise DataError(
                        f"{self.name} is damaged: only {read:,} of {self.frames:,} samples can be read; copy or export "
                        "it again"
                    )
                if not np.isfinite(block).all():
                    place = (read - len(block) + int(np.argwhere(~np.isfinite(block))[0][0])) / self.rate
                    raise DataError(f"{self.name} has a non-finite sample at {place:.3f} s; export it again")
                if block.shape[1] != waveform.channels:
                    block = block.mean(1, keepdims=True, dtype=np.float32)
                found = resample(block, read >= self.frames)
                if len(found):
                    yield found

    def samples(self, waveform: Waveform, *, mix: bool = False) -> Samples:
        """Return all samples `[n, channels]`; see `blocks`."""
        found = [np.zeros((0, waveform.channels), np.float32), *self.blocks(waveform, mix=mix)]
        return np.concatenate(found)


def find_recordings(paths: str | Path | Sequence[str | Path]) -> list[Recording]:
    """Open sound files, and all sound files in directories and their subdirectories, sorted by name.

    Raises:
        DataError: if a file is missing or can't be read, or a directory has no sound files.
    """
    found = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            files = files_in(path, SOUND_FILES)
            if not files:
                raise DataError(f"{display_path(path)} has no sound files ({', '.join(SOUND_FILES)})")
            found += [Recording.open(file, display_path(file.relative_to(path))) for file in files]
        else:
            found.append(Recording.open(path))
    if not found:
        raise DataError(f"no data given; expected sound files ({', '.join(SOUND_FILES)}), or directories of them")
    return found


_COMMON = {"rate": ("samples per second", "resamples them"), "channels": ("channels", "mono averages them")}


def common(recordings: Sequence[Recording], what: Literal["rate", "channels"]) -> int:
    """Return the sampling rate or the number of channels that all recordings share.

    Raises:
        DataError: if they differ.
    """
    first, (words, advice) = recordings[0], _COMMON[what]
    for other in recordings:
        if getattr(other, what) != getattr(first, what):
            raise DataError(
                f"the {words} differ: {first.name} has {getattr(first, what)}, {other.name} has "
                f"{getattr(other, what)}; {option(what)} {advice}"
            )
    found: int = getattr(first, what)
    return found


def warn_of_resampling(recordings: Sequence[Recording], rate: int) -> None:
    """Log a warning if recordings must be resampled to the sampling rate that a network was trained at."""
    rates = [recording.rate for recording in recordings if recording.rate != rate]
    if rates:
        _log.warning(
            "%s of %s resampled from %s to %s samples per second, the rate in training",
            f"{len(rates):,}", f"{counted(len(recordings), 'recording')} {'is' if len(rates) == 1 else 'are'}",
            " and ".join(f"{each:,}" for each in sorted(set(rates))), f"{rate:,}",
        )  # fmt: skip


def seconds_in_words(samples: float, rate: int) -> str:
    """Return the duration of samples, in milliseconds if it is short."""
    seconds = samples / rate
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def are_sounds(paths: Sequence[str | Path]) -> bool:
    """Return whether all paths are sound files or directories that directly contain sound files."""

    def is_sound(path: Path) -> bool:
        inside = list(path.iterdir()) if path.is_dir() else [path]
        return any(file.suffix.lower() in SOUND_FILES for file in inside)

    return bool(paths) and all(is_sound(Path(path)) for path in paths)


@contextmanager
def sound_writer(path: Path, waveform: Waveform) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Open a sound file for writing; it is created only when writing completes.

    Yields:
        A function that writes samples `[n, channels]`, clipped to [-1, 1].

    Raises:
        UserError: if the path doesn't have the extension of a sound file, or soundfile is not installed.
    """
    kinds = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
    if path.suffix.lower() not in kinds:
        raise UserError(f"{display_path(path)} is not a supported sound file name; use {', '.join(kinds)}")
    require("soundfile", "sound", "writing sound files")
    require_directory_of(path)
    import soundfile

    format_, subtype = kinds[path.suffix.lower()]
    shape = (waveform.rate, waveform.channels, subtype)
    try:
        with replacing(path) as file, soundfile.SoundFile(file, "w", *shape, format=format_) as sound:
            yield lambda samples: sound.write(np.clip(samples, -1, 1))
    except soundfile.LibsndfileError as error:
        raise UserError(f"{display_path(path)} can't be written: {error.error_string}") from None


@contextmanager
def _reading(name: str) -> Iterator[ModuleType]:
    """Import soundfile and translate its errors into errors about a file."""
    require("soundfile", "sound", "reading sound files")
    import soundfile

    try:
        yield soundfile
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{name} can't be read as sound: {error.error_string.rstrip('.')}; expected {', '.join(SOUND_FILES)}"
        ) from None


def _resampler(rate: int, waveform: Waveform) -> Callable[[Samples, bool], Samples]:
    """Return a function that resamples one block at a time; its second argument marks the last block."""
    if rate == waveform.rate:
        return lambda block, last: block
    require("soxr", "sound", f"resampling from {rate} to {waveform.rate} samples per second")
    import soxr

    stream = soxr.ResampleStream(rate, waveform.rate, waveform.channels, dtype="float32")

    def resample(block: Samples, last: bool) -> Samples:
        found: Samples = np.asarray(stream.resample_chunk(block, last=last), np.float32)
        return found.reshape(-1, waveform.channels)

    return resample

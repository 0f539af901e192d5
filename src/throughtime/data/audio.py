"""Encode recordings as one long sequence of quantized samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from throughtime.data import cache
from throughtime.data.sound import Recording, find_recordings
from throughtime.data.vocabulary import Ids
from throughtime.data.waveform import Quantization
from throughtime.errors import DataError
from throughtime.paths import joint_name

_FORMAT = 1  # the version of cache entries; increment it when their content changes

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Audio:
    """The concatenated quantized samples of one or more recordings.

    Attributes:
        name: the name of the recordings in reports.
        ids: the level of each sample `[n]`, memory-mapped.
        digest: a hash of the samples.
        clipped: the number of samples outside [-1, 1].
        silent: the number of recordings in which all samples are equal.
    """

    name: str
    ids: Ids
    digest: str
    clipped: int
    silent: int

    def first(self, samples: int) -> Self:
        """Return the first samples; the counts remain those of all samples."""
        return replace(self, ids=self.ids[:samples])


def quantize(
    name: str,
    recordings: Sequence[Recording],
    codec: Quantization,
    *,
    mix: bool = False,
    progress: Progress | None = None,
) -> Audio:
    """Read, resample and quantize recordings, using the cache if possible.

    Args:
        name: the name of the recordings in reports.
        recordings: the recordings.
        codec: the sampling rate, channels and levels.
        mix: whether to average the channels of a stereo file if mono is expected.
        progress: called with the progress in seconds of sound.

    Raises:
        DataError: if a file can't be read or is unsuitable, or the disk is full.
    """
    identity = [_FORMAT, codec.to_data(), mix, [recording.digest for recording in recordings]]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40]
    counts = {"clipped": 0, "silent": 0}

    def arrays() -> Iterator[Ids]:
        seconds, whole = 0.0, sum(recording.seconds for recording in recordings)
        for recording in recordings:
            lowest, highest = np.inf, -np.inf
            for block in recording.blocks(codec.waveform, mix=mix):
                counts["clipped"] += int((np.abs(block) > 1).sum())
                lowest, highest = min(lowest, block.min()), max(highest, block.max())
                yield codec.encode(block)
            counts["silent"] += int(lowest == highest)
            seconds += recording.seconds
            if progress:
                progress("reading sound", round(seconds), max(1, round(whole)))

    directory = cache.cache_directory()
    kept = cache.load_ids(directory, key, codec.dtype)
    if kept is not None:
        ids, counts = kept
    else:
        ids = cache.store_ids(directory, key, codec.dtype, arrays(), counts)
    return Audio(name, ids, key, **counts)


def split_recordings(name: str, audio: Sequence[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Hold out every tenth recording for validation, or the last one if there are fewer than ten.

    Raises:
        DataError: if there is only one recording.
    """
    if len(audio) < 2:
        raise DataError(f"{name} has only one recording, which can't be split by file")
    step = min(10, len(audio))
    held = set(range(step - 1, len(audio), step))
    return [r for k, r in enumerate(audio) if k not in held], [audio[k] for k in sorted(held)]


def cut(audio: Audio, share: float, channels: int) -> tuple[Audio, Audio]:
    """Hold out the end of a recording and return both parts.

    Args:
        audio: the recording.
        share: the fraction of the samples to hold out.
        channels: the number of interleaved channels.

    Raises:
        DataError: if the recording is too short.
    """
    at = int(len(audio.ids) * (1 - share)) // channels * channels
    if at < 2 or len(audio.ids) - at < 2:
        raise DataError(f"{audio.name} has {len(audio.ids)} samples, too few to hold out a part of them")

    def part(ids: Ids, side: str) -> Audio:
        return Audio(audio.name, ids, f"{audio.digest}{side}{at}", audio.clipped, audio.silent)

    return part(audio.ids[:at], "<"), part(audio.ids[at:], ">")


def recordings_of(paths: Sequence[str | Path]) -> tuple[str, list[Recording]]:
    """Return the name of the data in reports and its recordings (see `find_recordings`)."""
    found = find_recordings(paths)
    name = joint_name(paths)
    return name, found

"""Augment recordings at random, for training on small data sets. Requires only NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.log_mel import LogMel
from throughtime.data.raw_samples import RawSamples
from throughtime.data.waveform import Samples

SoundFeatures = LogMel | RawSamples

MAX_COPIES, ENOUGH = 20, 4000  # the default maximum number of copies per recording, and of recordings including copies

_SPEED = 0.08  # the maximum relative change of speed
_SHIFT = 0.04  # the maximum number of seconds to cut from or add to each end
_LOUDNESS = 6.0  # the maximum change of loudness in decibels
_NOISE = (20.0, 50.0)  # the range of signal-to-noise ratios in decibels
_MASKED_TIME, _MASKED_BANDS = 0.1, 0.1  # the maximum fractions of frames and bands to mask
_MIN_SECONDS = 0.1  # sounds are not cut to less than this


def copies_of(recordings: int) -> int:
    """Return the default number of augmented copies per recording."""
    return min(MAX_COPIES, ENOUGH // max(1, recordings))


def copies(sounds: Sequence[Samples], features: SoundFeatures, count: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield randomly augmented copies of recordings, reproducibly.

    The augmentation changes the speed and pitch, the silence at both ends and the loudness, adds noise, and masks
    frames and bands of mel features (Park et al. 2019, arXiv:1904.08779).

    Args:
        sounds: recordings `[n, 1]`.
        features: the feature extractor.
        count: the number of copies per recording.

    Yields:
        The index of a recording, and the features `[T, size]` of a copy.
    """
    for k, sound in enumerate(sounds):
        for copy in range(count):
            draw = np.random.default_rng([k, copy])
            encoded = features.encode(_changed(sound[:, 0], features.waveform.rate, draw)[:, None])
            yield k, _masked(encoded, draw) if isinstance(features, LogMel) else encoded


def _changed(sound: NDArray[np.float32], rate: int, draw: np.random.Generator) -> NDArray[np.float32]:
    length = max(1, round(len(sound) / (1 + draw.uniform(-_SPEED, _SPEED))))
    found: NDArray[Any] = np.interp(np.linspace(0, len(sound) - 1, length), np.arange(len(sound)), sound)
    for _ in range(2):  # once for each end
        shift = round(draw.uniform(-_SHIFT, _SHIFT) * rate)
        if shift >= 0:
            found = np.pad(found, (shift, 0))
        elif len(found) + shift > _MIN_SECONDS * rate:
            found = found[-shift:]
        found = found[::-1]
    found = found * 10 ** (draw.uniform(-_LOUDNESS, _LOUDNESS) / 20)
    noise = draw.standard_normal(len(found)) * 10 ** (-draw.uniform(*_NOISE) / 20)
    noisy: NDArray[np.float32] = (found + found.std() * noise).astype(np.float32)
    return noisy


def _masked(frames: NDArray[np.float32], draw: np.random.Generator) -> NDArray[np.float32]:
    """Set random frames and bands to 0, the mean of standardized features."""
    for axis, share in enumerate((_MASKED_TIME, _MASKED_BANDS)):
        size = draw.integers(0, int(share * frames.shape[axis]) + 1)
        first = draw.integers(0, frames.shape[axis] - size + 1)
        frames[(slice(None),) * axis + (slice(first, first + size),)] = 0
    return frames

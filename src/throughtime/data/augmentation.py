"""Changed copies of recordings, so that a network learns from few of them. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.log_mel import LogMel
from throughtime.data.raw_samples import RawSamples
from throughtime.data.waveform import Samples

SoundFeatures = LogMel | RawSamples

MOST_COPIES, ENOUGH = 20, 4000  # copies of a recording, and recordings with them, unless said otherwise

_SPEED = 0.08  # by how much a copy is faster or slower, at most
_SHIFT = 0.04  # seconds that are cut from an end or added to it, at most
_LOUDNESS = 6.0  # decibels by which a copy is louder or softer, at most
_NOISE = (20.0, 50.0)  # decibels by which the sound is louder than the noise that is added
_MASKED_TIME, _MASKED_BANDS = 0.1, 0.1  # shares of the frames and of the bands that are masked, at most
_LEAST_SECONDS = 0.1  # of which nothing is cut


def copies_of(recordings: int) -> int:
    """How many copies of each recording to learn from, unless said otherwise."""
    return min(MOST_COPIES, ENOUGH // max(1, recordings))


def copies(sounds: Sequence[Samples], features: SoundFeatures, count: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Change recordings at random, the same way each time.

    The speed and with it the pitch, the silence around it, the loudness, and noise; then frames and bands of mel
    features are masked (Park et al. 2019, arXiv:1904.08779).

    Args:
        sounds: recordings `[n, 1]`.
        features: what the network reads.
        count: copies of each recording.

    Yields:
        The number of a recording, and the features `[T, size]` of a copy.
    """
    for k, sound in enumerate(sounds):
        for copy in range(count):
            draw = np.random.default_rng([k, copy])
            encoded = features.encode(_changed(sound[:, 0], features.waveform.rate, draw)[:, None])
            yield k, _masked(encoded, draw) if isinstance(features, LogMel) else encoded


def _changed(sound: NDArray[np.float32], rate: int, draw: np.random.Generator) -> NDArray[np.float32]:
    length = max(1, round(len(sound) / (1 + draw.uniform(-_SPEED, _SPEED))))
    found: NDArray[Any] = np.interp(np.linspace(0, len(sound) - 1, length), np.arange(len(sound)), sound)
    for _ in range(2):  # an end, then the other
        shift = round(draw.uniform(-_SHIFT, _SHIFT) * rate)
        if shift >= 0:
            found = np.pad(found, (shift, 0))
        elif len(found) + shift > _LEAST_SECONDS * rate:
            found = found[-shift:]
        found = found[::-1]
    found = found * 10 ** (draw.uniform(-_LOUDNESS, _LOUDNESS) / 20)
    noise = draw.standard_normal(len(found)) * 10 ** (-draw.uniform(*_NOISE) / 20)
    noisy: NDArray[np.float32] = (found + found.std() * noise).astype(np.float32)
    return noisy


def _masked(frames: NDArray[np.float32], draw: np.random.Generator) -> NDArray[np.float32]:
    """The same with some frames and some bands at 0, which is their mean."""
    for axis, share in enumerate((_MASKED_TIME, _MASKED_BANDS)):
        size = draw.integers(0, int(share * frames.shape[axis]) + 1)
        first = draw.integers(0, frames.shape[axis] - size + 1)
        frames[(slice(None),) * axis + (slice(first, first + size),)] = 0
    return frames

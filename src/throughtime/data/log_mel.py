"""Log-mel features: the energy of a sound over time in perceptual frequency bands. Requires only NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from throughtime.data.limits import BANDS
from throughtime.data.scaler import Scaler
from throughtime.data.waveform import Samples, Waveform
from throughtime.errors import DataError

WINDOW, HOP = 0.025, 0.010  # seconds, as usual for speech

_SILENCE = 1e-8  # the energy of digital silence
_AT_ONCE = 4096  # windows to transform at a time


@dataclass(frozen=True, eq=False)
class LogMel:
    """Standardized logarithms of mel-band energies.

    Frames use a Hann window; mel(f) = 2595 log10(1 + f / 700), with triangular bands from 0 to half the sampling rate,
    as in HTK (Young et al. 2002).

    Attributes:
        waveform: the sampling rate, in mono.
        window: the frame length in samples.
        hop: the number of samples between the starts of consecutive frames.
        bands: the number of bands.
        level: whether to subtract each recording's mean log energy, so that loudness doesn't matter.
        scaler: the mean and standard deviation of each band over the training part; None before `fit`.
    """

    waveform: Waveform
    window: int
    hop: int
    bands: int = BANDS
    level: bool = False
    scaler: Scaler | None = None

    def __post_init__(self) -> None:
        for name, maximum in (("window", 1 << 16), ("hop", 1 << 16), ("bands", 512)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= maximum:
                raise DataError(f"{name} must be an integer from 1 to {maximum}, got {value!r:.100}")
        if self.scaler is not None and len(self.scaler.mean) != self.bands:
            raise DataError(f"the scaler must have {self.bands} bands, got {len(self.scaler.mean)}")

    @classmethod
    def at(cls, rate: int, bands: int = BANDS, *, level: bool = False) -> Self:
        """Create features with frames of 25 ms every 10 ms."""
        return cls(Waveform(rate), max(1, round(WINDOW * rate)), max(1, round(HOP * rate)), bands, level)

    @property
    def size(self) -> int:
        """The number of features per step."""
        return self.bands

    def fit(self, sounds: Sequence[Samples]) -> Self:
        """Return a copy with a scaler fitted to sounds `[n, 1]`."""
        return replace(self, scaler=Scaler.fit([self.energies(sound) for sound in sounds]))

    def encode(self, samples: Samples) -> NDArray[np.float32]:
        """Return the standardized features `[T, bands]` of samples `[n, 1]`."""
        assert self.scaler is not None
        return self.scaler.encode(self.energies(samples))

    def energies(self, samples: Samples) -> NDArray[np.float64]:
        """Return the log energies `[T, bands]`; a sound shorter than a frame is padded with silence."""
        signal = np.asarray(samples, np.float64).reshape(-1)
        if len(signal) < self.window:
            signal = np.pad(signal, (0, self.window - len(signal)))
        frames = np.lib.stride_tricks.sliding_window_view(signal, self.window)[:: self.hop]
        shape = np.hanning(self.window + 2)[1:-1]
        found = []
        for start in range(0, len(frames), _AT_ONCE):
            spectrum = np.abs(np.fft.rfft(frames[start : start + _AT_ONCE] * shape, self._size)) ** 2
            found.append(spectrum @ self._triangles.T)
        logarithms = np.log(np.maximum(np.concatenate(found), _SILENCE))
        return logarithms - logarithms.mean() if self.level else logarithms

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        settings = {"window": self.window, "hop": self.hop, "bands": self.bands, "level": self.level}
        scaler = None if self.scaler is None else self.scaler.to_data()
        return {"kind": "log_mel", "waveform": self.waveform.to_data(), **settings, "scaler": scaler}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        waveform, scaler = data.get("waveform"), data.get("scaler")
        if not isinstance(waveform, dict) or not isinstance(scaler, dict):
            raise DataError(f"damaged mel bands: expected a waveform and a scaler, got {data!r:.200}")
        sizes = [data.get(name, 0) for name in ("window", "hop", "bands")]
        level = data.get("level") is True
        return cls(Waveform.of_data(waveform), sizes[0], sizes[1], sizes[2], level, Scaler.of_data(scaler))

    @cached_property
    def _size(self) -> int:
        return 1 << (self.window - 1).bit_length()

    @cached_property
    def _triangles(self) -> NDArray[np.float64]:
        """The weight of each frequency in each band `[bands, frequencies]`."""
        nyquist = self.waveform.rate / 2
        mels = np.linspace(0, 2595 * np.log10(1 + nyquist / 700), self.bands + 2)
        corners = 700 * (10 ** (mels / 2595) - 1)
        frequencies = np.linspace(0, nyquist, self._size // 2 + 1)
        rising = (frequencies - corners[:-2, None]) / np.diff(corners)[:-1, None]
        falling = (corners[2:, None] - frequencies) / np.diff(corners)[1:, None]
        triangles = np.maximum(0, np.minimum(rising, falling))
        # A band narrower than the spacing of the frequencies uses the nearest frequency.
        for band in np.flatnonzero(triangles.sum(1) == 0):
            triangles[band, np.abs(frequencies - corners[band + 1]).argmin()] = 1
        return triangles

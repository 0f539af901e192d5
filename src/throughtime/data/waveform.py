"""The formats of audio samples that networks read and write. Requires only NumPy."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from throughtime.data.limits import MAX_CHANNELS, MAX_LEVELS, MAX_RATE
from throughtime.errors import DataError

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Waveform:
    """Unquantized samples with a sampling rate and a number of channels.

    Attributes:
        rate: the sampling rate in Hz.
        channels: the number of channels, 1 or 2.
    """

    rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        _require("rate", self.rate, 1, MAX_RATE)
        _require("channels", self.channels, 1, MAX_CHANNELS)

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return {"kind": "waveform", "rate": self.rate, "channels": self.channels}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        return cls(data.get("rate", 0), data.get("channels", 0))


@dataclass(frozen=True)
class Quantization(ABC):
    """Samples quantized to levels, whose indices are a network's token ids. Stereo channels are interleaved.

    Attributes:
        waveform: the sampling rate and channels.
        levels: the number of levels between -1 and 1.
    """

    kind: ClassVar[str]
    waveform: Waveform
    levels: int = 256

    def __post_init__(self) -> None:
        _require("levels", self.levels, 2, MAX_LEVELS)

    @property
    def size(self) -> int:
        """The number of token ids."""
        return self.levels

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The smallest dtype that can represent every level."""
        return np.dtype(np.uint8 if self.levels <= 256 else np.uint16)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The bounds of the levels `[levels + 1]`; level k covers the samples from edge k to edge k + 1."""
        inner = self.expand((np.arange(1, self.levels) * 2 - 1) / (self.levels - 1) - 1)
        return np.concatenate([[-math.inf], inner, [math.inf]])

    def encode(self, samples: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
        """Quantize samples to levels, flattened; samples outside [-1, 1] are clipped."""
        curve = self.compress(np.clip(np.asarray(samples, np.float64).reshape(-1), -1, 1))
        return np.floor((curve + 1) / 2 * (self.levels - 1) + 0.5).astype(self.dtype)

    def decode(self, ids: NDArray[Any]) -> Samples:
        """Convert levels `[n]` to samples `[n / channels, channels]`."""
        samples = self.expand(np.asarray(ids, np.float64) * 2 / (self.levels - 1) - 1)
        return samples.astype(np.float32).reshape(-1, self.waveform.channels)

    @abstractmethod
    def compress(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map samples in [-1, 1] to a scale on which the levels are equally spaced."""

    @abstractmethod
    def expand(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        """Invert `compress`."""

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return {"kind": self.kind, "waveform": self.waveform.to_data(), "levels": self.levels}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        waveform = data.get("waveform")
        return cls(Waveform.of_data(waveform if isinstance(waveform, dict) else {}), data.get("levels", 0))


class MuLaw(Quantization):
    """Levels spaced more closely near 0, by the mu-law of ITU-T G.711 with mu = levels - 1."""

    kind = "mu_law"

    def compress(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        mu = self.levels - 1
        return np.asarray(np.sign(samples) * np.log1p(mu * np.abs(samples)) / math.log1p(mu))

    def expand(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        mu = self.levels - 1
        return np.asarray(np.sign(curve) * np.expm1(np.abs(curve) * math.log1p(mu)) / mu)


class Linear(Quantization):
    """Equally spaced levels."""

    kind = "linear"

    def compress(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        return samples

    def expand(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        return curve


def _require(name: str, value: Any, minimum: int, maximum: int) -> None:
    if type(value) is not int or not minimum <= value <= maximum:
        raise DataError(f"{name} must be an integer from {minimum} to {maximum}, got {value!r:.100}")

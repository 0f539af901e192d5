"""Raw samples of sound, several per step. Requires only NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from throughtime.data.limits import MAX_FRAME
from throughtime.data.waveform import Samples, Waveform
from throughtime.errors import DataError


@dataclass(frozen=True)
class RawSamples:
    """Samples at a common scale, cut into consecutive frames.

    Attributes:
        waveform: the sampling rate, in mono.
        frame: the number of samples per step.
        scale: the divisor of samples, their root mean square over the training part; None before `fit`.
    """

    waveform: Waveform
    frame: int
    scale: float | None = None

    def __post_init__(self) -> None:
        if type(self.frame) is not int or not 1 <= self.frame <= MAX_FRAME:
            raise DataError(f"frame must be an integer from 1 to {MAX_FRAME}, got {self.frame!r:.100}")

    @property
    def size(self) -> int:
        """The number of features per step."""
        return self.frame

    def fit(self, sounds: Sequence[Samples]) -> Self:
        """Return a copy with a scale fitted to sounds `[n, 1]`."""
        energy = sum(float(np.square(sound, dtype=np.float64).sum()) for sound in sounds)
        count = sum(sound.size for sound in sounds)
        return replace(self, scale=math.sqrt(energy / count) if energy else 1.0)

    def encode(self, samples: Samples) -> NDArray[np.float32]:
        """Cut samples `[n, 1]` into frames `[T, frame]`; the last frame is padded with silence."""
        assert self.scale is not None
        signal = np.asarray(samples, np.float32).reshape(-1) / np.float32(self.scale)
        steps = -(-len(signal) // self.frame)
        return np.pad(signal, (0, steps * self.frame - len(signal))).reshape(steps, self.frame)

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        waveform = self.waveform.to_data()
        return {"kind": "raw_samples", "waveform": waveform, "frame": self.frame, "scale": self.scale}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        waveform, scale = data.get("waveform"), data.get("scale")
        if not isinstance(waveform, dict) or not isinstance(scale, float) or not 0 < scale < math.inf:
            raise DataError(f"damaged samples: expected a waveform and a positive scale, got {data!r:.200}")
        return cls(Waveform.of_data(waveform), data.get("frame", 0), scale)

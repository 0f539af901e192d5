"""Bounds and choices of data options. Imports no NumPy, so that the command's help appears at once."""

from typing import Literal

MAX_RATE, MAX_CHANNELS, MAX_LEVELS = 768_000, 2, 1 << 16
"""The maximum sampling rate in Hz, and the maximum numbers of channels and quantization levels of a sound."""

MAX_FRAME = 1 << 16
"""The maximum number of raw samples per step."""

BANDS = 40
"""The default number of mel bands."""

Scaling = Literal["standard", "robust", "mean"]
"""How a time series is scaled (see `throughtime.data.series_codec.Scale.fit`)."""

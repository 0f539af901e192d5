"""Convert between a user's data and a network's numbers; needs only NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

from throughtime.errors import DataError, nearest

# The class of each kind; its `of_data` reads the plain data that its `to_data` returns.
_HOMES = {
    "vocabulary": ("throughtime.data.vocabulary", "Vocabulary"),
    "labels": ("throughtime.data.labels", "Labels"),
    "scaler": ("throughtime.data.scaler", "Scaler"),
    "waveform": ("throughtime.data.waveform", "Waveform"),
    "device_input": ("throughtime.data.knobs", "DeviceInput"),
    "mu_law": ("throughtime.data.waveform", "MuLaw"),
    "log_mel": ("throughtime.data.log_mel", "LogMel"),
    "raw_samples": ("throughtime.data.raw_samples", "RawSamples"),
    "linear": ("throughtime.data.waveform", "Linear"),
    "series": ("throughtime.data.series_codec", "SeriesCodec"),
}


def codec_from(data: Any) -> Any:
    """Create a codec from the plain data that `to_data` returned.

    Raises:
        DataError: if the data don't describe a codec.
    """
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise DataError("invalid or damaged codec: expected a dict with a kind")
    kind = data["kind"]
    if kind not in _HOMES:
        raise DataError(f"unknown codec {kind!r}{nearest(kind, _HOMES)}; known codecs: {', '.join(_HOMES)}")
    module, name = _HOMES[kind]
    return getattr(import_module(module), name).of_data(data)


@dataclass(frozen=True)
class Codecs:
    """The codecs of a task.

    Attributes:
        inputs: the codec of the network's input; None for plain numbers.
        targets: the codec of its targets; None for plain numbers, or if it is the same as `inputs`.
    """

    inputs: Any = None
    targets: Any = None

    def to_data(self) -> dict[str, Any]:
        """Return both codecs as plain data."""
        return {name: codec and codec.to_data() for name, codec in vars(self).items()}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create codecs from the plain data that `to_data` returned.

        Raises:
            DataError: if the data don't describe codecs.
        """
        if not isinstance(data, dict) or data.keys() != {"inputs", "targets"}:
            raise DataError("invalid or damaged codecs: expected a dict with inputs and targets")
        return cls(**{name: None if value is None else codec_from(value) for name, value in data.items()})

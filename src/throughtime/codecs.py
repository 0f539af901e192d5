"""Codecs: what translates between a user's data and the numbers a network reads and writes. They need NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

from throughtime.errors import DataError, nearest

# Where each kind is made, by its `of_data`, from the plain data that its `to_data` returns.
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
    """The codec that `to_data` described.

    Raises:
        DataError: if the data describe none.
    """
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise DataError("this isn't a codec, or a damaged one")
    kind = data["kind"]
    if kind not in _HOMES:
        raise DataError(f"codec {kind!r} is unknown{nearest(kind, _HOMES)}; known are {', '.join(_HOMES)}")
    module, name = _HOMES[kind]
    return getattr(import_module(module), name).of_data(data)


@dataclass(frozen=True)
class Codecs:
    """The codecs of a task.

    Attributes:
        inputs: for what the network reads; None where that is numbers as they are.
        targets: for what it predicts; None where that is numbers as they are, or the same as the inputs.
    """

    inputs: Any = None
    targets: Any = None

    def to_data(self) -> dict[str, Any]:
        """Both as plain data."""
        return {name: codec and codec.to_data() for name, codec in vars(self).items()}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """The codecs that `to_data` described.

        Raises:
            DataError: if the data describe none.
        """
        if not isinstance(data, dict) or data.keys() != {"inputs", "targets"}:
            raise DataError("these aren't codecs, or damaged ones: inputs and targets are expected")
        return cls(**{name: None if value is None else codec_from(value) for name, value in data.items()})

"""Describe the inputs and outputs of a network's step in C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from throughtime.codecs import Codecs
from throughtime.data.knobs import DeviceInput
from throughtime.data.labeled import GAP
from throughtime.data.labels import Labels
from throughtime.data.log_mel import LogMel
from throughtime.data.raw_samples import RawSamples
from throughtime.data.scaler import Scaler
from throughtime.data.series_codec import SeriesCodec
from throughtime.data.vocabulary import Vocabulary
from throughtime.data.waveform import Quantization, Waveform
from throughtime.errors import UserError
from throughtime.outputs import (
    Bernoulli,
    Categorical,
    LogisticMixture,
    Normal,
    Point,
    Quantiles,
    Signal,
    StudentT,
)
from throughtime.streaming.network import Network
from throughtime.task_description import TaskDescription

_SHOWN = 10  # the maximum number of names to print


@dataclass(frozen=True)
class Meaning:
    """The meaning of the numbers that a step takes or returns.

    Attributes:
        text: a description with {} in place of the names; empty if unknown.
        detail: the continuation of the description in the header.
        names: the names of the numbers.
        macro: the ending of the macro that lists the names in the header.
    """

    text: str = ""
    detail: str = ""
    names: tuple[str, ...] = ()
    macro: str = ""

    @property
    def summary(self) -> str:
        """The description with its names, for people."""
        shown = [name if name.isprintable() else repr(name) for name in self.names[:_SHOWN]]
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        return self.text.format(", ".join(shown) + more)


class Interface:
    """The inputs and outputs of a network's step in C.

    Args:
        network: the network.
        task: what the network was trained for; None if unknown.
    """

    def __init__(self, network: Network, task: TaskDescription | None) -> None:
        self._inputs, self._output, self._task = network.layers[0][0].inputs, network.output, task
        self._codecs = Codecs() if task is None else task.codecs
        width = sum(given.width for given in self._inputs) if network.embedding is None else 0
        self.scaler = _fitting(self._codecs.inputs, width)
        """The scaler of the inputs, which the C code applies; None if it takes them as the network does."""
        values = self._output.width if isinstance(self._output, Point) else 0
        self.target_scaler = _fitting(self._codecs.targets, values)
        """The scaler of the targets, which the C code inverts; None if it returns the head's values."""

    @property
    def inputs(self) -> Meaning:
        """The meaning of a step's inputs."""
        match self._codecs.inputs:
            case Scaler() as scaler if scaler is self.scaler:
                detail = "; the code standardizes them"
                if GAP in [given.name for given in self._inputs[1:]]:
                    detail += (
                        f". {GAP} is the time since the previous row, 0 in a sequence's first row: in microseconds for "
                        "dates, in nanoseconds for times of day, otherwise in the unit of the time column"
                    )
                if not scaler.names:
                    return Meaning("raw values of the features", detail)
                return Meaning("raw values of the columns {}", f", in this order{detail}", scaler.names, "COLUMNS")
            case DeviceInput() as device:
                knobs = ", then the knobs {}, each from 0 to 1" if device.knobs else ""
                return Meaning(f"one sample in [-1, 1] at {_rate(device)}{knobs}", "", device.knobs, "KNOBS")
            case Quantization() as levels:
                stereo = ", with the channels interleaved" if levels.waveform.channels > 1 else ""
                kind = levels.kind.replace("_", "-")
                return Meaning(
                    f"the index of a sample's level among {levels.levels} {kind} levels from -1 to 1, "
                    f"at {_rate(levels.waveform)}{stereo}"
                )
            case LogMel() as features:
                return Meaning(
                    f"the standardized log energies of {features.bands} mel bands of one frame, "
                    f"at {_rate(features.waveform)}",
                    ", as codecs.inputs.encode of the run's description returns them",
                )
            case RawSamples() as samples:
                return Meaning(
                    f"{samples.frame} consecutive samples in [-1, 1] at {_rate(samples.waveform)}, "
                    f"each divided by {samples.scale:.9g}"
                )
            case SeriesCodec():
                return Meaning(
                    "the encoded features of one step of a forecast window, not a raw row",
                    ": scaled values minus the window's last one, then covariates, calendar and position features",
                )
            case Vocabulary():
                return Meaning("an index in the vocabulary, which is in the run's task.json")
        first, *further = self._inputs
        named = "".join(f", then {given.width} for {given.name}" for given in further)
        return Meaning(f"{first.width} for x{named}" if named else "")

    @property
    def outputs(self) -> Meaning:
        """The meaning of a step's outputs."""
        match self._output:
            case Categorical() as output:
                detail = "; the largest is the most likely, and their softmax is the probabilities"
                names = self._classes()
                if len(names) == output.width:
                    return Meaning("logits of the classes {}", f", in this order{detail}", names, "CLASSES")
                of_tokens = self._codecs.targets is None and getattr(self._codecs.inputs, "size", None) == output.width
                return Meaning(f"the logits of the {'token ids' if of_tokens else 'classes'}", detail)
            case Bernoulli():
                return Meaning("the logits of the bits")
            case LogisticMixture():
                return Meaning("the logits of all components, then their locations, then their scales before softplus")
            case Point():
                return Meaning(
                    "the predicted values",
                    ", in the units of the training targets" if self.target_scaler else self._scale,
                )
            case Signal():
                return Meaning("the predicted samples")
            case Quantiles() as output:
                levels = ", ".join(f"{level:g}" for level in output.levels)
                return Meaning(f"the quantiles {levels} of each target", self._scale)
            case Normal():
                return Meaning("all means, then all scales before softplus", self._scale)
            case StudentT():
                return Meaning(
                    "all locations, then all scales and all degrees of freedom minus 2, both before softplus",
                    self._scale,
                )
        return Meaning("the last layer's output")

    @property
    def _scale(self) -> str:
        forecast = isinstance(self._codecs.inputs, SeriesCodec)
        return ", scaled and relative to the window's last value, as the inputs are" if forecast else ""

    def _classes(self) -> tuple[str, ...]:
        targets: Any = self._codecs.targets
        if isinstance(targets, Labels):
            return targets.names
        classes = () if self._task is None else self._task.options.get("classes", ())  # of an estimator
        return tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()


def _fitting(codec: Any, width: int) -> Scaler | None:
    if not isinstance(codec, Scaler) or len(codec.mean) != width:
        return None
    smallest = float(np.finfo(np.float32).tiny)
    for k, scale in enumerate(codec.scale.tolist()):
        if scale < smallest:
            name = repr(codec.names[k]) if codec.names else f"feature {k}"
            raise UserError(
                f"the standard deviation of {name} is {scale:g}, which is 0 in the C code's float32; multiply the "
                "column by a constant and train again"
            )
    return codec


def _rate(waveform: Waveform) -> str:
    return f"{waveform.rate:,} Hz"

"""Options of the audio task."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from throughtime.data.limits import MAX_LEVELS, MAX_RATE
from throughtime.options import Count
from throughtime.tasks.options import StreamOptions


class AudioOptions(StreamOptions):
    """Options of the audio task.

    Attributes:
        data: sound files (wav, flac, ogg) and directories of them.
        valid: sounds to validate on; by default, every tenth recording, or the end of a single one, is held out.
        rate: the sampling rate in Hz to resample recordings to; their own rate by default.
        channels: the number of channels; mono averages stereo recordings; the recordings' own by default.
        quantization: the spacing of the levels; mu-law is finer near silence, linear is uniform.
        levels: the number of quantization levels.
        output: the output distribution: softmax scores each level; mixture integrates a mixture of logistic
            distributions over each level.
        components: the number of distributions in a mixture.
        window: the window of truncated backpropagation through time, in samples.
    """

    defaults: ClassVar = {"hidden_size": 256, "dropout": 0.0, "batch": 32}
    unused: ClassVar = ("encoding_errors",)

    task: Literal["audio"] = "audio"
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)] | None = None
    channels: Literal["mono", "stereo"] | None = None
    quantization: Literal["mu-law", "linear"] = "mu-law"
    levels: Annotated[int, Field(ge=2, le=MAX_LEVELS)] = 256
    output: Literal["softmax", "mixture"] = "softmax"
    components: Annotated[int, Field(ge=1, le=100)] = 5
    window: Count = 512

"""Options of the effect task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from throughtime.data.limits import MAX_RATE
from throughtime.options import Count, Positive, Share
from throughtime.tasks.options import TaskOptions

_EXPECTED = "expected NAME=VALUE, such as gain=0.7, or one value per pair, such as gain=0.2,0.7"


def knobs_from(value: Any) -> dict[str, tuple[float, ...]]:
    """Parse knob settings from a mapping, or from command-line texts of the form NAME=VALUE.

    Raises:
        ValueError: if they can't be parsed, or a setting is not from 0 to 1.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else [None]
        parts = [str(text).partition("=") for text in texts]
        names = [name.strip() for name, _, _ in parts]
        if len(set(names)) < len(names):
            raise ValueError("each knob must be set only once")
        value = {name: values.split(",") for name, (_, _, values) in zip(names, parts, strict=True)}
    found = {}
    for name, values in value.items():
        try:
            found[str(name)] = tuple(float(v) for v in (values if isinstance(values, list | tuple) else [values]))
        except (TypeError, ValueError):
            raise ValueError(_EXPECTED) from None
        if not name or not found[str(name)]:
            raise ValueError(_EXPECTED)
        if not all(0 <= v <= 1 for v in found[str(name)]):
            raise ValueError("a knob's settings must be from 0 to 1")
    return found


class EffectOptions(TaskOptions):
    """Options of the effect task.

    Attributes:
        data: a dry and a wet sound file, or a directory of each with matching file names.
        valid: a directory with subdirectories dry and wet to validate on; the end of each pair is held out by default.
        test: a directory with subdirectories dry and wet to evaluate the trained network on.
        paired: whether DATA is the input and the output of a device.
        rate: the sampling rate in Hz to resample sounds to; their own rate by default.
        align: the alignment of pairs; auto estimates and removes the latency of each wet signal, up to 100 ms.
        knob: the device's knob settings from 0 to 1, which the network reads along with the sound, as NAME=VALUE, or
            one value per pair as gain=0.2,0.7. A directory with dry and wet sounds may list them in a table knobs.csv
            with a column named file and one per knob.
        skip: whether to add the input to the output, so that the network learns only the difference; .nam files don't
            support it.
        window: the window of truncated backpropagation through time, in samples.
        segment: the length of a training segment in seconds; the state is carried through it from its start.
        burn_in: the number of samples at the start of a segment that are excluded from the loss.
        valid_share: the fraction at the end of each pair to hold out for selecting the best weights.
        test_share: the fraction after that to hold out for testing the trained network.
    """

    defaults: ClassVar = {"hidden_size": 20, "dropout": 0.0, "batch": 50, "optimizer": "adam", "lr": 0.005}
    unused: ClassVar = ("encoding_errors",)

    task: Literal["effect"] = "effect"
    paired: bool = False
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)] | None = None
    align: Literal["auto", "off"] = "auto"
    knob: Annotated[dict[str, tuple[float, ...]], BeforeValidator(knobs_from)] = Field({})
    skip: bool = True
    window: Count = 1000
    segment: Positive = 0.5
    burn_in: Annotated[int, Field(ge=0)] = 200
    valid_share: Share = 0.1
    test_share: Share = 0.0

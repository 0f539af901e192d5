"""What a report says, as plain arrays and texts: the page is rendered from this, whoever filled it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Example:
    """A sequence among those that a model read one after the other.

    Attributes:
        name: what to call it.
        start, stop: its first step among all steps, and the one after its last.
        answer: its label; "" if there is none, or it isn't known.
        said: the label that the model gives it; "" if there is none.
        probability: of that label.
        loss: in nats; NaN if it isn't known.
    """

    name: str
    start: int
    stop: int
    answer: str = ""
    said: str = ""
    probability: float = 0.0
    loss: float = float("nan")


@dataclass(frozen=True)
class Reading:
    """Sequences as a model read them: one text, or several sequences one after the other, T steps in all.

    Attributes:
        symbols: the text of each step; its number where steps are times.
        unknown: which of them the vocabulary lacks, `[T]`.
        losses: nats for the answer at each step, `[T]`; NaN where there is none, as for a text's first symbol, which
            nothing predicts. Steps of a sequence that has one answer share its loss.
        likeliest: the ids of the answers that the model held likeliest at each step, the likeliest first, `[T, k]`.
        probabilities: theirs, `[T, k]`.
        alphabet: the text of each id in `likeliest`.
        reach: the size of the gradient of the log-probability of an answer at step t with respect to the inputs at
            steps t - first, t - first - 1, and so on, `[T, lags]`; 0 where there is none.
        first: the lag of the first column of `reach`.
        answers: the right answer at each step; the symbols themselves if empty.
        parts: the sequences; empty where there is one text.
        decided: for answers of whole sequences, the size of the gradient of the log-probability of the label that the
            model gives with respect to each step, `[T]`.
        inputs: the numbers at each step, `[T, features]`, where the model reads numbers.
        features: what they are called.
        chances: the probability that the model gave each of them, `[T, features]`, where they are bits to predict.
    """

    symbols: Sequence[str]
    unknown: Array
    losses: Array
    likeliest: Array
    probabilities: Array
    alphabet: dict[int, str]
    reach: Array
    first: int = 1
    answers: Sequence[str] = ()
    parts: Sequence[Example] = ()
    decided: Array | None = None
    inputs: Array | None = None
    features: Sequence[str] = ()
    chances: Array | None = None

    @property
    def loss(self) -> float:
        """The mean loss of all answers; NaN if there are none."""
        losses = self.losses if self.decided is None else np.array([part.loss for part in self.parts])
        known = losses[~np.isnan(losses)]
        return float(known.mean()) if known.size else float("nan")


@dataclass(frozen=True)
class Values:
    """A named value of a layer at each step.

    Attributes:
        layer: the layer's name.
        name: the value's name in the cell's equations.
        steps: `[T, units]`.
        units: the unit's numbers, the most interesting first.
        interest: of each unit by its number, `[units]`.
        notes: of each unit by its number: what of the text it follows, or "".
    """

    layer: str
    name: str
    steps: Array
    units: Array
    interest: Array
    notes: Sequence[str]


@dataclass(frozen=True)
class Flow:
    """The mean size of the gradient of a step's loss with respect to a state, by lag.

    Attributes:
        label: whose state.
        by_lag: relative to the first that is not 0, `[lags]`.
        lag: the horizon; None if it lies beyond the lags.
        reaches: the horizon in words.
        group: the curves that are to be compared, such as "before training"; "" where there is one group.
    """

    label: str
    by_lag: Array
    lag: int | None
    reaches: str
    group: str = ""


@dataclass(frozen=True)
class Saturation:
    """How often the units of a gate are nearly closed and nearly open.

    Attributes:
        layer, gate: its names.
        closed, opened: the fraction of steps, `[units]`.
    """

    layer: str
    gate: str
    closed: Array
    opened: Array


@dataclass(frozen=True)
class Timescale:
    """For how many steps the units of a layer hold on.

    Attributes:
        layer: its name.
        gate: the gate that it is read from.
        steps: `[units]`; may be infinite.
    """

    layer: str
    gate: str
    steps: Array


@dataclass(frozen=True)
class Curve:
    """A figure over the steps of training.

    Attributes:
        label: which.
        steps, values: `[rows]`.
    """

    label: str
    steps: Array
    values: Array


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote.

    Attributes:
        title: how it was drawn.
        text: what came.
    """

    title: str
    text: str


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often each label was taken for each.

    Attributes:
        labels: their names.
        counts: of the true label k and the predicted label n, `[k, n]`.
        of: what is counted, in the plural.
    """

    labels: Sequence[str]
    counts: Array
    of: str = "sequences"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: the heading.
        about: how to read it, in a sentence.
        columns: the names of its columns.
        rows: of texts, whole numbers and shares, which are floats from 0 to 1.
    """

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]


@dataclass(frozen=True)
class Roll:
    """What sounded, beside the probabilities that a model gave it.

    Attributes:
        title: of the piece.
        keys: their names, from the lowest.
        target: 0 or 1, `[T, keys]`.
        probabilities: `[T, keys]`.
    """

    title: str
    keys: Sequence[str]
    target: Array
    probabilities: Array


@dataclass(frozen=True)
class Track:
    """A sound that can be played.

    Attributes:
        name: what to call it.
        samples: of one channel, `[T]`, from -1 to 1.
    """

    name: str
    samples: Array


@dataclass(frozen=True)
class Envelopes:
    """A named value of a layer along a sound, by its bounds in short stretches.

    Attributes:
        layer: the layer's name.
        name: the value's name in the cell's equations.
        low, high: the lowest and the highest value of each unit in each stretch, `[stretches, units]`.
        size: samples of a stretch.
    """

    layer: str
    name: str
    low: Array
    high: Array
    size: int


@dataclass(frozen=True)
class Sound:
    """A stretch of sound as a model heard it.

    Attributes:
        title: the heading.
        rate: samples per second.
        tracks: sounds of one length.
        compared: which track is the target, and which the prediction; None where there is no prediction.
        figure: what is measured along it, such as "ESR, dB"; "" for nothing.
        along: the figure in windows, `[windows]`.
        window: samples of such a window.
        values: units along it.
    """

    title: str
    rate: int
    tracks: Sequence[Track]
    compared: tuple[int, int] | None = None
    figure: str = ""
    along: Array | None = None
    window: int = 1
    values: Sequence[Envelopes] = ()


@dataclass(frozen=True)
class ForecastWindow:
    """A forecast beside what came, at the original scale.

    Attributes:
        title: of the window.
        times: of the rows of context and horizon, `[c + h]`.
        values: of these rows, `[c + h]`; NaN where they are missing.
        point: the forecast, `[h]`.
        low, high: the bounds of its interval, `[h]`.
    """

    title: str
    times: Sequence[str]
    values: Array
    point: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Forecasts:
    """How well series were forecast.

    Attributes:
        last: the last windows of some series.
        worst: the windows with the largest errors.
        by_step: the mean absolute error at each row of the horizon, of the network and of baselines.
        lookback: how much forecasts change with what was read so many rows before their origin.
        share: of the values that intervals are calibrated to contain.
    """

    last: Sequence[ForecastWindow]
    worst: Sequence[ForecastWindow]
    by_step: Sequence[Curve]
    lookback: Curve
    share: float


@dataclass(frozen=True)
class ReportData:
    """All that a report says. What is empty has no place on the page.

    Attributes:
        title: the heading.
        facts: what the network and the text are, in short pieces.
        symbol: what a step is called: "character", "word", "byte pair", "token", "step".
        unit: what a loss is per; the symbol if not given.
        measure: what a loss is in.
        warnings: what the reader should know first.
        reading: the text, and `values` the units that shade it.
        best_step: the step of training whose weights were kept.
    """

    title: str
    facts: Sequence[str] = ()
    symbol: str = "character"
    unit: str = ""
    measure: str = "nats"
    warnings: Sequence[str] = ()
    reading: Reading | None = None
    values: Sequence[Values] = ()
    flows: Sequence[Flow] = ()
    saturations: Sequence[Saturation] = ()
    timescales: Sequence[Timescale] = ()
    curves: Sequence[Curve] = ()
    samples: Sequence[Sample] = ()
    confusion: ConfusionMatrix | None = None
    tables: Sequence[Table] = ()
    rolls: Sequence[Roll] = ()
    sounds: Sequence[Sound] = ()
    forecasts: Forecasts | None = None
    best_step: int | None = None

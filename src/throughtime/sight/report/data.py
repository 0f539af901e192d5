"""The contents of a report as plain arrays and texts, from which the page is rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Example:
    """One of the sequences that a model read.

    Attributes:
        name: the sequence's name.
        start, stop: the range of its steps among all steps; `stop` is exclusive.
        answer: its label; "" if it has none or it is unknown.
        predicted: the model's label; "" if there is none.
        probability: the probability of the model's label.
        loss: the loss in nats; NaN if unknown.
    """

    name: str
    start: int
    stop: int
    answer: str = ""
    predicted: str = ""
    probability: float = 0.0
    loss: float = float("nan")


@dataclass(frozen=True)
class Reading:
    """The input of a model and its answers: one text, or several sequences concatenated, T steps in total.

    Attributes:
        tokens: the text of each step; its number if steps are times.
        unknown: which tokens are not in the vocabulary, `[T]`.
        losses: the loss of the answer at each step in nats, `[T]`; NaN if there is none, as for a text's first token,
            which nothing predicts. All steps of a sequence with a single answer share its loss.
        top: the ids of the model's most likely answers at each step, most likely first, `[T, k]`.
        probabilities: their probabilities, `[T, k]`.
        alphabet: the text of each id in `top`.
        influence: the norm of the gradient of the log-probability of an answer at step t with respect to the inputs at
            steps t - first, t - first - 1, and so on, `[T, lags]`; 0 where there is none.
        first: the lag of the first column of `influence`.
        answers: the right answer at each step; the tokens themselves if empty.
        parts: the sequences; empty for a single text.
        label_influence: for answers about whole sequences, the norm of the gradient of the log-probability of the
            model's label with respect to each step, `[T]`.
        inputs: the numbers at each step, `[T, features]`, if the model reads numbers.
        features: the names of these features.
        bit_probabilities: the model's probability of each feature, `[T, features]`, if they are bits to predict.
    """

    tokens: Sequence[str]
    unknown: Array
    losses: Array
    top: Array
    probabilities: Array
    alphabet: dict[int, str]
    influence: Array
    first: int = 1
    answers: Sequence[str] = ()
    parts: Sequence[Example] = ()
    label_influence: Array | None = None
    inputs: Array | None = None
    features: Sequence[str] = ()
    bit_probabilities: Array | None = None

    @property
    def loss(self) -> float:
        """The mean loss over all answers; NaN if there are none."""
        losses = self.losses if self.label_influence is None else np.array([part.loss for part in self.parts])
        known = losses[~np.isnan(losses)]
        return float(known.mean()) if known.size else float("nan")


@dataclass(frozen=True)
class Values:
    """A named value of a layer at each step.

    Attributes:
        layer: the layer's name.
        name: the value's name in the cell's equations.
        steps: the value at each step, `[T, units]`.
        units: the unit numbers, most interesting first.
        interest: the score of each unit by number, `[units]`.
        notes: a description of the feature that each unit follows, by number; "" if none.
    """

    layer: str
    name: str
    steps: Array
    units: Array
    interest: Array
    notes: Sequence[str]


@dataclass(frozen=True)
class Flow:
    """The mean norm of the gradient of a step's loss with respect to a state, by lag.

    Attributes:
        label: the name of the layer.
        by_lag: the norms relative to the first nonzero one, `[lags]`.
        lag: the horizon; None if it is beyond the lags.
        horizon: the horizon in words.
        losses: the number of losses averaged over.
        group: the group of curves to compare, such as "before training"; "" if there is only one.
    """

    label: str
    by_lag: Array
    lag: int | None
    horizon: str
    losses: int
    group: str = ""


@dataclass(frozen=True)
class Saturation:
    """The fractions of steps at which the units of a gate are nearly closed and nearly open.

    Attributes:
        layer, gate: the names of the layer and the gate.
        closed, opened: the fraction of steps for each unit, `[units]`.
    """

    layer: str
    gate: str
    closed: Array
    opened: Array


@dataclass(frozen=True)
class Timescale:
    """The number of steps for which the units of a layer retain their state.

    Attributes:
        layer: the layer's name.
        gate: the gate that determines the timescale.
        steps: the number of steps, `[units]`; may be infinite.
    """

    layer: str
    gate: str
    steps: Array


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of training.

    Attributes:
        label: the metric's name.
        steps, values: the points of the curve, `[rows]`.
    """

    label: str
    steps: Array
    values: Array


@dataclass(frozen=True)
class Sample:
    """A text generated by the model.

    Attributes:
        title: the heading, which includes the sampling temperature.
        text: the generated text.
    """

    title: str
    text: str


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of true and predicted labels.

    Attributes:
        labels: the names of the labels.
        counts: the number of cases with true label k and predicted label n, `[k, n]`.
        of: the name of the cases that are counted, in the plural.
    """

    labels: Sequence[str]
    counts: Array
    of: str = "sequences"


@dataclass(frozen=True)
class Table:
    """A table to show in a report.

    Attributes:
        title: the heading.
        about: a sentence on how to read it.
        columns: the names of its columns.
        rows: the rows; cells are texts, integers, or fractions, which are floats from 0 to 1.
    """

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]


@dataclass(frozen=True)
class Roll:
    """The notes of a piece and the probabilities that a model predicted.

    Attributes:
        title: the piece's title.
        keys: the names of the keys, lowest first.
        target: 0 or 1 for each key, `[T, keys]`.
        probabilities: the predicted probability of each key, `[T, keys]`.
    """

    title: str
    keys: Sequence[str]
    target: Array
    probabilities: Array


@dataclass(frozen=True)
class Track:
    """A sound to play in a report.

    Attributes:
        name: the track's name.
        samples: mono samples from -1 to 1, `[T]`.
    """

    name: str
    samples: Array


@dataclass(frozen=True)
class Envelopes:
    """A layer's value along a sound, as its minimum and maximum in short windows.

    Attributes:
        layer: the layer's name.
        name: the value's name in the cell's equations.
        low, high: the minimum and maximum of each unit in each window, `[windows, units]`.
        size: the number of samples per window.
    """

    layer: str
    name: str
    low: Array
    high: Array
    size: int


@dataclass(frozen=True)
class Sound:
    """An excerpt of sound processed by a model.

    Attributes:
        title: the heading.
        rate: the sampling rate in Hz.
        tracks: the sounds, all of equal length.
        compared: the indices of the target and the prediction among the tracks; None if there is no prediction.
        figure: the metric measured along the sound, such as "ESR, dB"; "" for none.
        along: the metric in each window, `[windows]`.
        window: the number of samples per window.
        values: values of units along the sound.
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
    """A forecast and the actual values, at the original scale.

    Attributes:
        title: the window's title.
        times: the times of the rows of context and horizon, `[c + h]`.
        values: the values of these rows, `[c + h]`; NaN where missing.
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
    """Forecasts and their errors.

    Attributes:
        last: the last window of each series in a selection.
        worst: the windows with the largest errors.
        by_step: the mean absolute error at each row of the horizon, for the network and the baselines.
        lookback: the influence on forecasts of the segment at each lag before their origin.
        share: the fraction of values that intervals are calibrated to contain.
        measured: the windows that errors are measured on, in words.
        segment: the number of rows per step of the network.
        season: the number of rows per season; 1 if there is none.
    """

    last: Sequence[ForecastWindow]
    worst: Sequence[ForecastWindow]
    by_step: Sequence[Curve]
    lookback: Curve
    share: float
    measured: str
    segment: int
    season: int


@dataclass(frozen=True)
class ReportData:
    """The contents of a report. Empty fields are omitted from the page.

    Attributes:
        title: the heading.
        facts: short descriptions of the network and the text.
        step: the name of a step: "character", "word", "byte pair", "token", "step".
        unit: the unit that the loss of a sequence is averaged over; defaults to the step.
        loss: the name of the loss in the learning curves, such as "nats per character".
        results_on: the data of the results, such as "the test data"; "" if there are none.
        warnings: notes to show at the top.
        reading: the text or sequences, which the units in `values` shade.
        best_step: the training step whose weights were kept.
    """

    title: str
    facts: Sequence[str] = ()
    step: str = "character"
    unit: str = ""
    loss: str = "loss"
    results_on: str = ""
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

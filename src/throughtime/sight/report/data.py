"""What a report says, as plain arrays and texts: the page is rendered from this, whoever filled it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """A text as a model read it.

    Attributes:
        symbols: what each symbol adds to the text.
        unknown: which of them the vocabulary lacks, `[T]`.
        losses: nats for each symbol, given those before it, `[T]`; NaN for the first, which nothing predicts.
        likeliest: the ids of the symbols that the model held likeliest in each place, the likeliest first, `[T, k]`.
        probabilities: theirs, `[T, k]`.
        alphabet: the text of each id in `likeliest`.
        reach: the size of the gradient of symbol t's log-probability with respect to the symbol before it, the one
            before that, and so on, `[T, lags]`; 0 where there is none.
    """

    symbols: Sequence[str]
    unknown: Array
    losses: Array
    likeliest: Array
    probabilities: Array
    alphabet: dict[int, str]
    reach: Array


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
class ReportData:
    """All that a report says. What is empty has no place on the page.

    Attributes:
        title: the heading.
        facts: what the network and the text are, in short pieces.
        symbol: what a symbol is called: "character", "word", "byte pair".
        warnings: what the reader should know first.
        reading: the text, and `values` the units that shade it.
        best_step: the step of training whose weights were kept.
    """

    title: str
    facts: Sequence[str] = ()
    symbol: str = "character"
    warnings: Sequence[str] = ()
    reading: Reading | None = None
    values: Sequence[Values] = ()
    flows: Sequence[Flow] = ()
    saturations: Sequence[Saturation] = ()
    timescales: Sequence[Timescale] = ()
    curves: Sequence[Curve] = ()
    samples: Sequence[Sample] = ()
    best_step: int | None = None

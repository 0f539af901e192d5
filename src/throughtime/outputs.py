"""Outputs: interpret a head's values as predictions, probabilities and samples, in NumPy only.

A head maps the features of a step or a sequence to `width` raw values, `[..., width]`. An output defines their meaning.
`throughtime.nn.heads` has the losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import ModelError, UserError, nearest

Array = NDArray[Any]

_MIN_SCALE = 1e-6  # keeps log(scale) finite where softplus underflows
_MIN_DEGREES = 2.0  # a Student t distribution has a finite variance above 2 degrees of freedom

_MIN_LEVELS = 0.05  # minimum scale of a mixture component
_OUTERMOST = 1e5  # how far the lowest and the highest level extend, in levels; finite so that the gradient is finite

PointLoss = Literal["mse", "mae"]


def softplus(x: Array) -> Array:
    """Compute log(1 + exp(x)) without overflow."""
    return np.asarray(np.logaddexp(0, x))


@dataclass(frozen=True)
class Output(ABC):
    """Base class of outputs: the meaning of a head's values.

    Attributes:
        kind: the kind's name in plain data.

    Raises:
        UserError: if a size is not a positive integer, or another setting is invalid.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type == "int":
                size = getattr(self, field.name)
                if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                    raise UserError(f"{field.name} must be a positive integer, got {size!r}")
                object.__setattr__(self, field.name, int(size))

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of raw values per step or sequence."""

    @property
    @abstractmethod
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target; `()` for an id."""

    def terms(self, targets: Any) -> int:
        """Count the terms of a loss: steps or sequences, not their elements.

        Args:
            targets: an array or tensor `[..., *target_shape]`.
        """
        return math.prod(targets.shape[: len(targets.shape) - len(self.target_shape)])

    @abstractmethod
    def predict(self, raw: Array) -> Array:
        """Return the best prediction.

        Args:
            raw: `[..., width]`.

        Returns:
            An array `[..., *target_shape]`; for quantiles, all levels, `[..., targets, levels]`.
        """

    def sample(self, raw: Array, generator: np.random.Generator, temperature: float = 1.0) -> Array:
        """Draw from the predicted distribution.

        Args:
            raw: `[..., width]`.
            generator: the source of the random numbers.
            temperature: the divisor of the logits; for a real-valued output, the factor of the variance (Ha & Eck 2017,
                arXiv:1704.03477). 0 returns the most likely value, and for quantiles the median.

        Returns:
            An array `[..., *target_shape]`.

        Raises:
            UserError: if the temperature is negative or not finite, or the output has no distribution.
        """
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature must be finite and at least 0, got {temperature}")
        return self._draw(raw, generator, temperature)

    @abstractmethod
    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array: ...

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `from_data`)."""
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"kind": self.kind, **settings}


@dataclass(frozen=True)
class Categorical(Output):
    """One of several classes; the raw values are logits. A class with logit -inf is never drawn."""

    kind = "categorical"
    classes: int

    @property
    def width(self) -> int:
        return self.classes

    @property
    def target_shape(self) -> tuple[int, ...]:
        return ()

    def probabilities(self, raw: Array) -> Array:
        """Return the probability of each class, `[..., classes]`."""
        return np.exp(self.log_probabilities(raw))

    def log_probabilities(self, raw: Array) -> Array:
        """Return the log probability of each class, `[..., classes]`."""
        shifted = raw - raw.max(-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))

    def predict(self, raw: Array) -> Array:
        """Return the id of the most likely class, int64 `[...]`."""
        return np.asarray(raw.argmax(-1), np.int64)

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        # The argmax of logits plus Gumbel noise follows softmax(raw / temperature).
        return self.predict(raw + temperature * generator.gumbel(size=raw.shape))


@dataclass(frozen=True)
class LogisticMixture(Output):
    """One of several ordered levels, as a mixture of discretized logistics (Salimans et al. 2017, arXiv:1701.05517).

    The raw values are the logits of all components, then their locations, then their scales before softplus.
    """

    kind = "logistic_mixture"
    levels: int
    components: int = 5

    @property
    def width(self) -> int:
        return 3 * self.components

    @property
    def target_shape(self) -> tuple[int, ...]:
        return ()

    def parameters(self, raw: Any, softplus: Callable[[Any], Any] = softplus) -> tuple[Any, Any, Any]:
        """Return logits, locations and scales in levels, `[..., components]` each; see `Normal.parameters`."""
        n, half = self.components, (self.levels - 1) / 2
        scales = softplus(raw[..., 2 * n :]) * half / 4 + _MIN_LEVELS
        return raw[..., :n], (raw[..., n : 2 * n] + 1) * half, scales

    def predict(self, raw: Array) -> Array:
        """Return the most likely level, int64 `[...]`."""
        return np.asarray(self.log_probabilities(raw).argmax(-1), np.int64)

    def log_probabilities(self, raw: Array) -> Array:
        """Return the log probability of each level, `[..., levels]`."""
        scores, locations, scales = (x[..., None, :] for x in self.parameters(np.asarray(raw, np.float64)))
        bounds = np.concatenate([[-_OUTERMOST], np.arange(1, self.levels) - 0.5, [_OUTERMOST + self.levels]])[:, None]
        low, high = (bounds[:-1] - locations) / scales, (bounds[1:] - locations) / scales
        # sigmoid(high) - sigmoid(low), written as a product that is exact in both tails.
        logs = -softplus(-high) - softplus(low) + np.log(-np.expm1(low - high))
        joint = logs + scores - np.logaddexp.reduce(scores, -1, keepdims=True)
        return np.asarray(np.logaddexp.reduce(joint, -1))

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        scores = self.log_probabilities(raw)
        return np.asarray((scores + temperature * generator.gumbel(size=scores.shape)).argmax(-1), np.int64)


@dataclass(frozen=True)
class Bernoulli(Output):
    """Independent bits; the raw values are logits."""

    kind = "bernoulli"
    units: int

    @property
    def width(self) -> int:
        return self.units

    @property
    def target_shape(self) -> tuple[int, ...]:
        return (self.units,)

    def probabilities(self, raw: Array) -> Array:
        """Return the probability of a 1 for each bit, `[..., units]`."""
        return np.asarray(np.exp(-softplus(-raw)))

    def predict(self, raw: Array) -> Array:
        """Return 1 where the probability exceeds one half and 0 elsewhere, int64 `[..., units]`."""
        return np.asarray(raw > 0, np.int64)

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        # Logistic noise exceeds -raw / temperature with the probability of a 1.
        return self.predict(raw + temperature * generator.logistic(size=raw.shape))


@dataclass(frozen=True)
class _Regression(Output):
    """Real-valued targets, each described by a fixed number of raw values."""

    numbers: ClassVar[int]
    targets: int

    @property
    def width(self) -> int:
        return self.targets * self.numbers

    @property
    def target_shape(self) -> tuple[int, ...]:
        return (self.targets,)


@dataclass(frozen=True)
class Point(_Regression):
    """Point predictions, without a distribution.

    Args:
        targets: the number of values.
        loss: "mse", the squared error, to predict means, or "mae", the absolute error, to predict medians.
    """

    kind, numbers = "point", 1
    loss: PointLoss

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in get_args(PointLoss):
            raise UserError(f"loss must be one of {', '.join(get_args(PointLoss))}, got {self.loss!r}")

    def predict(self, raw: Array) -> Array:
        """Return the values, `[..., targets]`."""
        return raw

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        raise UserError("a point output has no distribution to sample from; use predict, or train another output")


@dataclass(frozen=True)
class Signal(_Regression):
    """Samples of a signal, trained with the error-to-signal ratio (Wright et al. 2019, DAFx-19).

    Args:
        targets: the number of channels.
        pre_emphasis: the coefficient a of the filter y[t] - a y[t-1], applied to outputs and targets; 0 for none.
        dc: the weight of the error of the mean in the loss; the error-to-signal ratio has weight 1 - dc.
    """

    kind, numbers = "signal", 1
    pre_emphasis: float = 0.85
    dc: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pre_emphasis", "dc"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"{name} must be a number from 0 to 1, got {value!r}")

    def predict(self, raw: Array) -> Array:
        """Return the samples, `[..., targets]`."""
        return raw

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        raise UserError("a signal output has no distribution to sample from; use predict")


@dataclass(frozen=True)
class Quantiles(_Regression):
    """Quantiles of each target (Koenker & Bassett 1978).

    Args:
        targets: the number of values.
        levels: the probabilities of the quantiles, between 0 and 1 in ascending order.
    """

    kind = "quantiles"
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = self.levels  # a list or anything else if read from JSON
        numbers = isinstance(levels, list | tuple) and len(levels) > 0 and all(isinstance(x, Real) for x in levels)
        if not numbers or not all(a < b for a, b in pairwise((0, *levels, 1))):
            raise UserError(f"levels must be numbers between 0 and 1 in ascending order, got {levels!r}")
        object.__setattr__(self, "levels", tuple(map(float, levels)))

    @property
    def width(self) -> int:
        return self.targets * len(self.levels)

    def by_level(self, raw: Any) -> Any:
        """Return an array or tensor `[..., width]` as `[..., targets, levels]`."""
        return raw.reshape(*raw.shape[:-1], self.targets, len(self.levels))

    def predict(self, raw: Array) -> Array:
        """Return the quantiles `[..., targets, levels]`, sorted, because a network's quantiles may cross."""
        return np.sort(self.by_level(raw), -1)

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        quantiles = self.predict(raw)
        median = self._interpolated(quantiles, 0.5)
        drawn = self._interpolated(quantiles, generator.random(quantiles.shape[:-1]))
        spread = math.sqrt(temperature)
        return (1 - spread) * median + spread * drawn  # exact at spreads 0 and 1

    def _interpolated(self, quantiles: Array, levels: Array | float) -> Array:
        """Interpolate linearly between quantiles; the distribution ends at the outermost ones."""
        last = len(self.levels) - 1
        position = np.broadcast_to(np.interp(levels, self.levels, np.arange(last + 1.0)), quantiles.shape[:-1])
        below = position.astype(np.int64)
        indices = np.stack([below, np.minimum(below + 1, last)], -1)
        low, high = np.moveaxis(np.take_along_axis(quantiles, indices, -1), -1, 0)
        return np.asarray(low + (position - below) * (high - low))


@dataclass(frozen=True)
class Normal(_Regression):
    """Independent normal distributions; the raw values are all means, then all scales before softplus."""

    kind, numbers = "normal", 2

    def parameters(self, raw: Any, softplus: Callable[[Any], Any] = softplus) -> tuple[Any, Any]:
        """Return the means and the standard deviations, each `[..., targets]`.

        Args:
            raw: an array `[..., width]`, or a tensor if `softplus` takes tensors.
        """
        n = self.targets
        return raw[..., :n], softplus(raw[..., n:]) + _MIN_SCALE

    def predict(self, raw: Array) -> Array:
        """Return the means, `[..., targets]`."""
        return np.asarray(self.parameters(raw)[0])

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        mean, scale = self.parameters(raw)
        return np.asarray(mean + math.sqrt(temperature) * scale * generator.standard_normal(mean.shape))


@dataclass(frozen=True)
class StudentT(_Regression):
    """Independent Student t distributions, robust to outliers.

    The raw values are all locations, then all scales and all degrees of freedom, both before softplus.
    """

    kind, numbers = "student_t", 3

    def parameters(self, raw: Any, softplus: Callable[[Any], Any] = softplus) -> tuple[Any, Any, Any]:
        """Return degrees of freedom, locations and scales, `[..., targets]` each; see `Normal.parameters`."""
        n = self.targets
        location, scale, degrees = raw[..., :n], raw[..., n : 2 * n], raw[..., 2 * n :]
        return _MIN_DEGREES + softplus(degrees), location, softplus(scale) + _MIN_SCALE

    def predict(self, raw: Array) -> Array:
        """Return the locations, which are also the means, `[..., targets]`."""
        return np.asarray(self.parameters(raw)[1])

    def _draw(self, raw: Array, generator: np.random.Generator, temperature: float) -> Array:
        degrees, location, scale = self.parameters(raw)
        return np.asarray(location + math.sqrt(temperature) * scale * generator.standard_t(degrees))


_KINDS: dict[str, type[Output]] = {
    output.kind: output
    for output in (Categorical, LogisticMixture, Bernoulli, Point, Signal, Quantiles, Normal, StudentT)
}


def from_data(data: object) -> Output:
    """Create an output from the plain data that `to_data` returned.

    Raises:
        ModelError: if the data are damaged or of an unknown kind.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(kind, str):
        raise ModelError(f"an output must be a dict with a kind, got {data!r}")
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise ModelError(f"unknown output {kind!r}{nearest(kind, _KINDS)}; expected one of {known}")
    settings = {name: value for name, value in data.items() if name != "kind"}
    expected = [field.name for field in fields(_KINDS[kind])]
    if settings.keys() != set(expected):
        raise ModelError(
            f"the output {kind!r} must have {', '.join(expected)}, got {', '.join(map(str, settings)) or 'nothing'}"
        )
    try:
        return _KINDS[kind](**settings)
    except UserError as error:
        raise ModelError(f"the output {kind!r} is damaged: {error}") from None

"""Scale time series and their covariates and encode them for a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from throughtime.data.limits import Scaling
from throughtime.data.seasons import BLOCK, SEASONED, block_mean, found_season, seasonal_error
from throughtime.data.timeline import Timeline
from throughtime.data.timeseries import Columns, Series, TimeSeries
from throughtime.errors import DataError, nearest
from throughtime.spelling import option

Array = NDArray[Any]

_MAX_IDENTIFIED = 1000  # the maximum number of series to identify; each adds an input feature


@dataclass(frozen=True)
class Scale:
    """A shift and a factor: numbers are encoded by subtracting the shift and dividing by the factor."""

    shift: float
    factor: float

    @classmethod
    def fit(cls, values: Array, how: Scaling = "standard") -> Self:
        """Fit a scale to numbers; NaN is ignored, and constant numbers have a factor of 1.

        Args:
            values: the numbers `[n]`.
            how: "standard" uses the mean and the standard deviation; "robust" uses the median and the interquartile
                range divided by 1.349, its value for a standard normal distribution; "mean" divides by the mean
                absolute value.
        """
        if np.isnan(values).all():
            return cls(0.0, 1.0)
        if how == "robust":
            low, shift, high = map(float, np.nanquantile(values, (0.25, 0.5, 0.75)))
            factor = (high - low) / 1.349
        elif how == "mean":
            shift, factor = 0.0, block_mean(np.abs, values)
        else:
            shift = block_mean(lambda block: block, values)
            factor = block_mean(lambda block: np.square(block - shift), values) ** 0.5
        # Rounding makes the deviation of equal values about 1e-16 of their size.
        return cls(shift, factor if factor > 1e-14 * abs(shift) else 1.0)

    def encode(self, values: Array) -> Array:
        """Convert numbers to the common scale (float32)."""
        return ((values - self.shift) / self.factor).astype(np.float32)

    def decode(self, values: Array) -> Array:
        """Convert numbers back to their original scale (float64)."""
        return values.astype(np.float64) * self.factor + self.shift


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded series, concatenated in flat arrays with padding for windows that extend beyond their ends.

    Attributes:
        names: the names of the series.
        scales: the scale of each series' target.
        errors: the mean absolute error of the seasonal naive forecast in training for each series `[S]`, at the common
            scale; the divisor of MASE.
        starts: the first position of each series on the timeline `[S]`.
        lengths: the number of rows of each series up to its last target `[S]`.
        offsets: the index of each series' first row in the flat arrays `[S]`.
        values: the targets `[N]` (float32), 0 where missing.
        observed: whether there is a target `[N]` (bool).
        past: the past covariates `[N, P]` (float32).
        future: the future covariates `[N, F]` (float32), 0 where missing.
        known: the number of rows with future covariates in each series `[S]`.
        static: the static covariates and, if the codec includes it, the identity `[S, K]` (float32).
    """

    names: Sequence[str]
    scales: Sequence[Scale]
    errors: Array
    starts: Array
    lengths: Array
    offsets: Array
    values: Array
    observed: Array
    past: Array
    future: Array
    known: Array
    static: Array


@dataclass(frozen=True)
class SeriesCodec:
    """The encoding of a table's series, fitted to the training part.

    Attributes:
        columns: the table's columns.
        timeline: the table's timestamps.
        scales: the scale of each series' target, by name.
        errors: the divisor of MASE for each series, at the common scale.
        ends: for each series, the position after the last row used for training or validation.
        past, future: the scales of the covariates.
        static: for each static covariate, its scale or its categories.
        season: the length of a season in steps; 1 if there is none.
        context: the number of rows a forecast looks back.
        segment: the number of rows per step of the network.
        masked: whether the network reads a mask of missing values.
        identified: whether the network reads the series' identity, as a one-hot static covariate.
        cycles: the periods of the calendar features.
    """

    columns: Columns
    timeline: Timeline
    scales: Mapping[str, Scale]
    errors: Mapping[str, float]
    ends: Mapping[str, int]
    past: tuple[Scale, ...]
    future: tuple[Scale, ...]
    static: tuple[Scale | tuple[str, ...], ...]
    season: int
    context: int
    segment: int
    masked: bool
    identified: bool
    cycles: tuple[int, ...]

    @property
    def static_width(self) -> int:
        """The number of features that encode a series' static covariates and identity."""
        own = len(self.scales) if self.identified else 0
        return own + sum(1 if isinstance(each, Scale) else len(each) for each in self.static)

    def encode(self, table: TimeSeries, margin: int) -> Encoded:
        """Encode a table's series.

        Args:
            table: the series.
            margin: the number of padding rows before and after each series.

        Raises:
            DataError: if a series or a category is unknown, or the rows have a different interval.
        """
        line = self.timeline
        if (table.timeline.unit, table.timeline.step) != (line.unit, line.step):
            raise DataError(
                f"{table.name} has one row every {table.timeline.text}, but the network was trained on one row every "
                f"{line.text}; resample the table"
            )
        unknown = [series.name for series in table.series if series.name not in self.scales]
        if unknown:
            raise DataError(
                f"{table.name} has {len(unknown)} series that were not in training, such as {unknown[0]!r}"
                f"{nearest(unknown[0], self.scales)}. Forecasts need series from training: remove the others, "
                "or train again with them"
            )
        sizes = np.array([len(series.future) for series in table.series])
        offsets = np.cumsum(np.concatenate([[0], sizes[:-1] + margin])) + margin
        total = int(offsets[-1] + sizes[-1] + margin)
        values, observed = np.zeros(total, np.float32), np.zeros(total, bool)
        past = np.zeros((total, len(self.past)), np.float32)
        future = np.zeros((total, len(self.future)), np.float32)
        for series, offset in zip(table.series, offsets.tolist(), strict=True):
            here = slice(offset, offset + len(series))
            observed[here] = ~np.isnan(series.values)
            scale = self.scales[series.name]
            for start in range(0, len(series), BLOCK):
                block = series.values[start : start + BLOCK]
                values[offset + start : offset + start + len(block)] = np.nan_to_num(scale.encode(block))
            _encode(past[here], series.past, self.past)
            _encode(future[offset : offset + len(series.future)], series.future, self.future)
        return Encoded(
            [series.name for series in table.series],
            [self.scales[series.name] for series in table.series],
            np.array([self.errors[series.name] for series in table.series]),
            np.array([series.start for series in table.series], np.int64),
            np.array([len(series) for series in table.series], np.int64),
            offsets.astype(np.int64),
            values,
            observed,
            past,
            future,
            np.array([_known(series.future) for series in table.series], np.int64),
            np.stack([self._static(series, table.name) for series in table.series]),
        )

    def _static(self, series: Series, table: str) -> Array:
        found = [np.array([series.name == name for name in self.scales], np.float32)] if self.identified else []
        for column, text, how in zip(self.columns.static, series.static, self.static, strict=True):
            if isinstance(how, Scale):
                number = _number(text)
                if number is None:
                    raise DataError(f"{table}: the static column {column!r} must be a number, got {text!r}")
                found.append(how.encode(np.array([number])))
            elif text in how:
                found.append(np.array([text == each for each in how], np.float32))
            else:
                raise DataError(f"{table}: the static column {column!r} has the new category {text!r}; known: {how}")
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return {
            "kind": "series",
            "columns": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.columns).items()},
            "timeline": self.timeline.to_data(),
            "scales": {name: _plain(scale) for name, scale in self.scales.items()},
            "errors": dict(self.errors),
            "ends": dict(self.ends),
            "past": list(map(_plain, self.past)),
            "future": list(map(_plain, self.future)),
            "static": [_plain(each) if isinstance(each, Scale) else {"categories": list(each)} for each in self.static],
            **{name: getattr(self, name) for name in ("season", "context", "segment", "masked", "identified")},
            "cycles": list(self.cycles),
        }

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        try:
            columns: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in data["columns"].items()
            }
            season, context, segment = (int(data[name]) for name in ("season", "context", "segment"))
            if min(season, context, segment) < 1:
                raise ValueError("season, context and segment must be positive")
            return cls(
                Columns(**columns),
                Timeline.of_data(data["timeline"]),
                {str(name): _scale(each) for name, each in data["scales"].items()},
                {str(name): float(each) for name, each in data["errors"].items()},
                {str(name): int(each) for name, each in data["ends"].items()},
                tuple(map(_scale, data["past"])),
                tuple(map(_scale, data["future"])),
                tuple(tuple(e["categories"]) if isinstance(e, dict) else _scale(e) for e in data["static"]),
                season,
                context,
                segment,
                bool(data["masked"]),
                bool(data["identified"]),
                tuple(map(int, data["cycles"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"damaged codec of series: {type(error).__name__}: {error}") from None


def fit_codec(
    table: TimeSeries,
    train: Sequence[int],
    seen: Sequence[int],
    *,
    scaling: Scaling,
    season: int | None,
    context: int,
    segment: int,
    identify: bool,
    calendar: bool,
) -> SeriesCodec:
    """Fit a codec to the training part.

    Args:
        table: the series.
        train: the number of training rows of each series; later values are not used.
        seen: the number of training and validation rows of each series.
        scaling: the scaling of targets (see `Scale.fit`).
        season: the length of a season in steps; detected if None.
        context, segment: see `SeriesCodec`.
        identify: whether the network reads the series' identity.
        calendar: whether to use calendar features.

    Raises:
        DataError: if all series are constant in the training part, or there are too many to identify.
    """
    assert scaling in get_args(Scaling)
    if identify and len(table.series) > _MAX_IDENTIFIED:
        raise DataError(
            f"{table.name} has {len(table.series):,} series; {option('identify')} is for at most {_MAX_IDENTIFIED:,}. "
            "Describe them by static covariates instead"
        )
    parts = [series.values[:count] for series, count in zip(table.series, train, strict=True)]
    scales = {s.name: Scale.fit(part, scaling) for s, part in zip(table.series, parts, strict=True)}
    if not any(np.nanmax(part) > np.nanmin(part) for part in parts if not np.isnan(part).all()):
        raise DataError(f"{table.name}: the target is constant in the training part, so there is nothing to learn")
    if season is None:
        ends = [scales[s.name].encode(part[-SEASONED:]) for s, part in zip(table.series, parts, strict=True)]
        season = found_season(ends, table.timeline.seasons())
    errors = {
        s.name: seasonal_error(part, season, scales[s.name].factor) for s, part in zip(table.series, parts, strict=True)
    }
    past, future = (
        tuple(
            Scale.fit(
                np.concatenate([getattr(s, kind)[:count, k] for s, count in zip(table.series, train, strict=True)])
            )
            for k in range(len(getattr(table.columns, kind)))
        )
        for kind in ("past", "future")
    )
    static: list[Scale | tuple[str, ...]] = []
    for k in range(len(table.columns.static)):
        texts = [series.static[k] for series in table.series]
        numbers = [_number(text) for text in texts]
        if all(number is not None for number in numbers):
            static.append(Scale.fit(np.array(numbers, float)))
        else:
            static.append(tuple(sorted(set(texts))))
    span = max(train)
    short = any(count < context for count in train)
    return SeriesCodec(
        table.columns,
        table.timeline,
        scales,
        errors,
        {s.name: s.start + count for s, count in zip(table.series, seen, strict=True)},
        past,
        future,
        tuple(static),
        season,
        context,
        segment,
        short or context % segment > 0 or any(bool(np.isnan(part).any()) for part in parts),
        identify,
        table.timeline.cycles(span) if calendar else (),
    )


def _encode(out: Array, values: Array, scales: Sequence[Scale]) -> None:
    for k, scale in enumerate(scales):
        out[:, k] = np.nan_to_num(scale.encode(values[:, k]))


def _known(values: Array) -> int:
    """Return the number of rows up to the last one without missing values."""
    if not values.shape[1]:
        return len(values)
    whole = np.flatnonzero(~np.isnan(values).any(1))
    return int(whole[-1]) + 1 if len(whole) else 0


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _plain(scale: Scale) -> list[float]:
    return [scale.shift, scale.factor]


def _scale(data: Any) -> Scale:
    shift, factor = map(float, data)
    if not (np.isfinite(shift) and np.isfinite(factor) and factor > 0):
        raise ValueError(f"scale {data!r}")
    return Scale(shift, factor)

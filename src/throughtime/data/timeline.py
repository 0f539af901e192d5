"""Regular timestamps: the interval between them, and calendar features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import DataError
from throughtime.spelling import counted, option, setting

_SECOND = 1_000_000  # microseconds
_DAY = 86_400 * _SECOND
_WEEK = 7 * _DAY
_YEAR = 31_556_952 * _SECOND  # the mean Gregorian year
_FIXED = {"us": 1, "ms": 1000, "s": _SECOND, "min": 60 * _SECOND, "h": 3600 * _SECOND, "d": _DAY, "w": _WEEK}
_MONTHS = {"mo": 1, "q": 3, "y": 12}
_MONDAY = 4 * _DAY  # 1970-01-05, a Monday
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """The regular timestamps of a table; all of its series have the same interval.

    Attributes:
        unit: "us" for microseconds since 1970, "month" for calendar months, or "number" for plain integers.
        step: the interval between timestamps, in units.
        phase: the remainder of all timestamps modulo the step, in units.
        day: for months, the day of the month (in microseconds from its start), or -1 for the last day of the month.
        zoned: whether the timestamps are in UTC because those of the table have an offset or a time zone.
    """

    unit: Literal["us", "month", "number"]
    step: int
    phase: int = 0
    day: int = 0
    zoned: bool = False

    @classmethod
    def of(cls, times: Any, series: Integers, name: str, freq: str | None = None) -> tuple[Self, Integers]:
        """Find the interval of timestamps.

        Args:
            times: a polars series of numbers, dates or datetimes.
            series: the series index of each row; rows of a series are adjacent and sorted by time.
            name: the name of the table, for messages.
            freq: the interval, such as "h", "15min", "d", "w" or "mo"; the most frequent one if None.

        Returns:
            The timeline, and the position of each row on it.

        Raises:
            DataError: if there are duplicate timestamps, or they are not a whole number of intervals apart.
        """
        import polars

        same = series[1:] == series[:-1]
        zoned = False
        if times.dtype.is_numeric():
            stamps = times.to_numpy()
            if freq is not None and not freq.isdecimal():
                raise DataError(f"{name}: {setting('freq', freq)} is for dates, but this table's times are numbers")
            if not np.array_equal(stamps, np.round(stamps)):
                raise DataError(f"{name}: numeric times must be integers, got {stamps[0]!r}")
            return cls._fixed("number", stamps.astype(np.int64), same, name, int(freq) if freq else None)
        if times.dtype == polars.Time:
            raise DataError(f"{name}: the times have no date; expected dates, such as 2024-05-01 or 2024-05-01T12:00")
        if getattr(times.dtype, "time_zone", None) is not None:
            times, zoned = times.dt.convert_time_zone("UTC").dt.replace_time_zone(None), True
        times = times.cast(polars.Datetime("us"))
        stamps = times.to_physical().to_numpy()
        count, unit = _parsed(freq, name) if freq is not None else (0, "")
        if unit not in _FIXED:
            found = cls._monthly(stamps, same, name, count * _MONTHS.get(unit, 0), zoned)
            if found is not None:
                return found
        return cls._fixed("us", stamps, same, name, count * _FIXED.get(unit, 0), zoned)

    @classmethod
    def regular(cls, pieces: Iterable[Any], freq: str | None = None) -> tuple[Self, int] | None:
        """Read sorted timestamps of one series with a fixed interval of less than a day.

        Args:
            pieces: polars series of consecutive timestamps, so that a long column needn't be in memory as a whole.
            freq: the expected interval, if set.

        Returns:
            The timeline, and the position of the first row; None if the timestamps are not of this kind.
        """
        import polars

        first, step, before = None, 0, None
        unit: Any = "number"
        zoned = False
        for piece in pieces:
            if isinstance(piece.dtype, polars.Datetime) and piece.dtype.time_unit == "us":
                unit, zoned, piece = "us", piece.dtype.time_zone is not None, piece.to_physical()
            elif not piece.dtype.is_integer():
                return None
            if piece.null_count():
                return None
            stamps = piece.to_numpy().astype(np.int64, copy=False)
            gaps = np.diff(stamps, prepend=stamps[:0] if before is None else before)
            if first is None:
                first = int(stamps[0])
            step = step or (int(gaps[0]) if len(gaps) else 0)
            if step < 1 or (gaps != step).any():
                return None
            before = stamps[-1:]
        if first is None:
            return None
        try:
            given = _parsed(freq, "") if freq is not None and unit == "us" else None
        except DataError:
            return None
        if unit == "us":
            # Days may be parts of months; for other intervals that don't match `freq`, `of` reports the error.
            if step >= _DAY or (given is not None and given[0] * _FIXED.get(given[1], 0) != step):
                return None
        elif freq is not None and freq != str(step):
            return None
        return cls(unit, step, first % step, zoned=zoned), first // step

    @classmethod
    def _fixed(
        cls, unit: Any, stamps: Integers, same: Any, name: str, step: int | None, zoned: bool = False
    ) -> tuple[Self, Integers]:
        """Return a timeline with intervals of equal length."""
        gaps = np.diff(stamps)[same]
        _reject_duplicates(cls(unit, 1, zoned=zoned), stamps, same, name)
        if not step:
            if not len(gaps):
                raise DataError(f"{name}: every series has only one row, so the interval between times is unknown")
            steps, counts = np.unique(gaps, return_counts=True)
            step = int(steps[counts.argmax()])
        line = cls(unit, step, int(stamps[0] % step), zoned=zoned)
        off = np.flatnonzero(stamps % step != line.phase)
        if len(off) and not (gaps % step).any():
            raise DataError(
                f"{name}: the times of the series are offset from each other by less than the interval of {line.text}; "
                "round them to the same interval"
            )
        if len(off):
            raise DataError(
                f"{name}: the times are irregular: {len(off)} of {len(stamps)} are not a multiple of {line.text} after "
                f"the first, such as {line.label_of(int(stamps[off[0]]))}. Resample the table to a regular interval, "
                "or set another interval with freq, such as freq=h for hours"
            )
        return line, stamps // step

    @classmethod
    def _monthly(cls, stamps: Integers, same: Any, name: str, step: int, zoned: bool) -> tuple[Self, Integers] | None:
        """Return a timeline of months, quarters or years; None if the timestamps are not of this kind."""
        moments = stamps.astype("datetime64[us]")
        months = moments.astype("datetime64[M]")
        within = (moments - months).astype(np.int64)
        last = np.asarray(((months + 1) - moments).astype("timedelta64[D]").astype(np.int64) <= 1)
        if (within == within[0]).all():
            day = int(within[0])
        elif last.all() and not (within % _DAY).any():
            day = -1
        elif step:
            raise DataError(f"{name}: the times are on different days of the month; use the first or the last for all")
        else:
            return None
        positions = months.astype(np.int64)
        gaps = np.diff(positions)[same]
        if not step and (not len(gaps) or (gaps == 0).any()):
            return None  # single rows, or duplicates, which _fixed reports
        _reject_duplicates(cls("month", 1, day=day, zoned=zoned), positions, same, name)
        if not step:
            steps, counts = np.unique(gaps, return_counts=True)
            step = int(steps[counts.argmax()])
        if (positions % step != positions[0] % step).any():
            raise DataError(f"{name}: the times are irregular: they are not all {step} months apart")
        return cls("month", step, int(positions[0] % step), day, zoned), positions // step

    @property
    def text(self) -> str:
        """The interval as text, such as "1h", "15min" or "3mo"."""
        if self.unit == "number":
            return str(self.step)
        table = {"mo": 1, "y": 12} if self.unit == "month" else _FIXED
        name = [name for name, size in table.items() if self.step % size == 0][-1]
        return f"{self.step // table[name]}{name}"

    def label(self, position: int) -> str:
        """Return the timestamp of a position as text, in ISO 8601 format unless it is a number."""
        return self.label_of(position * self.step + self.phase)

    def label_of(self, stamp: int) -> str:
        """Return a timestamp in units as text."""
        if self.unit == "number":
            return str(stamp)
        if self.unit == "month":
            months = np.datetime64(stamp, "M")
            moment = (months + 1).astype("datetime64[us]") - np.timedelta64(_DAY, "us")
            if self.day >= 0:
                moment = months.astype("datetime64[us]") + np.timedelta64(self.day, "us")
        else:
            moment = np.datetime64(stamp, "us")
        whole = moment.astype(np.int64) % _SECOND == 0
        text = str(moment.astype("datetime64[s]") if whole else moment).replace("T", " ")
        dates = self.unit == "month" or self.step % _DAY == 0
        return text.removesuffix(" 00:00:00") if dates else text + "+00:00" * self.zoned

    def parsed(self, labels: Sequence[str]) -> Any:
        """Parse labels (see `label`) into an array of integers, or of datetimes, which are in UTC if zoned."""
        if self.unit == "number":
            return np.array(labels, np.int64)
        return np.array([text.removesuffix("+00:00") for text in labels], "datetime64[us]")

    def seasons(self) -> tuple[int, ...]:
        """Return the lengths of likely seasons, in steps."""
        if self.unit == "number":
            return ()
        periods = (12,) if self.unit == "month" else (_DAY, _WEEK, 52 * _WEEK if self.step == _WEEK else _YEAR)
        return tuple(p // self.step for p in periods if p % self.step == 0 and 1 < p // self.step <= 2000)

    def days_off(self, positions: Integers) -> list[str]:
        """Return the days of the week that have no row in a daily table, from Monday on.

        Args:
            positions: the position of each row.
        """
        if (self.unit, self.step) != ("us", _DAY):
            return []
        present = (positions + (self.phase - _MONDAY) // _DAY) % 7
        return [day for k, day in enumerate(_DAYS) if k not in present]

    def cycles(self, steps: int) -> tuple[int, ...]:
        """Return the periods of the calendar features, in units, that the data span at least twice.

        Args:
            steps: the number of steps that the training data span.
        """
        if self.unit == "number":
            return ()
        if self.unit == "month":
            return (12,) if self.step < 12 and steps * self.step >= 24 else ()
        span = steps * self.step
        return tuple(p for p in (_DAY, _WEEK, _YEAR) if p > self.step and span >= 2 * p)

    def features(self, positions: Integers, cycles: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the sine and cosine of the phase in each cycle `[..., 2 * cycles]`."""
        stamps = positions * self.step + self.phase - (_MONDAY if self.unit == "us" else 0)
        found = [function(2 * np.pi * (stamps % p) / p) for p in cycles for function in (np.sin, np.cos)]
        if not found:
            return np.zeros((*positions.shape, 0), np.float32)
        return np.stack(found, -1).astype(np.float32)

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return asdict(self)

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """Create an instance from the data that `to_data` returned.

        Raises:
            ValueError, TypeError: if the data are damaged.
        """
        found = cls(**data)
        if found.unit not in ("us", "month", "number") or type(found.step) is not int or found.step < 1:
            raise ValueError(f"not a timeline: {data!r:.200}")
        return found


def _reject_duplicates(line: Timeline, stamps: Integers, same: Any, name: str) -> None:
    duplicates = np.flatnonzero((np.diff(stamps) == 0) & same)
    if len(duplicates):
        first = line.label_of(int(stamps[duplicates[0]]))
        hint = "" if line.unit == "number" or line.zoned else (
            ". If clocks were set back in autumn, write the times with their offset, such as 2024-10-27T02:30+01:00"
        )  # fmt: skip
        raise DataError(
            f"{name}: {counted(len(duplicates), 'duplicate time')} within a series, such as {first}; keep one row for "
            f"each, or set {option('id')}, the column that identifies the series{hint}"
        )


def _parsed(freq: str, name: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d*) ?([a-z]+)", freq.strip().lower())
    units = [*_FIXED, *_MONTHS]
    if found is None or found[2] not in units or found[1].strip("0") == "" != found[1]:
        raise DataError(
            f"{name}: {setting('freq', freq)} is not an interval; expected a number and one of {', '.join(units)}"
        )
    return int(found[1] or 1), found[2]

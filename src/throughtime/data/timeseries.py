"""Read time series from tables: one series per column (wide) or per value of a column (long), with covariates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.table import ENCODE_TEXT, Table, read_table
from throughtime.data.timeline import Timeline
from throughtime.errors import DataError
from throughtime.paths import display_path
from throughtime.spelling import counted, option

Array = NDArray[Any]

TIME_NAMES = ("ds", "date", "time", "timestamp", "datetime")
_TARGET = "the target"
_MAX_FILLED = 20  # the maximum ratio of missing to present rows; above it, the interval must be wrong


@dataclass(frozen=True)
class Columns:
    """The relevant columns of a table.

    Attributes:
        targets: the columns to forecast; each is a separate series.
        time: the time column; None to use row numbers.
        id: the column that identifies the series; None if there is only one.
        past: covariates known up to the present.
        future: covariates also known for the times to forecast.
        static: covariates that are constant within a series.
    """

    targets: tuple[str, ...]
    time: str | None = None
    id: str | None = None
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        table: Table,
        *,
        target: str | None,
        time: str | None = None,
        id: str | None = None,
        past: str | None = None,
        future: str | None = None,
        static: str | None = None,
    ) -> Columns:
        """Parse and check column names separated by commas, and find columns with conventional names.

        Raises:
            DataError: if a column is missing, or used twice.
        """
        names = table.columns
        lower = {name.lower(): name for name in reversed(names)}
        targets = _split(target) or (("y",) if "y" in names else ())
        if not targets:
            raise DataError(
                f"{table.name}: {option('target')} must name the column to forecast. {table.columns_in_words}"
            )
        if time is None:
            time = next((lower[name] for name in TIME_NAMES if name in lower and lower[name] not in targets), None)
        if id is None and "unique_id" in names:
            id = "unique_id"
        found = cls(targets, time, id, _split(past), _split(future), _split(static))
        used: dict[str, str] = {}
        for keyword, columns in (
            ("target", targets), ("time", [time] if time else []), ("id", [id] if id else []),
            ("past", found.past), ("future", found.future), ("static", found.static),
        ):  # fmt: skip
            for column in columns:
                table.check(column, keyword)
                if column in used:
                    raise DataError(
                        f"{table.name}: column {column!r} is used by both {option(used[column])} and "
                        f"{option(keyword)}; use it once"
                    )
                used[column] = keyword
        return found

    @property
    def all(self) -> tuple[str, ...]:
        """All columns in use."""
        single = tuple(name for name in (self.time, self.id) if name)
        return (*self.targets, *single, *self.past, *self.future, *self.static)


@dataclass(frozen=True, eq=False)
class Series:
    """A series on its timeline.

    Attributes:
        name: the name of the series.
        start: the position of its first row on the timeline.
        values: the target `[T]`, NaN where missing; the last value is present.
        past: the past covariates `[T, past]`, NaN where missing.
        future: the future covariates `[T + ahead, future]`, NaN where missing, including rows after the last target.
        static: the values of the static covariates, as text.
    """

    name: str
    start: int
    values: Array
    past: Array
    future: Array
    static: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class TimeSeries:
    """The series of a table.

    Attributes:
        name: the name of the table.
        columns: the columns that were read.
        timeline: the timestamps.
        series: the series.
        notes: remarks on the data for the user.
    """

    name: str
    columns: Columns
    timeline: Timeline
    series: Sequence[Series]
    notes: Sequence[str] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all series."""
        digest = hashlib.sha256(repr((self.columns, self.timeline)).encode())
        for series in self.series:
            digest.update(repr((series.name, series.start, series.values.shape, series.static)).encode())
            for array in (series.values, series.past, series.future):
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_time_series(
    path: str | Path,
    *,
    target: str | None,
    time: str | None = None,
    id: str | None = None,
    past: str | None = None,
    future: str | None = None,
    static: str | None = None,
    freq: str | None = None,
    encoding_errors: str = "strict",
) -> TimeSeries:
    """Read the series of a .csv, .tsv or .parquet file.

    Rows are sorted by time, and missing timestamps become missing values. With several targets, each is a series, and
    the covariates belong to all of them.

    Args:
        path: the path of the file.
        target, past, future, static: names of columns (see `Columns`), separated by commas.
        time, id: names of columns.
        freq: the interval between rows (see `Timeline.of`).
        encoding_errors: see `read_table`.

    Raises:
        DataError: if the file can't be read, or a column is unsuitable.
    """
    table = read_table(path, encoding_errors)
    columns = Columns.of(table, target=target, time=time, id=id, past=past, future=future, static=static)
    return series_of(table, columns, freq)


def series_of(table: Table, columns: Columns, freq: str | None = None) -> TimeSeries:
    """Return the series of a table (see `read_time_series`)."""
    notes: list[str] = []
    ids = table.filled(columns.id, "id") if columns.id else None
    # A long sorted series is read without copying its times.
    regular = Timeline.regular(table.pieces(columns.time), freq) if columns.time and ids is None else None
    names, group = (["series"], np.zeros(len(table), np.int8)) if ids is None else _numbered(ids)
    order: Any
    positions: Array | None
    first = 0
    if columns.time is None:
        notes.append(f"{option('time')} is not set, so rows are assumed to be equally spaced, in file order")
        order = np.argsort(group, kind="stable")
        group = group[order]
        timeline = Timeline("number", 1)
        positions = np.arange(len(table)) - np.searchsorted(group, group)
    elif regular is not None:
        timeline, first = regular
        order, positions = slice(None), None
    else:
        times = table.instants(columns.time, "time")
        ranks = times.rank("dense").to_numpy()
        order = np.lexsort((ranks, group))
        group = group[order]
        timeline, positions = Timeline.of(times[order], group, table.name, freq)
    read = {name: table.values(name, "target")[order] for name in columns.targets}
    for name, values in read.items():
        if np.isnan(values).all():
            raise DataError(f"{table.name}: target {name!r} has no values")
    covariates = {
        kind: np.stack([table.values(name, kind)[order] for name in names], 1) if names else None
        for kind, names in (("past", columns.past), ("future", columns.future))
    }
    for kind, read_values in covariates.items():
        for k, name in enumerate(getattr(columns, kind)):
            if read_values is not None and np.isnan(read_values[:, k]).all():
                raise DataError(f"{table.name}: column {name!r} ({option(kind)}) has no values; remove it")
    texts = {name: np.array(table.filled(name, "static"), object)[order] for name in columns.static}
    found: list[Series] = []
    all_read = [(_TARGET, values) for values in read.values()] + [
        (name, values[:, k])
        for kind, values in covariates.items()
        if values is not None
        for k, name in enumerate(getattr(columns, kind))
    ]
    missing: Counter[str] = Counter()
    filled = 0
    bounds = [0, *np.cumsum(np.bincount(group, minlength=len(names))).tolist()] if ids else [0, len(table)]
    for k, name in enumerate(names):
        rows = slice(bounds[k], bounds[k + 1])
        count = rows.stop - rows.start
        start = first if positions is None else int(positions[rows.start])
        at = None if positions is None else positions[rows] - start
        grid = count if at is None else int(at[-1]) + 1
        if grid > _MAX_FILLED * count + 100:
            raise DataError(
                f"{table.name}: with an interval of {timeline.text}, {grid - count:,} of {grid:,} rows"
                f"{f' of {name}' if ids else ''} would be missing; set the table's interval with {option('freq')}"
            )
        filled += grid - count
        last = max(_last(values[rows]) for values in read.values())
        if last < 0:
            raise DataError(f"{table.name}: series {name!r} has no values of its target")
        until = slice(rows.start, rows.start + last + 1)
        for column, values in all_read:
            missing[column] += int(np.isnan(values[until]).sum())
        end = (last if at is None else int(at[last])) + 1
        past, future = (
            np.zeros((grid, 0), np.float32) if values is None else _on_grid(values[rows], at, grid)
            for values in covariates.values()
        )
        for target, values in read.items():
            full = target if ids is None else name if len(read) == 1 else f"{name}/{target}"
            static = tuple(_constant(table, column, text[rows], name if ids else "") for column, text in texts.items())
            found.append(Series(full, start, _on_grid(values[rows], at, grid)[:end], past[:end], future, static))
    notes += _gaps(missing, f"{counted(filled, 'missing timestamp')} (interval {timeline.text})" if filled else "")
    days_off = timeline.days_off(positions) if filled and positions is not None else []
    if days_off:
        notes.append(
            f"no row is on a {' or '.join(days_off)}; to forecast only the other days, remove column {columns.time!r}, "
            "so that rows are assumed to be equally spaced"
        )
    unused = [name for name in table.columns if name not in columns.all]
    if unused:
        shown = f"{', '.join(unused[:10])}{', ...' if len(unused) > 10 else ''}"
        notes.append(f"unused columns: {shown}; to let the network read columns, name them with {option('past')}")
    return TimeSeries(table.name, columns, timeline, found, notes)


_OF_TABLE = "\0table"  # not the name of a user's column


def joined(tables: Sequence[Table], columns: Columns) -> Table:
    """Concatenate tables; a row of a later table replaces an earlier row of the same time and series.

    Args:
        tables: the tables; each must have all columns.
        columns: the columns to keep.

    Raises:
        DataError: if a column is unsuitable.
    """
    import polars

    frames = []
    for table in tables:
        found: dict[str, Any] = {name: table.values(name, "target") for name in columns.targets}
        found |= {name: table.values(name, kind) for kind in ("past", "future") for name in getattr(columns, kind)}
        found |= {name: table.filled(name, "static") for name in columns.static}
        if columns.id:
            found[columns.id] = table.filled(columns.id, "id")
        if columns.time:
            found[columns.time] = table.instants(columns.time, "time")
        frames.append(polars.DataFrame(found))
    name = " and ".join(table.name for table in tables)
    try:
        if columns.time and len({frame[columns.time].dtype.is_numeric() for frame in frames}) > 1:
            raise polars.exceptions.SchemaError
        frame = polars.concat(frames, how="vertical_relaxed")
    except polars.exceptions.PolarsError:
        kinds = " and ".join(str(frame[columns.time].dtype) for frame in frames)
        raise DataError(f"{name}: the times must be of one kind, got {kinds}") from None
    if columns.time:
        keys = [columns.time, *([columns.id] if columns.id else [])]
        # Duplicate times within a table remain, and series_of reports them.
        of_table = polars.Series(
            _OF_TABLE, [k for k, each in enumerate(frames) for _ in range(len(each))], polars.Int64
        )
        newest = polars.col(_OF_TABLE).max().over(keys)
        frame = frame.with_columns(of_table).filter(polars.col(_OF_TABLE) == newest).drop(_OF_TABLE)
    return Table(name, frame)


def one_path(paths: Sequence[str | Path] | None) -> str | Path:
    """Return the single path in a list.

    Raises:
        DataError: if there are several or none.
    """
    if not paths or len(paths) > 1:
        listed = ", ".join(display_path(path) for path in paths or ())
        raise DataError(f"forecast reads one table (.csv, .tsv or .parquet), got {listed or 'none'}")
    return paths[0]


def _gaps(missing: Mapping[str, int], absent: str) -> list[str]:
    """Return a note on missing values, if there are any.

    Args:
        missing: the number of missing values in the rows of the target and of each covariate.
        absent: the number of missing timestamps, in words.
    """
    listed = [f"{name} has {counted(count, 'missing value')}" for name, count in missing.items() if count]
    if not listed:
        return [f"{absent}, treated as missing values"] if absent else []
    how = []
    if missing[_TARGET]:
        how.append("the network reads a mask that marks " + ("those of the target" if listed[1:] else "them"))
    if sum(missing.values()) > missing[_TARGET]:
        how.append("missing covariates are replaced by their mean")
    return [f"{' and '.join(listed)}{f', besides {absent}' if absent else ''}; {', and '.join(how)}"]


def _last(values: Array) -> int:
    """Return the index of the last value that is not missing; -1 if all are missing."""
    present = ~np.isnan(values)
    return len(values) - 1 - int(present[::-1].argmax()) if present.any() else -1


def _on_grid(values: Array, at: Array | None, grid: int) -> Array:
    """Place rows `[n, ...]` on a regular grid, with NaN elsewhere."""
    if at is None or grid == len(values):
        return values
    result = np.full((grid, *values.shape[1:]), np.nan, values.dtype)
    result[at] = values
    return result


def _numbered(ids: list[str]) -> tuple[list[str], Array]:
    names, group = np.unique(np.array(ids, object).astype(str), return_inverse=True)
    return [str(name) for name in names], group.astype(np.int64)


def _constant(table: Table, column: str, texts: Array, name: str) -> str:
    if (texts != texts[0]).any():
        where = f"within series {name!r}" if name else "over time"
        advice = f"use {option('past')} or {option('future')} instead"
        if not table.is_numeric(column):
            advice = f"{ENCODE_TEXT}, and name them with {option('past')} or {option('future')}"
        raise DataError(f"{table.name}: the static column {column!r} changes {where}; {advice}")
    return str(texts[0])


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())

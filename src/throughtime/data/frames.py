"""Convert pandas and polars data frames and arrays to a `Table`, and predictions back to the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from throughtime.data.table import Table
from throughtime.data.timeseries import Columns
from throughtime.errors import DataError

KINDS = ("pandas", "polars", "array")


def kind_of(data: Any) -> str:
    """Return the kind of a data frame or an array, one of `KINDS`.

    Raises:
        DataError: if the data are of another type.
    """
    package = type(data).__module__.partition(".")[0]
    if package in ("pandas", "polars"):
        return package
    if isinstance(data, np.ndarray | list | tuple):
        return "array"
    raise DataError(f"expected a pandas or polars data frame or an array, got {type(data).__name__}")


def table_of(data: Any, name: str, *, time: str, target: str) -> Table:
    """Convert a data frame or an array to a table.

    Args:
        data: a pandas or polars data frame, or numbers `[T]` or `[T, series]` with a column per series.
        name: the name of the data in messages.
        time: the column name for the index of a pandas data frame, if it contains times.
        target: the column name for an array, numbered if there are several columns.

    Raises:
        DataError: if the data are of another type, have no rows, or are a non-numeric array.
    """
    import polars

    kind = kind_of(data)
    if kind == "polars":
        if isinstance(data, polars.LazyFrame):
            data = data.collect()
        frame = data.to_frame() if isinstance(data, polars.Series) else data
    elif kind == "pandas":
        frame = polars.DataFrame(_columns_of_pandas(data, time, target))
    else:
        frame = polars.DataFrame(_columns_of_array(data, name, target))
    if frame.height == 0:
        raise DataError(f"{name} has no rows")
    return Table(name, frame)


def array_columns(count: int, target: str) -> list[str]:
    """Return the column names of an array."""
    return [target] if count == 1 else [f"{target}{k}" for k in range(count)]


def frame_like(kind: str, columns: Sequence[str], values: Sequence[Sequence[Any]], utc: Sequence[str] = ()) -> Any:
    """Create a pandas or polars data frame from columns.

    Args:
        kind: "pandas" or "polars".
        columns: the column names.
        values: the values of each column, as NumPy arrays or lists.
        utc: the names of the datetime columns that are in UTC.
    """
    named = dict(zip(columns, values, strict=True))
    if kind == "pandas":
        import pandas

        found = pandas.DataFrame(named)
        return found.assign(**{name: found[name].dt.tz_localize("UTC") for name in utc})
    import polars

    return polars.DataFrame(named).with_columns(polars.col(name).dt.replace_time_zone("UTC") for name in utc)


def with_static(table: Table, static: Table, id: str, names: Sequence[str]) -> Table:
    """Join a table with the static covariates of each series.

    Args:
        table: the series.
        static: a table with one row per series.
        id: the column that identifies the series in both tables.
        names: the columns to add or replace.

    Raises:
        DataError: if a column is missing, or a series has several rows.
    """
    import polars

    table.check(id, "id")
    for column in (id, *names):
        static.check(column, "static")
    # Ids may be text in one table and numbers in the other.
    text = polars.col(id).cast(polars.String)
    left = table.frame.drop(names, strict=False).with_columns(text)
    right = static.frame.select(id, *names).with_columns(text)
    if right[id].is_duplicated().any():
        raise DataError(f"{static.name} must have one row per {id}; some have several")
    return Table(table.name, left.join(right, on=id, how="left", maintain_order="left"))


def continued(table: Table, future: Table, columns: Columns) -> Table:
    """Append rows with future covariates to a table; each series keeps its static covariates.

    Args:
        table: the series.
        future: the rows to append, except those with times that `table` already has.
        columns: the columns to keep.

    Raises:
        DataError: if a column is missing, or times can't be parsed.
    """
    import polars

    keys = [name for name in (columns.id, columns.time) if name]
    for column in (*keys, *columns.future):
        future.check(column, "future")
    frames = []
    for each, names in ((table, columns.all), (future, (*keys, *columns.future))):
        frame = each.frame.select(names)
        if columns.id:
            frame = frame.with_columns(polars.col(columns.id).cast(polars.String))
        if columns.time:
            frame = frame.with_columns(each.instants(columns.time, "time").alias(columns.time))
        frames.append(frame)
    frame = polars.concat(frames, how="diagonal_relaxed")
    if columns.static:
        filled = polars.col(columns.static).forward_fill()
        frame = frame.with_columns(filled.over(columns.id) if columns.id else filled)
    if keys:
        frame = frame.unique(keys, keep="first", maintain_order=True)
    return Table(table.name, frame)


def _columns_of_array(data: Any, name: str, target: str) -> dict[str, Any]:
    try:
        values = np.asarray(data, float)
    except (TypeError, ValueError):
        raise DataError(f"{name} must hold numbers, as an array [T] or [T, series]") from None
    if values.ndim not in (1, 2) or 0 in values.shape:
        raise DataError(f"{name} must have the shape [T] or [T, series], got {list(values.shape)}")
    values = values.reshape(len(values), -1)
    return dict(zip(array_columns(values.shape[1], target), values.T, strict=True))


def _columns_of_pandas(data: Any, time: str, target: str) -> dict[str, Any]:
    import pandas

    if isinstance(data, pandas.Series):
        data = data.to_frame(target if data.name is None else data.name)
    if isinstance(data.index, pandas.PeriodIndex):
        data = data.set_axis(data.index.to_timestamp())
    if isinstance(data.index, pandas.DatetimeIndex) and time not in data.columns:
        data = data.rename_axis(time).reset_index()
    return {str(name): _column_of_pandas(data[name]) for name in data.columns}


def _column_of_pandas(column: Any) -> Any:
    import pandas
    import polars

    kind = column.dtype
    if isinstance(kind, pandas.DatetimeTZDtype):
        utc = column.dt.tz_convert("UTC").dt.tz_localize(None)
        return polars.Series(utc.to_numpy("datetime64[us]")).dt.replace_time_zone("UTC")
    if isinstance(kind, pandas.PeriodDtype):
        column = column.dt.to_timestamp()
        kind = column.dtype
    if kind.kind == "M":
        return column.to_numpy("datetime64[us]")
    if isinstance(kind, np.dtype) and kind.kind in "iufb":
        return column.to_numpy()
    if pandas.api.types.is_numeric_dtype(kind):
        return column.to_numpy(float, na_value=np.nan)
    return [None if absent else str(value) for value, absent in zip(column, column.isna(), strict=True)]

"""Read tables from CSV and Parquet files, with validated columns of text, numbers and times."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.lines import read_whole
from throughtime.errors import DataError, nearest
from throughtime.packages import require
from throughtime.paths import display_path, missing
from throughtime.spelling import option

SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLES = (*SEPARATORS, ".parquet")
"""The file extensions of tables."""

ENCODE_TEXT = "encode the text as columns of 0 and 1, one for each value"
"""Advice for covariates that contain text and change over time."""

_PIECE = 1_000_000  # rows of a long column to read at a time
_MISSING = ["", "na", "n/a", "nan", "null", "none", "?"]  # spellings of a missing number


@dataclass(frozen=True)
class Table:
    """A table. Messages count its rows from 1, excluding the header.

    Attributes:
        name: the path as shown in messages.
        frame: a polars DataFrame, or a lazily read Parquet file.
    """

    name: str
    frame: Any

    @property
    def columns(self) -> list[str]:
        """The column names."""
        names: list[str] = self.frame.columns
        return names

    @property
    def columns_in_words(self) -> str:
        """A sentence about the columns, for messages; it says if the separator seems wrong or the header missing."""
        expected = SEPARATORS.get(Path(self.name).suffix.lower())
        if expected and len(self.columns) == 1 and (other := _other_separator(self.columns[0], expected)):
            return f"Its only column is {self.columns[0]!r:.100}: {other}"
        without = expected and any(map(_is_value, self.columns))
        hint = "; the file seems to have no header: add one as its first line" if without else ""
        return f"Its columns are {_listed(self.columns)}{hint}"

    def __len__(self) -> int:
        return int(self.frame.height)

    def check(self, column: str, keyword: str) -> None:
        """Check that a column exists; the message names the option `keyword`.

        Raises:
            DataError: if it doesn't exist.
        """
        if column not in self.columns:
            raise DataError(
                f"{self.name} has no column {column!r} for {option(keyword)}{nearest(column, self.columns)}. "
                f"{self.columns_in_words}"
            )

    def pieces(self, column: str) -> Iterator[Any]:
        """Yield a column as several polars series; a Parquet file is read one part at a time."""
        if isinstance(self.frame, _Parquet):
            yield from self.frame.pieces(column)
        else:
            for start in range(0, len(self), _PIECE):
                yield self.frame[column].slice(start, _PIECE)

    def strings(self, column: str) -> list[str | None]:
        """Return the values of a column as text, with None for missing or blank ones."""
        import polars

        values: list[str | None] = self.frame[column].cast(polars.String, strict=False).to_list()
        return [None if value is None or not value.strip() else value for value in values]

    def filled(self, column: str, keyword: str) -> list[str]:
        """Return the values of a column as text without surrounding spaces.

        Raises:
            DataError: if there is no such column, or a value is missing.
        """
        self.check(column, keyword)
        values = self.strings(column)
        empty = [k for k, value in enumerate(values) if value is None]
        if len(empty) == len(values):
            raise DataError(f"{self.name}: column {column!r} ({option(keyword)}) has no values")
        if empty:
            raise DataError(
                f"{self.name}: column {column!r} ({option(keyword)}) has {_count(empty, 'missing value')}; "
                "fill these cells or drop their rows"
            )
        return [value.strip() for value in values if value is not None]

    def is_numeric(self, column: str) -> bool:
        """Return whether a column is numeric, or a text column with at least one number."""
        numbers, _ = self._numbers(column)
        return numbers is not None and (self.frame[column].dtype.is_numeric() or bool(np.isfinite(numbers).any()))

    def numbers(self, column: str, advice: str = "") -> NDArray[np.float64]:
        """Return the numbers of a column `[rows]`.

        Args:
            column: the column.
            advice: what a user can do other than correct the table, for messages.

        Raises:
            DataError: if a value is missing, infinite or not a number.
        """
        numbers, wrong = self._numbers(column)
        instead = f", or {advice}" if advice else ""
        if numbers is None:
            raise DataError(
                f"{self.name}: column {column!r} has type {self.frame[column].dtype}, not numbers; correct the file"
                f"{instead}"
            )
        if wrong:
            value = self.frame[column][wrong[0]]
            raise DataError(
                f"{self.name}: column {column!r} has {_count(wrong, 'value')} that "
                f"{'is not a number' if len(wrong) == 1 else 'are not numbers'}, such as {value!r}; "
                f"correct the file{instead}"
            )
        empty = np.flatnonzero(~np.isfinite(numbers)).tolist()
        if empty:
            raise DataError(
                f"{self.name}: column {column!r} has {_count(empty, 'missing or infinite value')} "
                f"among {len(self)} rows; fill these cells or drop their rows{instead}"
            )
        return numbers

    def times(self, column: str, keyword: str) -> NDArray[np.int64]:
        """Return the rank of each row's time among the distinct times of the column `[rows]`.

        Raises:
            DataError: if there is no such column, or a value is missing or neither a number nor an ISO 8601 date or
                time.
        """
        import polars

        ranks: NDArray[np.int64] = self.instants(column, keyword).rank("dense").cast(polars.Int64).to_numpy()
        return ranks

    def stamps(self, column: str, keyword: str) -> NDArray[np.float64]:
        """Return the times of a column as numbers: microseconds for dates and datetimes, nanoseconds for times of day.

        Raises:
            DataError: see `instants`.
        """
        import polars

        times = self.instants(column, keyword)
        if times.dtype.is_temporal() and times.dtype != polars.Time:
            times = times.cast(polars.Datetime("us"))
        stamps: NDArray[np.float64] = times.to_physical().cast(polars.Float64).to_numpy()
        return stamps

    def instants(self, column: str, keyword: str) -> Any:
        """Return the times of a column as a polars series of numbers, dates, datetimes or times of day.

        Raises:
            DataError: if there is no such column, or a value is missing or neither a number nor an ISO 8601 date or
                time.
        """
        import polars

        self.check(column, keyword)
        series = self.frame[column]
        if series.dtype == polars.String or series.null_count():
            self.filled(column, keyword)
        if series.dtype == polars.String:
            series = _parsed_times(series.str.strip_chars())
        if series is None or not (series.dtype.is_numeric() or series.dtype.is_temporal()):
            raise DataError(
                f"{self.name}: column {column!r} ({option(keyword)}) must contain numbers or ISO 8601 dates and times "
                f"(2024-05-01, 2024-05-01T12:30:00), all of one kind; got {self.frame[column][0]!r} in row 1"
            )
        if series.dtype.is_float() and not series.is_finite().all():
            raise DataError(f"{self.name}: column {column!r} ({option(keyword)}) has times that are not finite")
        return series

    def values(self, column: str, keyword: str) -> NDArray[np.floating[Any]]:
        """Return the numbers of a column `[rows]`, NaN where missing; float32 if the column is, otherwise float64.

        Raises:
            DataError: if there is no such column, or a value is infinite or not a number.
        """
        import polars

        self.check(column, keyword)
        series = self.frame[column]
        if series.dtype == polars.Float32:
            numbers: NDArray[np.floating[Any]] = (
                series.fill_null(np.nan) if series.null_count() else series
            ).to_numpy()
        else:
            found, wrong = self._numbers(column)
            if found is None or wrong:
                at = wrong[0] if wrong else 0
                is_text = keyword != "target" and found is not None and np.isnan(found).all()
                advice = f"; only static columns can contain text: {ENCODE_TEXT}" if is_text else ""
                raise DataError(
                    f"{self.name}: column {column!r} ({option(keyword)}) must contain numbers, got "
                    f"{self.frame[column][at]!r} in row {at + 1}{advice}"
                )
            numbers = found
        infinite = np.flatnonzero(np.isinf(numbers)).tolist()
        if infinite:
            raise DataError(
                f"{self.name}: column {column!r} ({option(keyword)}) has {_count(infinite, 'infinite value')}; "
                "correct these cells, or leave them empty to mark them as missing"
            )
        return numbers

    def _numbers(self, column: str) -> tuple[NDArray[np.float64] | None, list[int]]:
        """Return a column's numbers (NaN where missing) and the rows that aren't numeric; None for other types."""
        import polars

        series = self.frame[column]
        wrong: list[int] = []
        if series.dtype == polars.String:
            text = series.str.strip_chars()
            absent = text.is_null() | text.str.to_lowercase().is_in(_MISSING)
            series = text.cast(polars.Float64, strict=False)
            wrong = np.flatnonzero((series.is_null() & ~absent).to_numpy()).tolist()
        elif not (series.dtype.is_numeric() or series.dtype in (polars.Boolean, polars.Null)):
            return None, wrong
        numbers: NDArray[np.float64] = series.cast(polars.Float64).fill_null(np.nan).to_numpy()
        return numbers, wrong


def read_table(path: str | Path, encoding_errors: str = "strict") -> Table:
    """Read a table from a .csv, .tsv or .parquet file. Columns of .csv and .tsv files contain text.

    Args:
        path: the path of the file.
        encoding_errors: how to handle bytes of a .csv or .tsv file that are not UTF-8 (see `read_whole`).

    Raises:
        DataError: if the file is missing, unreadable, not a table, or has no rows.
        UserError: if polars is not installed.
    """
    require("polars", "train", "reading tables")
    import polars

    path = Path(path)
    name, kind = display_path(path), path.suffix.lower()
    if not path.exists():
        raise DataError(missing(path))
    if kind not in TABLES:
        raise DataError(f"{name} is not a table; expected a .csv, .tsv or .parquet file")
    try:
        if kind == ".parquet":
            frame = _Parquet(path, name)
        else:
            content = read_whole(path, encoding_errors).encode()
            frame = polars.read_csv(io.BytesIO(content), separator=SEPARATORS[kind], infer_schema=False)
            frame = frame.rename(str.strip)
    except polars.exceptions.NoDataError:
        raise DataError(f"{name} is empty; expected a table with a header") from None
    except (polars.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        if "more fields" in reason:  # polars suggests an argument that users of this package can't set
            header, expected = io.BytesIO(content).readline().decode(), SEPARATORS[kind]
            reason = "a row has more cells than the header has columns; quote cells that contain the separator"
            if expected not in header and (other := _other_separator(header, expected)):
                reason = other + ", and decimal points in numbers" * (expected == ",")
        raise DataError(f"{name} is not a readable {kind} table: {reason}") from None
    if frame.height == 0:
        raise DataError(f"{name} has no rows below its header")
    return Table(name, frame)


def _other_separator(header: str, expected: str) -> str:
    """Describe the separator that a header seems to use instead of the expected one; "" if it contains no other."""
    shown = {";": "semicolons", "\t": "tabs", ",": "commas"}
    found = next((name for separator, name in shown.items() if separator != expected and separator in header), "")
    return found and f"the cells seem to be separated by {found}; expected {shown[expected]}"


def _is_value(name: str) -> bool:
    """Return whether a column's name looks like a cell below the header: a date or a decimal number."""
    return re.match(r"\d{4}-\d\d-\d\d|[+-]?\d*\.\d+$", name) is not None


class _Parquet:
    """A Parquet file whose columns are read on demand."""

    def __init__(self, path: Path, name: str) -> None:
        import polars

        self._path, self._name = path, name
        self.schema = polars.read_parquet_schema(path)
        self.columns = list(self.schema)
        self.height: int = polars.scan_parquet(path).select(polars.len()).collect().item()

    def __getitem__(self, column: str) -> Any:
        return self._read(column)

    def pieces(self, column: str) -> Iterator[Any]:
        for start in range(0, self.height, _PIECE):
            yield self._read(column, start, _PIECE)

    def _read(self, column: str, start: int = 0, count: int | None = None) -> Any:
        import polars

        try:
            return polars.scan_parquet(self._path).select(column).slice(start, count).collect()[column]
        except (polars.exceptions.PolarsError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"{self._name} is not a readable .parquet table: {reason}") from None


def _parsed_times(text: Any) -> Any:
    """Parse a text column as numbers, datetimes or times of day; return None if they are not all of one kind."""
    import polars

    strings = text.str
    parsers: list[tuple[Callable[..., Any], list[Any]]] = [(text.cast, [polars.Int64]), (text.cast, [polars.Float64])]
    if strings.contains(r"^\d{4}\D").all():  # year first; polars would have to guess the month in 02/03
        parsers.append((strings.to_datetime, []))
    parsers.append((strings.to_time, []))
    for parse, arguments in parsers:
        try:
            parsed = parse(*arguments, strict=False)
        except polars.exceptions.PolarsError:
            continue
        if parsed.null_count() == 0:
            return parsed
    return None


def _count(rows: Sequence[int], what: str) -> str:
    return (
        f"1 {what} (row {rows[0] + 1})" if len(rows) == 1 else f"{len(rows)} {what}s (the first in row {rows[0] + 1})"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")

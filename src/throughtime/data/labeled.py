"""Read sequences with one label each from directories of text and from tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.lines import read_lines, read_whole
from throughtime.data.sound import Recording
from throughtime.data.table import TABLES, Table, read_table
from throughtime.data.text import TEXT_FILES
from throughtime.errors import DataError, nearest
from throughtime.paths import display_path, files_in, joint_name, missing, types_in_words
from throughtime.spelling import counted, option

Paths = str | Path | Sequence[str | Path]

GAP = "dt"
"""The name of the feature, and of the cell's input, for the time since the previous row."""

_SOURCES = (
    "a directory with one .txt file per label and one sequence per line, a directory with one subdirectory of .txt "
    f"files per label, or a table ({', '.join(TABLES)})"
)


@dataclass(frozen=True)
class _Columns:
    """The columns of a table by their role; see `read_labeled`."""

    label: str | None
    text: str | None
    group: str | None
    time: str | None
    gaps: bool
    features: Sequence[str] | None
    group_by: str | None
    trained: bool  # whether a trained network reads these features


@dataclass(frozen=True)
class Labeled:
    """Sequences with one label each: either texts, series or sounds.

    Attributes:
        name: the name of the data in reports.
        labels: the label of each sequence; empty if labels were not read.
        names: the name of each sequence in reports: its file and line, its row, or its group.
        texts: the sequences, if they are text.
        series: the sequences, if they are numeric, each `[T, F]` (float64).
        recordings: the sequences, if they are sounds.
        features: the names of the F features.
        groups: the group of each sequence; None without `group_by`.
        notes: remarks on the data for the user, one sentence each.
        source: the name that labels are taken from, such as "the file's name"; "" if they are values of a table.
    """

    name: str
    labels: list[str]
    names: list[str]
    texts: list[str] | None = None
    series: list[NDArray[np.float64]] | None = None
    recordings: list[Recording] | None = None
    features: tuple[str, ...] = ()
    groups: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    source: str = ""

    def __len__(self) -> int:
        return len(self.names)


def read_labeled(
    source: Paths,
    *,
    label: str | None = None,
    text: str | None = None,
    group: str | None = None,
    time: str | None = None,
    gaps: bool = False,
    columns: Sequence[str] | None = None,
    group_by: str | None = None,
    trained: bool = False,
    encoding_errors: str = "strict",
    min_labels: int = 2,
) -> Labeled:
    """Read sequences with one label each.

    Args:
        source: a directory with one .txt file per label and one sequence per line (or a list of such files; blank lines
            and surrounding spaces are dropped), a directory with one subdirectory per label and one sequence per .txt
            file, or a .csv, .tsv or .parquet table.
        label: the label column of the table.
        text: the text column of the table, one sequence per row.
        group: instead of `text`, the column that identifies sequences: rows with the same value form a sequence with
            the numeric columns as features.
        time: the time column, by which the rows of a sequence are sorted; if None, they keep the table's order.
        gaps: whether to append a feature `dt`, the time since the previous row of the sequence, and 0 in its first row:
            in microseconds for dates, otherwise in the column's unit.
        columns: the feature columns; all other numeric columns if None.
        group_by: a column, to keep sequences with equal values on one side of a split, or "text", to keep identical
            texts on one side.
        trained: whether `columns` are the features that a trained network reads, for messages.
        encoding_errors: "strict" to reject bytes that are not UTF-8, "replace" to read them as U+FFFD.
        min_labels: the minimum number of distinct labels. 0 is for data to predict: a table may then have no label,
            incomplete labels and no `group_by` column, and the source may be a text file with one sequence per line.

    Returns:
        The sequences, in the source's order.

    Raises:
        DataError: if the source is missing, damaged or unsupported, or its sequences or labels are invalid.
    """
    paths = [Path(source)] if isinstance(source, str | os.PathLike) else [Path(path) for path in source]
    for path in paths:
        if not path.exists():
            raise DataError(missing(path))
    if is_table(source):
        table = read_table(paths[0], encoding_errors)
        named = _Columns(label, text, group, time, gaps, columns, group_by, trained)
        found = _from_table(table, named, optional=min_labels == 0)
    else:
        of_tables: dict[str, Any] = {"label": label, "text": text, "group": group, "time": time}
        of_tables |= {"gaps": gaps or None, "columns": columns}
        for keyword, value in of_tables.items():
            if value is not None:
                raise DataError(
                    f"{option(keyword)} names table columns, but {display_path(paths[0])} is not a table "
                    f"({', '.join(TABLES)}); remove {option(keyword)}"
                    if paths
                    else _nothing()
                )
        found = _from_text(paths, encoding_errors, unlabeled=min_labels == 0)
        if group_by == "text":
            found = replace(found, groups=found.texts)
        elif group_by is not None:
            raise DataError(
                f"{option('group_by')} must be text for text files, to keep identical texts on one side of a split; "
                f"got {group_by!r}"
            )
    distinct = sorted(set(found.labels))
    if len(distinct) < min_labels:
        only = f" ({distinct[0]!r})" if len(distinct) == 1 else ""
        of = "value of the label column" if is_table(source) else "file or subdirectory"
        raise DataError(
            f"{found.name} has {counted(len(distinct), 'label')}{only}; at least {min_labels} are needed. Each {of} is "
            "one label"
        )
    return found


def is_table(source: Paths) -> bool:
    """Return whether the source is a table."""
    paths = [Path(source)] if isinstance(source, str | os.PathLike) else [Path(path) for path in source]
    return len(paths) == 1 and paths[0].suffix.lower() in TABLES and paths[0].is_file()


def _nothing() -> str:
    return f"no data given; expected {_SOURCES}"


def _from_text(paths: list[Path], encoding_errors: str, unlabeled: bool) -> Labeled:
    if not paths:
        raise DataError(_nothing())
    name = joint_name(paths)
    if len(paths) == 1 and paths[0].is_dir():
        entries = _entries(paths[0])
        directories = [path for path in entries if path.is_dir()]
        if directories and _texts_of(entries):
            raise DataError(
                f"{name} contains both .txt files and directories, so it is unclear which of them are the labels; "
                f"expected {_SOURCES}"
            )
        if directories:
            return _from_directories(name, directories, encoding_errors)
        files = files_in(paths[0], TEXT_FILES, nested=False)
        if not files:
            raise DataError(f"{name} has no .txt files{types_in_words(entries)}; expected {_SOURCES}")
    else:
        files = _texts_of(paths)
        if len(files) < len(paths):
            other = next(path for path in paths if path not in files)
            kind = "a directory among files" if other.is_dir() else f"of an unsupported type ({other.suffix or 'none'})"
            raise DataError(f"{display_path(other)} is {kind}; expected {_SOURCES}")
    labels, names, texts = [], [], []
    for file in files:
        lines = [(k, line.strip()) for k, line in enumerate(read_lines(file, encoding_errors), 1)]
        found = [(k, line) for k, line in lines if line]
        if not found:
            raise DataError(f"{display_path(file)} has no sequences; add lines, or remove the file")
        labels += [display_path(file.stem)] * len(found)
        names += [f"{display_path(file.name)}:{k}" for k, _ in found]
        texts += [line for _, line in found]
    alone = unlabeled and len(paths) == 1 and paths[0].is_file()
    return Labeled(name, [] if alone else labels, names, texts, source="the file's name")


def _from_directories(name: str, directories: list[Path], encoding_errors: str) -> Labeled:
    labels, names, texts = [], [], []
    for directory in directories:
        entries = _entries(directory)
        files = files_in(directory, TEXT_FILES, nested=False)
        if not files:
            raise DataError(
                f"{display_path(directory)} has no .txt files{types_in_words(entries)}; each subdirectory must contain "
                "text files of one label. Add some, or remove it"
            )
        for file in files:
            content = read_whole(file, encoding_errors)
            if not content.strip():
                raise DataError(
                    f"{display_path(file)} is empty; sequences must have at least one character. Remove the file"
                )
            labels.append(display_path(directory.name))
            names.append(f"{display_path(directory.name)}/{display_path(file.name)}")
            texts.append(content)
    return Labeled(name, labels, names, texts, source="the directory's name")


def _entries(directory: Path) -> list[Path]:
    """Return the visible entries of a directory, sorted."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{display_path(directory)} can't be read: {error.strerror}") from None


def _texts_of(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.is_file() and path.suffix.lower() in TEXT_FILES]


def _from_table(table: Table, columns: _Columns, optional: bool) -> Labeled:
    labels: list[str] = []
    if columns.label is not None:
        if not optional or (columns.label in table.columns and all(table.strings(columns.label))):
            labels = table.filled(columns.label, "label")
    elif not optional:
        raise DataError(
            f"{table.name} is a table; set its label column with {option('label')}. "
            f"Its columns are {', '.join(map(repr, table.columns))}"
        )
    text = columns.text
    if (text is None) == (columns.group is None):
        raise DataError(
            f"a table needs either {option('text')} (the text column, one sequence per row) or {option('group')} "
            f"(the column that identifies sequences of numeric rows), got {'neither' if text is None else 'both'}. "
            f"The columns of {table.name} are {', '.join(map(repr, table.columns))}"
        )
    # Groups are for splits, which data to predict don't need.
    groups = None if columns.group_by is None or optional else table.filled(columns.group_by, "group_by")
    if text is not None:
        for keyword, value in (("time", columns.time), ("gaps", columns.gaps or None), ("columns", columns.features)):
            if value is not None:
                raise DataError(f"{option(keyword)} requires {option('group')}, not {option('text')}")
        table.check(text, "text")
        texts = table.strings(text)
        empty = [k for k, value in enumerate(texts, 1) if value is None]
        if empty:
            raise DataError(
                f"{table.name}: column {text!r} has {len(empty)} empty sequence{'s' if len(empty) > 1 else ''} "
                f"(the first in row {empty[0]}); drop these rows"
            )
        names = [f"row {k}" for k in range(1, len(table) + 1)]
        return Labeled(table.name, labels, names, [value for value in texts if value is not None], groups=groups)
    return _series(table, columns, labels, groups)


def _features(table: Table, columns: _Columns) -> tuple[list[str], list[str]]:
    """Return the feature columns, and notes on the columns that aren't features."""
    used, given = {columns.label, columns.group, columns.time, columns.group_by}, columns.features
    if given is not None:
        for column in given:
            if columns.trained and column not in table.columns:
                raise DataError(
                    f"{table.name} has no column {column!r}, which this network reads"
                    f"{nearest(column, table.columns)}. {table.columns_in_words}"
                )
            table.check(column, "columns")
            if column in used:
                raise DataError(
                    f"column {column!r} can't be a feature, because another option names it; remove it from "
                    f"{option('columns')}"
                )
        if not given or len(set(given)) < len(given):
            raise DataError(f"{option('columns')} must name one or more distinct columns, got {list(given)}")
        return list(given), []
    free = [column for column in table.columns if column not in used]
    features = [column for column in free if table.is_numeric(column)]
    if not features:
        raise DataError(
            f"{table.name} has no numeric columns besides {', '.join(sorted(repr(u) for u in used if u is not None))}; "
            "a sequence of rows needs at least one as a feature"
        )
    left = [column for column in free if column not in features]
    notes = [f"Columns that are not numeric are ignored: {', '.join(map(repr, left))}."] if left else []
    return features, notes


def _series(table: Table, columns: _Columns, labels: list[str], groups: list[str] | None) -> Labeled:
    features, notes = _features(table, columns)
    group, time = columns.group, columns.time
    assert group is not None
    keys = table.filled(group, "group")
    advice = f"name only other columns with {option('columns')}"
    values = np.stack([table.numbers(name, "" if columns.trained else advice) for name in features], axis=1)
    if columns.gaps and time is None:
        raise DataError(f"{option('gaps')} requires {option('time')}, the column with the time of each row")
    number = {key: k for k, key in enumerate(dict.fromkeys(keys))}  # in order of first rows
    codes = np.array([number[key] for key in keys])
    order = np.argsort(codes, kind="stable")
    if time is not None:
        times = table.times(time, "time")
        in_time = np.lexsort((times, codes))
        same = np.flatnonzero((np.diff(codes[in_time]) == 0) & (np.diff(times[in_time]) == 0))
        if len(same):
            first, second = in_time[same[0] : same[0] + 2] + 1
            raise DataError(
                f"{table.name}: sequence {keys[first - 1]!r} has two rows at {time} {table.strings(time)[first - 1]} "
                f"(rows {first} and {second}); {time} must be unique within a sequence. Drop or average such rows"
            )
        moved = len(set(codes[in_time[in_time != order]].tolist()))
        if moved:
            notes = [*notes, f"The rows of {moved} of {len(number)} sequences were not sorted by {time!r}; now sorted."]
        order = in_time
    starts = np.searchsorted(codes[order], np.arange(len(number)))
    members = np.split(order, starts[1:])
    series = [values[rows] for rows in members]
    if columns.gaps and time is not None:
        stamps = table.stamps(time, "time")
        between = [np.diff(stamps[rows], prepend=stamps[rows[:1]]) for rows in members]
        series = [np.column_stack(pair) for pair in zip(series, between, strict=True)]
        features = [*features, GAP]
    return Labeled(
        table.name,
        _constant(table, labels, members, keys, columns.label) if labels else [],
        list(number),
        series=series,
        features=tuple(features),
        groups=None if groups is None else _constant(table, groups, members, keys, columns.group_by),
        notes=notes,
    )


def _constant(
    table: Table, values: list[str], members: list[NDArray[np.int64]], keys: list[str], column: str | None
) -> list[str]:
    """Return the single value of each sequence in a column."""
    found = []
    for rows in members:
        distinct = sorted({values[k] for k in rows})
        if len(distinct) > 1:
            raise DataError(
                f"{table.name}: sequence {keys[rows[0]]!r} has several values in column {column!r}: "
                f"{', '.join(map(repr, distinct[:5]))}; all its rows must have the same value"
            )
        found.append(distinct[0])
    return found

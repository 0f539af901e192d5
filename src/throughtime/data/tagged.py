"""Read sequences with one tag per token from column files and tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from throughtime.data.lines import read_lines
from throughtime.data.table import TABLES, read_table
from throughtime.errors import DataError
from throughtime.paths import display_path, joint_name, missing
from throughtime.spelling import option

_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class _Columns:
    """The columns of the files by their role; see `read_tagged`."""

    token: int | str
    tag: int | str | None
    sentence: str | None


@dataclass(frozen=True)
class Tagged:
    """Sequences with one tag per token.

    Attributes:
        name: the name of the data in reports.
        tokens: the tokens of each sequence.
        tags: the tags of each sequence.
        names: the name of each sequence in reports: the file and line or row of its first token.
    """

    name: str
    tokens: list[list[str]]
    tags: list[list[str]]
    names: list[str]

    def __len__(self) -> int:
        return len(self.tokens)


def read_tagged(
    paths: str | Path | Sequence[str | Path],
    *,
    token_column: int | str = 0,
    tag_column: int | str | None = -1,
    sentence_column: str | None = None,
    encoding_errors: str = "strict",
) -> Tagged:
    """Read sequences with one tag per token.

    Args:
        paths: one or more column files with a token and its tags per line, separated by tabs or else by spaces, and a
            blank line between sequences (the CoNLL format; `-DOCSTART-` lines are skipped). Or tables (.csv, .parquet)
            with a row per token. A .tsv file is a table if the columns are given by name.
        token_column: the token column: its number, counted from 0 or from the end as -1, or its name in a table.
        tag_column: the tag column, specified likewise; None if tags are not needed, in which case each tag is "".
        sentence_column: the table column that identifies sequences. A row with a blank cell continues the sequence
            above.
        encoding_errors: "strict" to reject bytes that are not UTF-8, "replace" to read them as U+FFFD.

    Returns:
        The sequences, in order.

    Raises:
        DataError: if a file is missing or damaged, or a line or row lacks a token or a tag.
    """
    files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    if not files:
        raise DataError("no data given; expected one or more files with a token and its tag per line")
    columns = _Columns(token_column, tag_column, sentence_column)
    found = Tagged(joint_name(files), [], [], [])
    for path in files:
        if not path.exists():
            raise DataError(missing(path))
        if path.is_dir():
            raise DataError(f"{display_path(path)} is a directory; expected a file with a token and its tag per line")
        before = len(found)
        if path.suffix.lower() in TABLES and not (path.suffix.lower() == ".tsv" and isinstance(token_column, int)):
            _add_table(found, path, columns, encoding_errors)
        else:
            _add_lines(found, path, columns, encoding_errors)
        if len(found) == before:
            raise DataError(f"{display_path(path)} has no sequences; expected a token and its tag per line")
    return found


def _add_lines(found: Tagged, path: Path, columns: _Columns, encoding_errors: str) -> None:
    """Add the sequences of a column file."""
    name, token, tag = display_path(path), columns.token, columns.tag
    if isinstance(token, str) or isinstance(tag, str) or columns.sentence is not None:
        raise DataError(
            f"{name} is not a table ({', '.join(TABLES)}); use column numbers for {option('token_column')} and "
            f"{option('tag_column')}, and don't set {option('sentence_column')}"
        )
    numbers = {"token_column": token} if tag is None else {"token_column": token, "tag_column": tag}
    width = 0
    open_sequence = False
    for number, line in enumerate(read_lines(path, encoding_errors), 1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if not any(cells) or cells[0] == _DOCUMENT:
            open_sequence = False
            continue
        place = f"{name}, line {number}"
        if len(cells) < len(numbers):
            raise DataError(f"{place}: expected a token and its tag, got only {line.strip()!r}")
        width = width or len(cells)
        if len(cells) != width:
            raise DataError(f"{place}: expected {width} columns as in the previous lines, got {len(cells)}")
        for keyword, column in numbers.items():
            if not -width <= column < width:
                raise DataError(f"{place}: no column {column} ({option(keyword)}); the file has {width} columns")
            if not cells[column]:
                raise DataError(f"{place}: the {keyword.removesuffix('_column')} is empty")
        if len({column % width for column in numbers.values()}) < len(numbers):
            raise DataError(f"{option('token_column')} and {option('tag_column')} are the same column, {token % width}")
        if not open_sequence:
            _begin(found, f"{display_path(path.name)}:{number}")
        open_sequence = True
        found.tokens[-1].append(cells[token])
        found.tags[-1].append("" if tag is None else cells[tag])


def _add_table(found: Tagged, path: Path, columns: _Columns, encoding_errors: str) -> None:
    """Add the sequences of a table."""
    table = read_table(path, encoding_errors)
    token, tag, sentence = columns.token, columns.tag, columns.sentence
    given = {"sentence_column": sentence, "token_column": token, "tag_column": "" if tag is None else tag}
    unnamed = [option(keyword) for keyword, column in given.items() if not isinstance(column, str)]
    if unnamed:
        raise DataError(
            f"{table.name} is a table; set its columns by name with {', '.join(unnamed)}. "
            f"Its columns are {', '.join(map(repr, table.columns))}"
        )
    table.check(str(sentence), "sentence_column")
    tokens = table.filled(str(token), "token_column")
    tags = [""] * len(tokens) if tag is None else table.filled(str(tag), "tag_column")
    positions: dict[str, int] = {}
    current: int | None = None
    for row, key in enumerate(table.strings(str(sentence))):
        if key is not None and key not in positions:
            _begin(found, f"{display_path(path.name)}, row {row + 1}")
            positions[key] = len(found) - 1
        current = current if key is None else positions[key]
        if current is None:
            raise DataError(f"{table.name}: column {sentence!r} ({option('sentence_column')}) is blank in row 1")
        found.tokens[current].append(tokens[row])
        found.tags[current].append(tags[row])


def _begin(found: Tagged, name: str) -> None:
    found.tokens.append([])
    found.tags.append([])
    found.names.append(name)

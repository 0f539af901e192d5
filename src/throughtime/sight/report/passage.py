"""The stretch of text that a report is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from throughtime.data.vocabulary import Ids, Vocabulary
from throughtime.errors import DataError
from throughtime.sight.report.data import Array

LONGEST = 20_000  # symbols; a page of more is slow to open


@dataclass(frozen=True)
class Passage:
    """The text of a report.

    Attributes:
        name: what to call it.
        ids: of its symbols, `[T]`.
        symbols: what each adds to the text.
        unknown: which of them the vocabulary lacks, `[T]`.
    """

    name: str
    ids: Ids
    symbols: Sequence[str]
    unknown: Array

    @property
    def readable(self) -> list[str]:
        """The symbols, with a word for what is unknown: `<unk>` would look like a tag."""
        return [symbol.replace("<unk>", "unknown") for symbol in self.symbols]


def short(name: str) -> str:
    """A text's name without the folders it lies in, which say nothing elsewhere."""
    return name.rpartition("/")[2]


def passage(name: str, pieces: Iterable[str], vocabulary: Vocabulary, length: int) -> Passage:
    """The first symbols of a text, that comes in pieces.

    Raises:
        DataError: it has fewer than two.
    """
    ids, texts, count = [], [], 0
    for block in vocabulary.encode_blocks(pieces):
        ids.append(block.ids)
        texts.append(block.text)
        count += block.ids.size
        if count >= length:
            break
    found = np.concatenate([np.empty(0, vocabulary.dtype), *ids])[:length]
    return _passage(name, found, list("".join(texts)[:length]) if vocabulary.level == "char" else None, vocabulary)


def passage_of(name: str, ids: Ids, vocabulary: Vocabulary, length: int) -> Passage:
    """The first symbols of a text that is encoded already.

    Raises:
        DataError: it has fewer than two.
    """
    return _passage(name, np.asarray(ids[:length]), None, vocabulary)


def _passage(name: str, ids: Ids, symbols: Sequence[str] | None, vocabulary: Vocabulary) -> Passage:
    if ids.size < 2:
        raise DataError(f"{name} has {ids.size or 'no'} symbol{'s' * (ids.size == 0)}: 2 or more are wanted")
    own = getattr(vocabulary, "tokenised", False)  # then <unk> is a word of the text
    unknown = (ids == vocabulary.unknown) if vocabulary.unknown is not None and not own else np.zeros(ids.size, bool)
    return Passage(name, ids, symbols or [vocabulary.symbols[id] for id in ids], unknown)

"""The sequences that a report is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from throughtime.data.sequences import Sequences
from throughtime.data.vocabulary import Ids, Vocabulary
from throughtime.errors import DataError
from throughtime.sight.report.data import Array

LONGEST = 20_000  # steps; a page of more is slow to open


@dataclass(frozen=True)
class Item:
    """A sequence, as it is shown.

    Attributes:
        inputs: what the network reads, ids `[T]` or numbers `[T, F]`.
        targets: what it should answer: an array with an answer for each step, or one answer; None if it isn't known.
            Where a network predicts what comes next, the answer to the last step may be missing.
        symbols: the text of each step; None where steps are times.
        name: what to call the sequence.
        unknown: which symbols the vocabulary lacks, `[T]`; none if not given.
        shown: the numbers to draw for each step instead of the inputs, `[T, K]`.
    """

    inputs: Array
    targets: Any = None
    symbols: Sequence[str] | None = None
    name: str = ""
    unknown: Array | None = None
    shown: Array | None = None


@dataclass(frozen=True)
class Passage:
    """The sequences of a report: one text, or several sequences.

    Attributes:
        name: what to call them.
        items: the sequences.
        step: what a step is called: "character", "token", "step".
        answers: the names of the classes that the network tells apart; empty where it answers with numbers.
        causal: whether the answer at a step is about the step after it.
        separator: what stands between two symbols of a text.
        features: the names of numeric inputs, or of the numbers that are drawn instead.
        part: the data that the sequences were chosen from, with their targets; None if those aren't known.
    """

    name: str
    items: Sequence[Item]
    step: str
    answers: Sequence[str] = ()
    causal: bool = False
    separator: str = ""
    features: Sequence[str] = ()
    part: Any = None

    @property
    def steps(self) -> int:
        """The number of steps of all sequences."""
        return sum(len(item.inputs) for item in self.items)

    @property
    def readable(self) -> list[str] | None:
        """The symbols, with a word for what is unknown: `<unk>` would look like a tag. None where steps are times."""
        found: list[str] = []
        for item in self.items:
            if item.symbols is None:
                return None
            symbols = [symbol.replace("<unk>", "unknown") + self.separator for symbol in item.symbols]
            if len(self.items) > 1:
                symbols[-1] += "\n"
            found += symbols
        return found


def short(name: str) -> str:
    """A text's name without the folders it lies in, which say nothing elsewhere."""
    return name.rpartition("/")[2]


def passage(name: str, pieces: Iterable[str], vocabulary: Vocabulary, length: int, step: str) -> Passage:
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
    return _passage(
        name, found, list("".join(texts)[:length]) if vocabulary.level == "char" else None, vocabulary, step
    )


def passage_of(name: str, ids: Ids, vocabulary: Vocabulary, length: int, step: str) -> Passage:
    """The first symbols of a text that is encoded already.

    Raises:
        DataError: it has fewer than two.
    """
    return _passage(name, np.asarray(ids[:length]), None, vocabulary, step)


def spread(part: Sequences, length: int) -> list[int]:
    """Which of many sequences to show: about `length` steps of them, evenly spread over the whole; one at least."""
    count = int(np.clip(length / part.lengths.mean(), 1, len(part)))
    return sorted(set(np.linspace(0, len(part) - 1, count).round().astype(int).tolist()))


def unknown_of(ids: Ids, vocabulary: Vocabulary) -> Array:
    """Which symbols the vocabulary lacks, `[T]`."""
    own = getattr(vocabulary, "tokenized", False)  # then <unk> is a word of the text
    return (ids == vocabulary.unknown) if vocabulary.unknown is not None and not own else np.zeros(ids.size, bool)


def _passage(name: str, ids: Ids, symbols: Sequence[str] | None, vocabulary: Vocabulary, step: str) -> Passage:
    if ids.size < 2:
        raise DataError(f"{name} has {ids.size or 'no'} symbol{'s' * (ids.size == 0)}: 2 or more are wanted")
    ids = ids.astype(np.int64)
    texts = symbols or [vocabulary.symbols[id] for id in ids]
    item = Item(ids, ids[1:], texts, name, unknown_of(ids, vocabulary))
    return Passage(name, [item], step, vocabulary.symbols, causal=True)

"""The sequences that a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from throughtime.data.sequences import Sequences
from throughtime.data.vocabulary import Ids, Vocabulary
from throughtime.errors import DataError
from throughtime.sight.report.data import Array

LONGEST = 20_000  # steps; a page with more is slow to open


@dataclass(frozen=True)
class Item:
    """A sequence to show.

    Attributes:
        inputs: the network's input, ids `[T]` or numbers `[T, F]`.
        targets: the right answers: an array with one per step, or a single one; None if unknown. If the network
            predicts the next step, the last step may lack one.
        tokens: the text of each step; None if steps are times.
        name: the sequence's name.
        unknown: which tokens are not in the vocabulary, `[T]`; none by default.
        shown: the numbers to draw for each step instead of the inputs, `[T, K]`.
    """

    inputs: Array
    targets: Any = None
    tokens: Sequence[str] | None = None
    name: str = ""
    unknown: Array | None = None
    shown: Array | None = None


@dataclass(frozen=True)
class Passage:
    """The sequences of a report: one text, or several sequences.

    Attributes:
        name: the name of the data.
        items: the sequences.
        step: the name of a step: "character", "token", "step".
        answers: the names of the classes; empty if the network predicts numbers.
        causal: whether the answer at a step predicts the next step.
        separator: the text between two tokens.
        features: the names of the numeric inputs, or of the numbers drawn instead.
        part: the data from which the sequences were chosen, with targets; None if the targets are unknown.
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
        """The total number of steps."""
        return sum(len(item.inputs) for item in self.items)

    @property
    def readable(self) -> list[str] | None:
        """The tokens, with a plain word for unknown ones (`<unk>` would look like a tag); None if steps are times."""
        found: list[str] = []
        for item in self.items:
            if item.tokens is None:
                return None
            tokens = [token.replace("<unk>", "unknown") + self.separator for token in item.tokens]
            if len(self.items) > 1:
                tokens[-1] += "\n"
            found += tokens
        return found


def short(name: str) -> str:
    """Strip the folders from a text's name."""
    return name.rpartition("/")[2]


def passage(name: str, pieces: Iterable[str], vocabulary: Vocabulary, length: int, step: str) -> Passage:
    """Return the first tokens of a text given in pieces.

    Raises:
        DataError: if it has fewer than two tokens.
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
    """Return the first tokens of an encoded text.

    Raises:
        DataError: if it has fewer than two tokens.
    """
    return _passage(name, np.asarray(ids[:length]), None, vocabulary, step)


def spread(part: Sequences, length: int) -> list[int]:
    """Choose sequences spread evenly over the data, at least one and about `length` steps in total."""
    count = int(np.clip(length / part.lengths.mean(), 1, len(part)))
    return sorted(set(np.linspace(0, len(part) - 1, count).round().astype(int).tolist()))


def unknown_of(ids: Ids, vocabulary: Vocabulary) -> Array:
    """Return which tokens are not in the vocabulary, `[T]`."""
    own = getattr(vocabulary, "tokenized", False)  # then <unk> is a word of the text
    return (ids == vocabulary.unknown) if vocabulary.unknown is not None and not own else np.zeros(ids.size, bool)


def _passage(name: str, ids: Ids, tokens: Sequence[str] | None, vocabulary: Vocabulary, step: str) -> Passage:
    if ids.size < 2:
        raise DataError(f"{name} has {ids.size or 'no'} token{'s' * (ids.size == 0)}; at least 2 are needed")
    ids = ids.astype(np.int64)
    texts = tokens or [vocabulary.tokens[id] for id in ids]
    item = Item(ids, ids[1:], texts, name, unknown_of(ids, vocabulary))
    return Passage(name, [item], step, vocabulary.tokens, causal=True)

"""Symbols and their numbers: one interface for characters, words and byte pairs."""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import DataError, nearest
from throughtime.levels import LEVELS

Ids = NDArray[np.unsignedinteger[Any]]

_CODE_POINTS = 0x110000


class Block(NamedTuple):
    """A stretch of text, its symbols' ids, and how many of them the vocabulary lacks."""

    text: str
    ids: Ids
    unknown: int


class Decoder:
    """Turns symbols into text as they come; a character of several bytes waits for its last."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, ids: Iterable[int], final: bool = False) -> str:
        """The text that `ids` add; `final` says that no more will come."""
        return self._decoder.decode(b"".join(self._pieces[i] for i in ids), final)


class Vocabulary(ABC):
    """The symbols of one level, numbered from 0.

    Attributes:
        level: "char", "word" or "bpe".
        pieces: what each symbol adds to a text, in UTF-8.
        separator: stands between a text and its continuation, unless the text ends in white space.
        unknown: the id for what the vocabulary lacks; None where it covers everything (bpe).
    """

    level: str
    separator = ""

    def __init__(self, pieces: Sequence[bytes], unknown: int | None) -> None:
        self.pieces = tuple(pieces)
        self.unknown = unknown
        self._dtype = next(d for d in (np.uint8, np.uint16, np.uint32) if self.size <= np.iinfo(d).max + 1)

    def __repr__(self) -> str:
        return f"<{self.level} vocabulary of {self.size} symbols>"

    @property
    def size(self) -> int:
        """How many symbols there are, `<unk>` included."""
        return len(self.pieces)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The smallest type that holds every id."""
        return np.dtype(self._dtype)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Each symbol as a person reads it; an incomplete character shows its bytes."""
        return tuple(piece.decode(errors="backslashreplace") for piece in self.pieces)

    @property
    def digest(self) -> str:
        """SHA-256 of what `save` writes; equal vocabularies have equal digests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @abstractmethod
    def encode_blocks(self, pieces: Iterable[str]) -> Iterator[Block]:
        """The symbols of a text that comes in pieces; how it is cut up makes no difference."""

    @abstractmethod
    def to_json(self) -> str:
        """The vocabulary as JSON, for `from_json`."""

    def to_data(self) -> dict[str, Any]:
        """The vocabulary as plain data, for `of_data`."""
        return {"kind": "vocabulary", "content": json.loads(self.to_json())}

    @staticmethod
    def of_data(data: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `to_data` gave.

        Raises:
            DataError: the data are not a vocabulary.
        """
        return from_json(json.dumps(data.get("content")))

    def encode(self, text: str) -> Ids:
        """The ids of a text's symbols, shape [symbols]."""
        return np.concatenate([np.empty(0, self.dtype), *(block.ids for block in self.encode_blocks([text]))])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some symbols."""
        return self.decoder()(ids, final=True)

    def decoder(self) -> Decoder:
        """For decoding symbols one by one, as a sample is made."""
        return Decoder(self.pieces)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")


class CharacterVocabulary(Vocabulary):
    """Characters: the id 0 is `<unk>`, the others follow in the order of their code points."""

    level = "char"

    def __init__(self, characters: Sequence[str]) -> None:
        super().__init__([b"<unk>", *(c.encode() for c in characters)], unknown=0)
        self._characters = tuple(characters)
        self._ids = np.zeros(_CODE_POINTS, self.dtype)
        self._ids[[ord(c) for c in characters]] = np.arange(1, self.size)

    def encode_blocks(self, pieces: Iterable[str]) -> Iterator[Block]:
        for piece in pieces:
            ids = self._ids[_code_points(piece)]
            yield Block(piece, ids, ids.size - int(np.count_nonzero(ids)))

    def to_json(self) -> str:
        return json.dumps({"level": "char", "characters": self._characters}, ensure_ascii=False)


def build_vocabulary(
    level: str,
    pieces: Iterable[str],
    *,
    vocab_size: int | None = None,
    min_count: int | None = None,
    tokenised: bool = False,
) -> Vocabulary:
    """The vocabulary of a text.

    Args:
        level: "char", "word" or "bpe".
        pieces: the text, in pieces of any size.
        vocab_size: the most symbols it may have, `<unk>` included; the most frequent stay. By
            default 10,000 words of plain text, 2,000 byte pairs, and else no limit.
        min_count: how often a symbol (a pair, for bpe) must occur to be one. By default 2 for
            plain words and byte pairs, and else 1.
        tokenised: the words are those between white space, and each line end is `<eos>`.

    Raises:
        DataError: a level that is not known, or a bound that nothing can meet.
    """
    check_bounds(level, vocab_size, min_count)
    if level == "char":
        return _characters(pieces, vocab_size, min_count or 1)
    from throughtime.data import tokens

    if level == "bpe":
        return tokens.byte_pairs(pieces, vocab_size or 2_000, min_count or 2)
    if tokenised:
        return tokens.tokenised_words(pieces, vocab_size, min_count or 1)
    return tokens.words(pieces, vocab_size or 10_000, min_count or 2)


def check_bounds(level: str, vocab_size: int | None, min_count: int | None) -> None:
    """Refuse what `build_vocabulary` can't build, before a long text is read for it.

    Raises:
        DataError: a level that is not known, or a bound that nothing can meet.
    """
    if level not in LEVELS:
        raise DataError(f"level {level!r} is not known: {', '.join(LEVELS)}{nearest(level, LEVELS)}")
    least = 257 if level == "bpe" else 3
    if vocab_size is not None and vocab_size < least:
        why = ": a symbol for each byte, and pairs" if level == "bpe" else ""
        raise DataError(
            f"a vocabulary of {vocab_size} symbols is too small: at least {least} are wanted at level {level}{why}"
        )
    if min_count is not None and min_count < 1:
        raise DataError(f"a least count of {min_count} means nothing: 1 or more is wanted")


def from_json(text: str) -> Vocabulary:
    """The vocabulary that `to_json` gave.

    Raises:
        DataError: the text is not a vocabulary.
    """
    try:
        data = json.loads(text)
        if "characters" in data:
            return CharacterVocabulary(data["characters"])
        from throughtime.data import tokens

        return tokens.from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"this is not a vocabulary, or a damaged one: {error}") from None


def load_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary that `save` wrote.

    Raises:
        DataError: the file is missing, unreadable or damaged.
    """
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the vocabulary {path} can't be read: {error.strerror}") from None
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"the vocabulary {path} is damaged: {error}") from None


def _characters(pieces: Iterable[str], vocab_size: int | None, min_count: int) -> CharacterVocabulary:
    counts = np.zeros(_CODE_POINTS, np.int64)
    for piece in pieces:
        found = np.bincount(_code_points(piece))
        counts[: found.size] += found
    kept = np.flatnonzero(counts >= min_count)
    if vocab_size is not None:
        by_count = np.argsort(-counts[kept], kind="stable")  # equal counts: the lower code point
        kept = np.sort(kept[by_count[: vocab_size - 1]])
    return CharacterVocabulary([chr(c) for c in kept])


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")

"""Vocabularies: a common interface for tokens that are characters, words or byte pairs."""

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
    """A part of a text, its token ids, and the number of unknown tokens."""

    text: str
    ids: Ids
    unknown: int


class Decoder:
    """An incremental decoder from token ids to text, which holds back incomplete multi-byte characters."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, ids: Iterable[int], final: bool = False) -> str:
        """Return the text that `ids` add; `final` means that no more ids will follow."""
        return self._decoder.decode(b"".join(self._pieces[i] for i in ids), final)


class Vocabulary(ABC):
    """The tokens of one level, numbered from 0.

    Attributes:
        level: "char", "word" or "bpe".
        pieces: the UTF-8 bytes that each token adds to a text.
        separator: the string between a text and its continuation, unless the text ends in white space.
        unknown: the id for unknown tokens; None if there are none (bpe).
    """

    level: str
    separator = ""

    def __init__(self, pieces: Sequence[bytes], unknown: int | None) -> None:
        self.pieces = tuple(pieces)
        self.unknown = unknown
        self._dtype = next(d for d in (np.uint8, np.uint16, np.uint32) if self.size <= np.iinfo(d).max + 1)

    def __repr__(self) -> str:
        return f"<{self.level} vocabulary of {self.size} tokens>"

    @property
    def size(self) -> int:
        """The number of tokens, including `<unk>`."""
        return len(self.pieces)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The smallest dtype that can represent every id."""
        return np.dtype(self._dtype)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The text of each token; incomplete characters are shown as escaped bytes."""
        return tuple(piece.decode(errors="backslashreplace") for piece in self.pieces)

    @property
    def digest(self) -> str:
        """The SHA-256 of the saved vocabulary; equal vocabularies have equal digests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @abstractmethod
    def encode_blocks(self, pieces: Iterable[str]) -> Iterator[Block]:
        """Encode a text given in pieces; the result doesn't depend on how the text is cut."""

    @abstractmethod
    def to_json(self) -> str:
        """Serialize the vocabulary as JSON, for `from_json`."""

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return {"kind": "vocabulary", "content": json.loads(self.to_json())}

    @staticmethod
    def of_data(data: Mapping[str, Any]) -> Vocabulary:
        """Create an instance from the data that `to_data` returned.

        Raises:
            DataError: if the data are not a vocabulary.
        """
        return from_json(json.dumps(data.get("content")))

    def encode(self, text: str) -> Ids:
        """Return the token ids of a text as int64, `[tokens]`, the input of a network for one sequence."""
        return np.concatenate([np.empty(0, np.int64), *(block.ids for block in self.encode_blocks([text]))])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        return self.decoder()(ids, final=True)

    def decoder(self) -> Decoder:
        """Return a decoder for ids that arrive one at a time, as in sampling."""
        return Decoder(self.pieces)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")


class CharacterVocabulary(Vocabulary):
    """A character vocabulary: id 0 is `<unk>`, and the other ids follow the order of code points."""

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
    tokenized: bool = False,
) -> Vocabulary:
    """Build the vocabulary of a text.

    Args:
        level: "char", "word" or "bpe".
        pieces: the text, in pieces of any size.
        vocab_size: the maximum vocabulary size, including `<unk>`; the most frequent tokens are kept. By
            default 10,000 for words of plain text, 2,000 for byte pairs, and otherwise unlimited.
        min_count: the minimum number of occurrences of a token (of a pair, for bpe). By default 2 for
            plain words and byte pairs, and otherwise 1.
        tokenized: whether words are separated by white space, and line ends become `<eos>`.

    Raises:
        DataError: if the level is unknown, or a bound is invalid.
    """
    check_bounds(level, vocab_size, min_count)
    if level == "char":
        return _characters(pieces, vocab_size, min_count or 1)
    from throughtime.data import tokens

    if level == "bpe":
        return tokens.byte_pairs(pieces, vocab_size or 2_000, min_count or 2)
    if tokenized:
        return tokens.tokenized_words(pieces, vocab_size, min_count or 1)
    return tokens.words(pieces, vocab_size or 10_000, min_count or 2)


def check_bounds(level: str, vocab_size: int | None, min_count: int | None) -> None:
    """Check the arguments of `build_vocabulary` before reading a long text for it.

    Raises:
        DataError: if the level is unknown, or a bound is invalid.
    """
    if level not in LEVELS:
        raise DataError(f"level must be one of {', '.join(LEVELS)}, got {level!r}{nearest(level, LEVELS)}")
    least = 257 if level == "bpe" else 3
    if vocab_size is not None and vocab_size < least:
        why = ", one per byte and one for a pair" if level == "bpe" else ""
        raise DataError(f"vocab_size must be at least {least} at level {level}{why}, got {vocab_size}")
    if min_count is not None and min_count < 1:
        raise DataError(f"min_count must be a positive integer, got {min_count}")


def from_json(text: str) -> Vocabulary:
    """Read a vocabulary from the output of `to_json`.

    Raises:
        DataError: if the text is not a vocabulary.
    """
    try:
        data = json.loads(text)
        if "characters" in data:
            return CharacterVocabulary(data["characters"])
        from throughtime.data import tokens

        return tokens.from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"invalid or damaged vocabulary: {error}") from None


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Load a vocabulary saved by `save`.

    Raises:
        DataError: if the file is missing, unreadable or damaged.
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
        by_count = np.argsort(-counts[kept], kind="stable")  # ties go to the lower code point
        kept = np.sort(kept[by_count[: vocab_size - 1]])
    return CharacterVocabulary([chr(c) for c in kept])


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")

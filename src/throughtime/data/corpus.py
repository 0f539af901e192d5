"""Encode text for training: build the vocabulary, and split the text into training, validation and test parts.

The ids are written to a cache file in one pass, with bounded memory use, and memory-mapped from there. Cache
keys are derived from the text's digest, so a renamed text reuses its entries, and a changed text doesn't.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from throughtime.data import cache
from throughtime.data.text import Progress, Text, read_text
from throughtime.data.vocabulary import (
    Ids,
    Vocabulary,
    build_vocabulary,
    check_bounds,
    from_json,
)
from throughtime.errors import DataError
from throughtime.spelling import option

_FORMAT = 1  # the version of cache entries; increment it to invalidate them
_LONGEST_WORD = 1000  # the number of characters to search for the end of a word


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A part of a text as token ids.

    Attributes:
        name: the name of the text.
        ids: the token ids `[tokens]`, memory-mapped.
        characters: the number of characters.
        bytes: the number of bytes in UTF-8.
        unknown: the number of out-of-vocabulary tokens.
        unknown_id: the id of these tokens; None if the vocabulary covers any text.
        digest: a hash of the text and the vocabulary it was encoded with.
    """

    name: str
    ids: Ids = field(repr=False)
    characters: int
    bytes: int
    unknown: int
    unknown_id: int | None
    digest: str = field(repr=False)

    @property
    def token_count(self) -> int:
        """The number of tokens."""
        return int(self.ids.size)

    def first(self, tokens: int) -> Self:
        """Return the first tokens; their characters and bytes are estimated from those of all tokens."""
        share = min(1.0, tokens / self.token_count)
        ids = self.ids[:tokens]
        return replace(
            self,
            ids=ids,
            characters=round(share * self.characters),
            bytes=round(share * self.bytes),
            unknown=int((ids == self.unknown_id).sum()) if self.unknown else 0,
        )

    def bits_per_character(self, loss: float) -> float:
        """Convert a loss in nats per token to bits per character, which is comparable across levels."""
        return loss / math.log(2) * self.token_count / self.characters

    def bits_per_byte(self, loss: float) -> float:
        """Convert a loss in nats per token to bits per byte of UTF-8."""
        return loss / math.log(2) * self.token_count / self.bytes


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text ready to train on.

    Attributes:
        name: the name of the text in reports.
        vocabulary: the vocabulary; built from the training part only, unless it was given.
        train: the training part.
        valid: the held-out part used to select the best weights.
        test: the test part, if a text was given for it.
    """

    name: str
    vocabulary: Vocabulary
    train: EncodedText
    valid: EncodedText
    test: EncodedText | None

    @property
    def digest(self) -> str:
        """A hash of the corpus; a run can only be resumed on a corpus with the same digest."""
        parts = (self.train, self.valid, self.test)
        return _digest(*(part.digest for part in parts if part is not None))


def prepare_text(
    paths: Sequence[str | Path] | None = None,
    *,
    level: str = "char",
    vocab_size: int | None = None,
    min_count: int | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    encoding_errors: str = "strict",
    vocabulary: Vocabulary | None = None,
    cache_directory: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Read text, build its vocabulary, and encode it for training.

    Without `valid`, the last 10% of the characters are held out for validation, whatever the level, so
    that metrics per character are comparable across levels. For words and byte pairs, the cut is after
    the word at that position.

    Args:
        paths: files and directories that make up one text (see `read_text`); the default text if None.
        level: "char", "word" or "bpe".
        vocab_size: the maximum vocabulary size (see `build_vocabulary`).
        min_count: the minimum count of a token (see `build_vocabulary`).
        valid: a text for validation.
        test: a text for the final test.
        encoding_errors: "strict" or "replace".
        vocabulary: an existing vocabulary, as when resuming a run; `level`, `vocab_size` and
            `min_count` are then ignored.
        cache_directory: where to store ids; `cache.cache_directory()` if None.
        progress: called with the current activity and its progress.

    Raises:
        DataError: if a text can't be read or is empty, a bound on the vocabulary is invalid, or the
            disk is full.
    """
    if vocabulary is None:
        check_bounds(level, vocab_size, min_count)
    directory = cache_directory or cache.cache_directory()
    text = read_text(paths, encoding_errors, progress)
    valid_text = None if valid is None else read_text([valid], encoding_errors, progress)
    test_text = None if test is None else read_text([test], encoding_errors, progress)
    level = vocabulary.level if vocabulary else level
    cut = text.characters if valid_text else _cut(text, whole_words=level != "char")
    if vocabulary is None:
        vocabulary = _vocabulary_of(text, cut, level, vocab_size, min_count, directory, progress)
    return Corpus(
        name=text.name,
        vocabulary=vocabulary,
        train=_encode(text, 0, cut, vocabulary, directory, progress),
        valid=(
            _encode(valid_text, 0, valid_text.characters, vocabulary, directory, progress)
            if valid_text
            else _encode(text, cut, text.characters, vocabulary, directory, progress)
        ),
        test=(_encode(test_text, 0, test_text.characters, vocabulary, directory, progress) if test_text else None),
    )


def encode_text(
    paths: Sequence[str | Path],
    vocabulary: Vocabulary,
    *,
    encoding_errors: str = "strict",
    cache_directory: Path | None = None,
    progress: Progress | None = None,
) -> EncodedText:
    """Encode a text with an existing vocabulary, for example to evaluate it.

    Args:
        paths: files and directories that make up one text (see `read_text`).
        vocabulary: the vocabulary.
        encoding_errors: "strict" or "replace".
        cache_directory: where to store ids; `cache.cache_directory()` if None.
        progress: called with the current activity and its progress.

    Raises:
        DataError: if a text can't be read or is empty, or the disk is full.
    """
    directory = cache_directory or cache.cache_directory()
    text = read_text(paths, encoding_errors, progress)
    return _encode(text, 0, text.characters, vocabulary, directory, progress)


def _cut(text: Text, whole_words: bool) -> int:
    """Return the position where the last 10% of the characters start."""
    cut = text.characters * 9 // 10
    if whole_words:
        after = "".join(text.pieces(cut, cut + _LONGEST_WORD))
        space = re.search(r"\s", after)
        cut += space.start() if space else 0
    if cut == 0 or cut == text.characters:
        raise DataError(
            f"{text.name} is too short to hold out a tenth of it ({text.characters} characters); "
            f"use a longer text, or pass a separate validation text with {option('valid')}"
        )
    return cut


def _vocabulary_of(
    text: Text,
    stop: int,
    level: str,
    vocab_size: int | None,
    min_count: int | None,
    directory: Path,
    progress: Progress | None,
) -> Vocabulary:
    """Load the vocabulary of the first part of a text from the cache, or build it."""
    key = _digest(text.digest, stop, level, vocab_size, min_count)
    name = f"{key}.vocabulary.json"
    if kept := cache.load_text(directory, name):
        try:
            return from_json(kept)
        except DataError:
            pass  # the entry is damaged; rebuild it below
    vocabulary = build_vocabulary(
        level,
        _with_progress(text.pieces(0, stop), stop, "counting tokens", progress),
        vocab_size=vocab_size,
        min_count=min_count,
        tokenized=text.tokenized,
    )
    cache.store_text(directory, name, vocabulary.to_json())
    return vocabulary


def _encode(
    text: Text,
    start: int,
    stop: int,
    vocabulary: Vocabulary,
    directory: Path,
    progress: Progress | None,
) -> EncodedText:
    """Encode a part of a text, using the cache if possible."""
    key = _digest(text.digest, start, stop, vocabulary.digest)
    counts = {"characters": 0, "bytes": 0, "unknown": 0}

    def arrays() -> Iterator[Ids]:
        tokens = 0
        pieces = _with_progress(text.pieces(start, stop), stop - start, "writing tokens", progress)
        for block in vocabulary.encode_blocks(pieces):
            counts["characters"] += len(block.text)
            counts["bytes"] += len(block.text.encode())
            counts["unknown"] += block.unknown
            tokens += block.ids.size
            yield block.ids
        if counts["characters"] != stop - start:
            raise DataError(f"{text.name} changed while it was being read; try again")
        if tokens == 0:
            raise DataError(f"{text.name} contains no {vocabulary.level}s; expected text")

    kept = cache.load_ids(directory, key, vocabulary.dtype)
    if kept is not None:
        ids, counts = kept
    else:
        ids = cache.store_ids(directory, key, vocabulary.dtype, arrays(), counts)
    return EncodedText(name=text.name, ids=ids, digest=key, unknown_id=vocabulary.unknown, **counts)


def _with_progress(pieces: Iterable[str], size: int, doing: str, progress: Progress | None) -> Iterator[str]:
    """Yield the pieces and report the progress in characters."""
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        if progress:
            progress(doing, done, size)


def _digest(*identity: object) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *identity]).encode()).hexdigest()[:40]

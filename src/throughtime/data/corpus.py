"""From text to ids: the vocabulary, the parts for training, validation and test, and their counts.

The ids are written once, in a pass of bounded memory, to a file in the cache, and mapped from
there. An entry of the cache is known by the text's digest, so it serves the same text under another
name and is never taken for a text that has changed.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

_FORMAT = 1  # of the cache's entries: another number makes them anew
_LONGEST_WORD = 1000  # characters within which a cut looks for the end of a word


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A stretch of text as ids.

    Attributes:
        name: the text it is of.
        ids: shape [symbols], mapped from a file.
        characters: how many the stretch has.
        bytes: how many it has in UTF-8.
        unknown: how many symbols the vocabulary lacks.
        digest: tells the stretch and the vocabulary it was encoded with.
    """

    name: str
    ids: Ids = field(repr=False)
    characters: int
    bytes: int
    unknown: int
    digest: str = field(repr=False)

    @property
    def symbols(self) -> int:
        """How many symbols there are."""
        return int(self.ids.size)

    def bits_per_character(self, loss: float) -> float:
        """A loss in nats per symbol, in bits per character, which compares across levels."""
        return loss / math.log(2) * self.symbols / self.characters

    def bits_per_byte(self, loss: float) -> float:
        """A loss in nats per symbol, in bits per byte of UTF-8."""
        return loss / math.log(2) * self.symbols / self.bytes


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text ready to train on.

    Attributes:
        name: what to call it in a report.
        vocabulary: made from the training part alone, if it wasn't given.
        train: what to learn from.
        valid: held out, to choose the weights by.
        test: held out, if a text was given for it.
    """

    name: str
    vocabulary: Vocabulary
    train: EncodedText
    valid: EncodedText
    test: EncodedText | None

    @property
    def digest(self) -> str:
        """Tells the corpus; a run that is resumed on another would not be the same run."""
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
    """Read text, make its vocabulary, and encode it for training.

    Without `valid` the last 10 % of the characters are for validation, whatever the level, so that
    figures per character compare across levels; where that falls inside a word, words and byte
    pairs are cut after it.

    Args:
        paths: files and directories that make one text (see `read_text`); None: the default text.
        level: "char", "word" or "bpe".
        vocab_size: the most symbols (see `build_vocabulary`).
        min_count: the least count of a symbol (see `build_vocabulary`).
        valid: a text for validation.
        test: a text for the last test.
        encoding_errors: "strict" or "replace".
        vocabulary: one that is there already, as when a run is resumed; `level`, `vocab_size` and
            `min_count` are then not looked at.
        cache_directory: where to keep ids; None: `cache.cache_directory()`.
        progress: told what is being done, and how far.

    Raises:
        DataError: a text can't be read or has nothing in it, or a bound on the vocabulary is
            nonsense, or the disk is full.
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
    """Encode a text with a vocabulary that is there, as for evaluation.

    Args:
        paths: files and directories that make one text (see `read_text`).
        vocabulary: what to encode with.
        encoding_errors: "strict" or "replace".
        cache_directory: where to keep ids; None: `cache.cache_directory()`.
        progress: told what is being done, and how far.

    Raises:
        DataError: a text can't be read or has nothing in it, or the disk is full.
    """
    directory = cache_directory or cache.cache_directory()
    text = read_text(paths, encoding_errors, progress)
    return _encode(text, 0, text.characters, vocabulary, directory, progress)


def _cut(text: Text, whole_words: bool) -> int:
    """Where the last 10 % of the characters begin."""
    cut = text.characters * 9 // 10
    if whole_words:
        after = "".join(text.pieces(cut, cut + _LONGEST_WORD))
        space = re.search(r"\s", after)
        cut += space.start() if space else 0
    if cut == 0 or cut == text.characters:
        raise DataError(
            f"{text.name} is too short to hold out a tenth of it ({text.characters} characters): "
            f"give a longer text, or another one for validation ({option('valid')})"
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
    """The vocabulary of a text's first part, from the cache if it is there."""
    key = _digest(text.digest, stop, level, vocab_size, min_count)
    name = f"{key}.vocabulary.json"
    if kept := cache.load_text(directory, name):
        try:
            return from_json(kept)
        except DataError:
            pass  # damaged: made again below
    vocabulary = build_vocabulary(
        level,
        _with_progress(text.pieces(0, stop), stop, "collecting symbols", progress),
        vocab_size=vocab_size,
        min_count=min_count,
        tokenised=text.tokenised,
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
    """A stretch of text as ids, from the cache if they are there."""
    key = _digest(text.digest, start, stop, vocabulary.digest)
    counts = {"characters": 0, "bytes": 0, "unknown": 0}

    def arrays() -> Iterator[Ids]:
        symbols = 0
        pieces = _with_progress(text.pieces(start, stop), stop - start, "writing symbols", progress)
        for block in vocabulary.encode_blocks(pieces):
            counts["characters"] += len(block.text)
            counts["bytes"] += len(block.text.encode())
            counts["unknown"] += block.unknown
            symbols += block.ids.size
            yield block.ids
        if counts["characters"] != stop - start:
            raise DataError(f"{text.name} has changed while it was read: begin again")
        if symbols == 0:
            raise DataError(f"{text.name} has no {vocabulary.level}s in it: text is wanted")

    kept = cache.load_ids(directory, key, vocabulary.dtype)
    if kept is not None:
        ids, counts = kept
    else:
        ids = cache.store_ids(directory, key, vocabulary.dtype, arrays(), counts)
    return EncodedText(name=text.name, ids=ids, digest=key, **counts)


def _with_progress(pieces: Iterable[str], size: int, doing: str, progress: Progress | None) -> Iterator[str]:
    """The same pieces, with progress told in characters."""
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        if progress:
            progress(doing, done, size)


def _digest(*identity: object) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *identity]).encode()).hexdigest()[:40]

"""Word and byte-pair vocabularies, based on the `tokenizers` library and stored in its file format."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from throughtime.data.vocabulary import Block, Ids, Vocabulary
from throughtime.errors import DataError
from throughtime.spelling import option

UNKNOWN = "<unk>"
LINE_END = "<eos>"

# Splits plain text into parts whose concatenation is the text: a line end; a word with an
# inner apostrophe, or a (repeated) punctuation mark, each with one preceding space; other white
# space. The bounds keep a "word" of a megabyte (a gene, a hash) from becoming one token.
_PLAIN = r"\n| ?\w{1,64}(?:['’]\w{1,64})?| ?([^\w\s])\1{0,63}|[^\S\n]{1,64}(?!\S)|[^\S\n]"

_BLOCK = 8192  # characters to tokenize at a time
_BATCH = 64  # blocks to pass to the library's threads at a time


class TokenVocabulary(Vocabulary):
    """A vocabulary of words or byte pairs, based on a tokenizer of the `tokenizers` library.

    Plain words include the preceding space, so decoding restores the text (except for unknown words).
    Words of a tokenized text are decoded with a space after each, and `<eos>` as a line end. Byte
    pairs encode any text and restore it exactly.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        split = json.loads(tokenizer.to_str())
        self.level = {"WordLevel": "word", "BPE": "bpe"}[split["model"]["type"]]
        self.tokenized: bool = split["pre_tokenizer"]["type"] == "WhitespaceSplit"
        ids = tokenizer.get_vocab()
        names = sorted(ids, key=ids.__getitem__)
        if [ids[name] for name in names] != list(range(len(names))):
            raise ValueError("its ids have gaps")
        if self.level == "bpe":
            byte_of = _bytes_of_letters()
            super().__init__([bytes(byte_of[c] for c in name) for name in names], unknown=None)
        elif self.tokenized:
            self.separator = " "
            pieces = ["\n" if name == LINE_END else name + " " for name in names]
            super().__init__([piece.encode() for piece in pieces], unknown=ids[UNKNOWN])
        else:
            pieces = [" " + name if name == UNKNOWN else name for name in names]
            super().__init__([piece.encode() for piece in pieces], unknown=ids[UNKNOWN])

    def encode_blocks(self, pieces: Iterable[str]) -> Iterator[Block]:
        blocks = _blocks(pieces)
        while batch := list(islice(blocks, _BATCH)):
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            for text, encoding in zip(batch, encodings, strict=True):
                ids = np.array(encoding.ids, self.dtype)
                yield Block(text, ids, self._unknown_in(text, ids))

    def to_json(self) -> str:
        return self._tokenizer.to_str(pretty=True)

    def _unknown_in(self, text: str, ids: Ids) -> int:
        if self.unknown is None:
            return 0
        found = int(np.count_nonzero(ids == self.unknown))
        if self.tokenized and found:
            found -= text.split().count(UNKNOWN)  # <unk> in the text itself is a known word
        return found


def words(pieces: Iterable[str], vocab_size: int, min_count: int) -> TokenVocabulary:
    """Build a vocabulary of the most frequent words and punctuation marks of plain text; id 0 is `<unk>`."""
    return _word_level(_plain_words(), pieces, (UNKNOWN,), vocab_size, min_count)


def tokenized_words(pieces: Iterable[str], vocab_size: int | None, min_count: int) -> TokenVocabulary:
    """Build a vocabulary of the words of a tokenized text; id 0 is `<unk>`, id 1 is `<eos>`."""
    return _word_level(_tokenized(), pieces, (UNKNOWN, LINE_END), vocab_size, min_count)


def byte_pairs(pieces: Iterable[str], vocab_size: int, min_count: int) -> TokenVocabulary:
    """Build a byte-pair encoding (Sennrich et al. 2016) over bytes; the vocabulary includes all 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [_split_plain(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_blocks(pieces), trainer)
    return TokenVocabulary(tokenizer)


def from_json(text: str) -> TokenVocabulary:
    """Read a vocabulary from the output of `TokenVocabulary.to_json`.

    Raises:
        ValueError: if the text is not in the library's format.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        raise ValueError(error) from None
    return TokenVocabulary(tokenizer)


def _word_level(
    tokenizer: Tokenizer,
    pieces: Iterable[str],
    first: tuple[str, ...],
    vocab_size: int | None,
    min_count: int,
) -> TokenVocabulary:
    """Train a tokenizer on the words of a text; ids follow `first`, then decreasing frequency."""
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size or 2**32 - 1,
        min_frequency=min_count,
        show_progress=False,
        special_tokens=[],
    )
    tokenizer.train_from_iterator(_blocks(pieces), trainer)
    ids = tokenizer.get_vocab()
    found = [word for word in sorted(ids, key=ids.__getitem__) if word not in first]
    names = [*first, *found][:vocab_size]
    if len(names) == len(first):
        raise DataError(
            f"no word occurs {min_count} times in the training text; "
            f"use a longer text or a smaller {option('min_count')}, the minimum number of occurrences"
        )
    tokenizer.model = models.WordLevel({name: i for i, name in enumerate(names)}, UNKNOWN)
    return TokenVocabulary(tokenizer)


def _plain_words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = _split_plain()
    return tokenizer


def _tokenized() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace("\n", f" {LINE_END} ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _split_plain() -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(_PLAIN), "isolated")


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    """Cut the text into blocks that end at word ends and depend only on the text."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        start = 0
        while len(text) - start > _BLOCK:
            block = text[start : start + _BLOCK]
            block = block[: _last_word_end(block)]
            yield block
            start += len(block)
        rest = text[start:]
    if rest:
        yield rest


def _last_word_end(block: str) -> int:
    """Return the last position where white space follows other characters, or the end of the block if none does."""
    end = len(block.rstrip())
    if end == len(block):
        head = block.rsplit(None, 1)
        end = len(head[0]) if len(head) == 2 else 0
    return end or len(block)


def _bytes_of_letters() -> dict[str, int]:
    """Return the byte that each character of a byte-level tokenizer represents (Radford et al. 2019).

    Printable Latin-1 characters represent themselves; characters from U+0100 on represent the other bytes, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}

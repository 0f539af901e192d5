"""Words and byte pairs, through the `tokenizers` library and in its own file format."""

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

# Splits plain text so that the parts, put together, are the text again: a line end; a word with its
# inner apostrophe, or a punctuation mark (repeated, perhaps), each with the one space before it;
# other white space. The bounds keep a "word" of a megabyte (a gene, a hash) from being one symbol.
_PLAIN = r"\n| ?\w{1,64}(?:['’]\w{1,64})?| ?([^\w\s])\1{0,63}|[^\S\n]{1,64}(?!\S)|[^\S\n]"

_BLOCK = 8192  # characters tokenised at a time
_BATCH = 64  # blocks handed to the library's threads at a time


class TokenVocabulary(Vocabulary):
    """Words or byte pairs, as a tokenizer of the library splits and numbers them.

    Plain words carry the space before them, so that decoding gives the text back (but for unknown
    words). Words of a tokenised text are decoded with a space after each and a line end for
    `<eos>`. Byte pairs cover any text and give it back exactly.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        split = json.loads(tokenizer.to_str())
        self.level = {"WordLevel": "word", "BPE": "bpe"}[split["model"]["type"]]
        self.tokenised: bool = split["pre_tokenizer"]["type"] == "WhitespaceSplit"
        ids = tokenizer.get_vocab()
        names = sorted(ids, key=ids.__getitem__)
        if [ids[name] for name in names] != list(range(len(names))):
            raise ValueError("its ids have gaps")
        if self.level == "bpe":
            byte_of = _bytes_of_letters()
            super().__init__([bytes(byte_of[c] for c in name) for name in names], unknown=None)
        elif self.tokenised:
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
        if self.tokenised and found:
            found -= text.split().count(UNKNOWN)  # the text's own word, which is known
        return found


def words(pieces: Iterable[str], vocab_size: int, min_count: int) -> TokenVocabulary:
    """The most frequent words and marks of plain text; id 0 is `<unk>`."""
    return _word_level(_plain_words(), pieces, (UNKNOWN,), vocab_size, min_count)


def tokenised_words(pieces: Iterable[str], vocab_size: int | None, min_count: int) -> TokenVocabulary:
    """The words of a tokenised text as they stand; id 0 is `<unk>`, id 1 is `<eos>`."""
    return _word_level(_tokenised(), pieces, (UNKNOWN, LINE_END), vocab_size, min_count)


def byte_pairs(pieces: Iterable[str], vocab_size: int, min_count: int) -> TokenVocabulary:
    """Byte-pair encoding (Sennrich et al. 2016) over bytes; the 256 bytes are among the symbols."""
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
    """The vocabulary that `TokenVocabulary.to_json` gave.

    Raises:
        ValueError: the text is not of the library's format.
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
    """The tokenizer with the words of a text, `first` before them: the most frequent come first."""
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
            f"no word occurs {min_count} times in the training text: "
            f"give a longer text or a smaller {option('min_count')}"
        )
    tokenizer.model = models.WordLevel({name: i for i, name in enumerate(names)}, UNKNOWN)
    return TokenVocabulary(tokenizer)


def _plain_words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = _split_plain()
    return tokenizer


def _tokenised() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace("\n", f" {LINE_END} ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _split_plain() -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(_PLAIN), "isolated")


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in blocks that depend on the text alone, each ending where a word ends."""
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
    """The last place where white space follows something else; the block's end if none does."""
    end = len(block.rstrip())
    if end == len(block):
        head = block.rsplit(None, 1)
        end = len(head[0]) if len(head) == 2 else 0
    return end or len(block)


def _bytes_of_letters() -> dict[str, int]:
    """The byte behind each letter of a byte-level tokenizer: printable Latin-1 is itself, the
    other bytes are the letters from U+0100 on, in order (Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}

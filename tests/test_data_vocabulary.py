"""Vocabularies: encoding and decoding, unknown tokens, and files."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from throughtime.data.text import default_text
from throughtime.data.vocabulary import build_vocabulary, from_json, load_vocabulary
from throughtime.errors import DataError

ANY_TEXT = st.text(max_size=60)
# Resembles the files of the Penn Treebank.
TREEBANK = (
    " no it was n't black monday \n but while the <unk> stock exchange did n't fall apart \n"
    " the dow jones industrial average plunged N points \n\n"
)


@pytest.fixture(scope="module")
def byte_pairs():
    return build_vocabulary("bpe", [default_text()[:50_000]], vocab_size=400)


@pytest.fixture(scope="module")
def words():
    return build_vocabulary("word", [default_text()[:50_000]], min_count=1)


@settings(deadline=None)
@given(ANY_TEXT)
def test_characters_round_trip_any_text(text):
    vocabulary = build_vocabulary("char", [text])
    ids = vocabulary.encode(text)
    assert len(ids) == len(text)
    assert vocabulary.decode(ids) == text
    assert vocabulary.unknown == 0
    assert not (ids == 0).any()


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_byte_pairs_round_trip_unseen_text(byte_pairs, text):
    assert byte_pairs.unknown is None
    assert byte_pairs.decode(byte_pairs.encode(text)) == text


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_plain_words_round_trip_their_own_text(text):
    vocabulary = build_vocabulary("word", [text, " word"], min_count=1)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_plain_words_split_as_a_reader_would(words):
    vocabulary = build_vocabulary("word", ['He didn\'t -- at 9, say.\n\n  "Well..."\n'], min_count=1)
    ids = vocabulary.encode('He didn\'t -- at 9, say.\n\n  "Well..."\n')
    assert [vocabulary.tokens[i] for i in ids] == (
        ["He", " didn't", " --", " at", " 9", ",", " say", ".", "\n", "\n", " ", ' "', "Well", "...", '"', "\n"]
    )


@settings(deadline=None)
@given(text=ANY_TEXT, level=st.sampled_from(["char", "word", "bpe"]), data=st.data())
def test_incremental_decoding_returns_the_same_text(words, byte_pairs, text, level, data):
    vocabulary = {"char": build_vocabulary("char", [text]), "word": words, "bpe": byte_pairs}[level]
    ids = vocabulary.encode(text)
    decoder = vocabulary.decoder()
    came = "".join(decoder([i]) for i in ids) + decoder([], final=True)
    assert came == vocabulary.decode(ids)


def test_decoding_holds_back_incomplete_characters(byte_pairs):
    ids = byte_pairs.encode("…")
    assert len(ids) == 3
    decoder = byte_pairs.decoder()
    assert [decoder([i]) for i in ids] == ["", "", "…"]
    decoder = byte_pairs.decoder()
    assert decoder(ids[:2]) + decoder([], final=True) == "\ufffd"


@pytest.mark.parametrize("level", ["char", "word", "bpe"])
def test_encoding_does_not_depend_on_piece_boundaries(level):
    text = default_text()[:60_000] + "無空白" * 4_000 + " " * 10_000 + "end\n"

    def tokens(size):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        vocabulary = build_vocabulary(level, pieces)
        ids = [i for block in vocabulary.encode_blocks(pieces) for i in block.ids.tolist()]
        return vocabulary.digest, ids

    whole = tokens(len(text))
    assert all(tokens(size) == whole for size in (17, 8192, 50_001))


def test_a_tokenized_text_consists_of_words_and_line_ends():
    vocabulary = build_vocabulary("word", [TREEBANK], tokenized=True)
    expected = TREEBANK.replace("\n", " <eos> ").split()
    names = list(json.loads(vocabulary.to_json())["model"]["vocab"])
    assert names[:2] == ["<unk>", "<eos>"]
    assert sorted(names) == sorted(set(expected))
    assert [names[i] for i in vocabulary.encode(TREEBANK)] == expected
    assert vocabulary.decode(vocabulary.encode(TREEBANK)).split("\n") == [
        line.strip() + " " if line.strip() else "" for line in TREEBANK.split("\n")
    ]


def test_only_missing_words_count_as_unknown():
    vocabulary = build_vocabulary("word", [TREEBANK], tokenized=True)
    (block,) = vocabulary.encode_blocks(["the <unk> black swan plunged \n"])
    assert block.ids.tolist().count(vocabulary.unknown) == 2
    assert block.unknown == 1


def test_an_unseen_character_is_unknown():
    vocabulary = build_vocabulary("char", ["abc"])
    (block,) = vocabulary.encode_blocks(["abé\ud800c"])
    assert block.ids.tolist() == [1, 2, 0, 0, 3]
    assert block.unknown == 2
    assert vocabulary.decode(block.ids) == "ab<unk><unk>c"


def test_bounds_keep_the_most_frequent():
    text = "a" * 5 + "b" * 3 + "c" * 3 + "d"
    assert build_vocabulary("char", [text], min_count=2).tokens == ("<unk>", "a", "b", "c")
    assert build_vocabulary("char", [text], vocab_size=3).tokens == ("<unk>", "a", "b")
    text = "low low low high high mid"
    assert build_vocabulary("word", [text]).tokens == (" <unk>", " high", " low")
    assert build_vocabulary("word", [text], vocab_size=3, min_count=1).size == 3
    assert build_vocabulary("bpe", [default_text()[:20_000]], vocab_size=300).size == 300
    bounded = build_vocabulary("word", [TREEBANK], vocab_size=4, tokenized=True)
    assert bounded.size == 4


def test_ids_use_the_smallest_dtype():
    assert build_vocabulary("char", ["".join(map(chr, range(255)))]).dtype == "uint8"
    assert build_vocabulary("char", ["".join(map(chr, range(256)))]).dtype == "uint16"
    many = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x12000)]))
    assert build_vocabulary("char", [many]).dtype == "uint32"


@pytest.mark.parametrize("level", ["char", "word", "bpe"])
def test_a_vocabulary_is_saved_as_json(tmp_path, level):
    vocabulary = build_vocabulary(level, ["one two\nöne two\0\n" * 9])
    vocabulary.save(tmp_path / "vocabulary.json")
    again = load_vocabulary(tmp_path / "vocabulary.json")
    assert again.level == level
    assert again.digest == vocabulary.digest
    assert again.pieces == vocabulary.pieces
    assert again.encode("two one.").tolist() == vocabulary.encode("two one.").tolist()


def test_word_and_byte_pair_files_load_in_tokenizers(tmp_path, byte_pairs):
    byte_pairs.save(tmp_path / "vocabulary.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "vocabulary.json"))
    assert tokenizer.encode("the print function").ids == byte_pairs.encode("the print function").tolist()


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"model": {}}', '{"characters": [1]}', "{"])
def test_a_damaged_vocabulary_is_reported(tmp_path, text):
    with pytest.raises(DataError, match="damaged"):
        from_json(text)
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(DataError, match=r"v\.json is damaged"):
        load_vocabulary(tmp_path / "v.json")


def test_a_missing_vocabulary_is_reported(tmp_path):
    with pytest.raises(DataError, match="can't be read: No such file"):
        load_vocabulary(tmp_path / "v.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "chars"}, "did you mean char?"),
        ({"level": "bpe", "vocab_size": 200}, "at least 257"),
        ({"level": "char", "vocab_size": 0}, "must be at least 3"),
        ({"level": "word", "min_count": 0}, "must be a positive integer"),
        ({"level": "word", "min_count": 9}, "no word occurs 9 times"),
    ],
)
def test_impossible_bounds_are_rejected(options, message):
    with pytest.raises(DataError) as caught:
        build_vocabulary(pieces=["some text"], **options)
    assert message in str(caught.value)

"""Tagged sequences from column files and tables, and spans of BIO tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data.spans import is_tagging, span_f1, span_scores, spans
from throughtime.data.tagged import read_tagged
from throughtime.errors import DataError

CONLL = """-DOCSTART- -X- O

EU NNP B-ORG
rejects VBZ O

Peter NNP B-PER
Blackburn NNP I-PER


"""
SENTENCES = [["EU", "rejects"], ["Peter", "Blackburn"]]
TAGS = [["B-ORG", "O"], ["B-PER", "I-PER"]]


def written(tmp_path, content, name="data.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_columns_can_be_separated_by_spaces(tmp_path):
    path = written(tmp_path, CONLL)
    found = read_tagged(path)
    assert (found.tokens, found.tags) == (SENTENCES, TAGS)
    assert found.names == ["data.txt:3", "data.txt:6"]
    assert read_tagged(path, tag_column=1).tags == [["NNP", "VBZ"], ["NNP", "NNP"]]
    assert read_tagged(path, token_column=1, tag_column=0).tags == SENTENCES
    both = read_tagged([path, written(tmp_path, "x Y", "more.conll")])
    assert both.tokens == [*SENTENCES, ["x"]]
    assert both.name == f"{path} and more.conll"


def test_columns_separated_by_tabs_may_contain_spaces(tmp_path):
    found = read_tagged(written(tmp_path, "New York\tB-LOC\r\nis\tO\r\n\r\n1 000\tO\r\n", "data.tsv"))
    assert found.tokens == [["New York", "is"], ["1 000"]]
    assert found.tags == [["B-LOC", "O"], ["O"]]


def test_tokens_can_be_read_without_tags(tmp_path):
    found = read_tagged(written(tmp_path, "EU\nrejects\n\nPeter\n"), tag_column=None)
    assert (found.tokens, found.tags) == ([["EU", "rejects"], ["Peter"]], [["", ""], [""]])
    table = written(tmp_path, "s,w\n1,a\n1,b\n", "data.csv")
    assert read_tagged(table, sentence_column="s", token_column="w", tag_column=None).tokens == [["a", "b"]]


@pytest.mark.parametrize("later", ["s1", ""])
def test_table_columns_are_selected_by_name(tmp_path, later):
    rows = f's1,EU,B-ORG\n{later},rejects,O\ns2,"Pe,ter",B-PER\n'
    path = written(tmp_path, "sentence,word,ner\n" + rows, "data.csv")
    found = read_tagged(path, sentence_column="sentence", token_column="word", tag_column="ner")
    assert found.tokens == [["EU", "rejects"], ["Pe,ter"]]
    assert found.tags == [["B-ORG", "O"], ["B-PER"]]
    assert found.names == ["data.csv, row 1", "data.csv, row 3"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, r"data\.txt has no sequences"),
        ("\n\n-DOCSTART- O\n", {}, r"data\.txt has no sequences"),
        ("a B\nword\n", {}, r"data\.txt, line 2: expected a token and its tag, got only 'word'"),
        ("a B\n\nc D E\n", {}, r"line 3: expected 2 columns as in the previous lines, got 3"),
        ("a\tB\n\tO\n", {}, "line 2: the token is empty"),
        ("a\tB\na\t\n", {}, "line 2: the tag is empty"),
        ("a B\n", {"tag_column": 2}, r"line 1: no column 2 \(tag_column\); the file has 2 columns"),
        ("a B\n", {"token_column": -3}, r"no column -3 \(token_column\)"),
        ("a B\n", {"tag_column": 0}, "token_column and tag_column are the same column, 0"),
        ("a B\n", {"tag_column": "ner"}, r"is not a table .*use column numbers for token_column and tag_column"),
        (b"a B\nc\xe9 D\n", {}, r"data\.txt is not UTF-8: byte 5 \(line 2\)"),
    ],
)
def test_invalid_column_files_are_rejected(tmp_path, content, options, message):
    with pytest.raises(DataError, match=message):
        read_tagged(written(tmp_path, content), **options)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("s,w,t\n1,a,B\n", {}, r"with sentence_column, token_column, tag_column\. Its columns are 's', 'w', 't'"),
        ("s,w,t\n1,a,B\n", {"sentence": "s", "token": "w"}, "set its columns by name with tag_column"),
        ("s,w,t\n1,a,B\n", {"sentence": "s", "token": "w", "tag": "x"}, r"no column 'x' for tag_column"),
        ("s,w,t\n1,a,B\n1,b,\n", {"sentence": "s", "token": "w", "tag": "t"}, r"1 missing value \(row 2\)"),
        ("s,w,t\n,a,B\n", {"sentence": "s", "token": "w", "tag": "t"}, r"\(sentence_column\) is blank in row 1"),
    ],
)
def test_invalid_tables_are_rejected(tmp_path, content, options, message):
    with pytest.raises(DataError, match=message):
        read_tagged(written(tmp_path, content, "data.csv"), **{f"{name}_column": of for name, of in options.items()})


def test_unreadable_paths_are_rejected(tmp_path):
    written(tmp_path, CONLL, "train.conll")
    for paths, message in [
        ([], "no data given"),
        (tmp_path, "is a directory; expected a file"),
        (tmp_path / "trian.conll", r"no such file or directory .did you mean train\.conll"),
    ]:
        with pytest.raises(DataError, match=message):
            read_tagged(paths)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", set()),
        ("O O", set()),
        ("B-X I-X O", {(0, 2, "X")}),
        ("B-X B-X", {(0, 1, "X"), (1, 2, "X")}),
        ("I-X I-X O I-X", {(0, 2, "X"), (3, 4, "X")}),  # I- after O starts a span
        ("B-X I-Y", {(0, 1, "X"), (1, 2, "Y")}),  # so does a change of type
        ("I-X I-Y I-X", {(0, 1, "X"), (1, 2, "Y"), (2, 3, "X")}),
        ("I-X B-X I-X", {(0, 1, "X"), (1, 3, "X")}),
        ("O B-X", {(1, 2, "X")}),
        ("B-X I-X E-X I-X", {(0, 3, "X"), (3, 4, "X")}),  # E- ends a span, so the next I- starts one
        ("S-X S-X I-X", {(0, 1, "X"), (1, 2, "X"), (2, 3, "X")}),
        ("E-X E-X", {(0, 1, "X"), (1, 2, "X")}),
        ("B-A-B I-A-B", {(0, 2, "A-B")}),
        ("B I", {(0, 2, "_")}),
    ],
)
def test_spans_follow_conlleval(tags, expected):
    assert spans(tags.split()) == expected


TAG = st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])


@given(st.lists(TAG, max_size=12))
def test_spans_cover_each_tag_except_o_once(tags):
    covered = [k for start, end, _ in spans(tags) for k in range(start, end)]
    assert sorted(covered) == [k for k, tag in enumerate(tags) if tag != "O"]
    for start, end, kind in spans(tags):
        assert {tag[2:] for tag in tags[start:end]} == {kind}
        assert all(tag[0] == "I" for tag in tags[start + 1 : end])


def test_span_scores_are_micro_averages():
    # seqeval's own example from its README: 1 of 2 predicted spans is correct, 1 of 2 true spans is found.
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert span_f1(true, found) == 0.5
    assert span_scores([["B-X", "B-X", "B-X"]], [["B-X", "O", "B-Y"]]) == (1 / 2, 1 / 3, 2 / 5)
    assert span_scores([["O"]], [["O"]]) == (0, 0, 0)
    assert span_scores([["B-X"]], [["O"]]) == (0, 0, 0)
    with pytest.raises(ValueError, match="1 and 2"):
        span_f1([["O", "O"]], [["O"]])


def test_span_tags_are_distinguished_from_other_labels():
    assert is_tagging(["O", "B-PER", "I-PER"])
    assert is_tagging(["B-PER", "S-X"])
    assert not is_tagging(["O"])
    assert not is_tagging(["NOUN", "VERB"])
    assert not is_tagging(["O", "B-PER", "B-"])
    assert not is_tagging([])

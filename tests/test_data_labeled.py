"""Labeled sequences from directories and tables, and errors about unusable ones."""

import numpy as np
import polars as pl
import pytest

from throughtime.data.labeled import read_labeled
from throughtime.errors import DataError, UserError
from throughtime.spelling import command_line


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def csv(tmp_path, content, name="data.csv"):
    return tree(tmp_path, {name: content}) / name


SERIES = """id,t,label,x,y,note
a,0,up,1,10,first
a,1,up,2,20,
b,0,down,5,50,
b,1,down,4,40,
b,2,down,3,30,last
"""
OF_SERIES = {"label": "label", "group": "id", "time": "t"}


def test_label_files_have_a_sequence_per_line(tmp_path):
    tree(
        tmp_path,
        {"Irish.txt": "\ufeffMaol\r\n\n  Ó Briain \n", "Greek.txt": "Pappas", "README.md": "x", ".old.txt": ""},
    )
    found = read_labeled(tmp_path)
    assert found.texts == ["Pappas", "Maol", "Ó Briain"]
    assert found.labels == ["Greek", "Irish", "Irish"]
    assert found.names == ["Greek.txt:1", "Irish.txt:1", "Irish.txt:3"]
    assert (found.name, found.groups, found.series, found.notes) == (str(tmp_path), None, None, [])
    listed = read_labeled([tmp_path / "Irish.txt", tmp_path / "Greek.txt"], group_by="text")
    assert listed.labels == ["Irish", "Irish", "Greek"]
    assert listed.groups == listed.texts


def test_label_directories_have_a_sequence_per_file(tmp_path):
    tree(tmp_path, {"b/1.txt": "one\ntwo\n", "a/2.txt": "x", "a/1.txt": "y", ".git/c.txt": ""})
    found = read_labeled(tmp_path)
    assert found.texts == ["y", "x", "one\ntwo\n"]
    assert found.labels == ["a", "a", "b"]
    assert found.names == ["a/1.txt", "a/2.txt", "b/1.txt"]


def test_a_table_can_contain_texts(tmp_path):
    path = csv(tmp_path, 'who, text,label\nx,"a, b",1\ny,c,007\nx,NA, 1\n')
    found = read_labeled(path, label="label", text="text", group_by="who")
    assert found.texts == ["a, b", "c", "NA"]
    assert found.labels == ["1", "007", "1"]
    assert found.names == ["row 1", "row 2", "row 3"]
    assert found.groups == ["x", "y", "x"]
    assert read_labeled(path, label="label", text="text", group_by="text").groups == found.texts


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_can_contain_series(tmp_path, kind):
    path = csv(tmp_path, SERIES)
    if kind == "tsv":
        path = csv(tmp_path, SERIES.replace(",", "\t"), "data.tsv")
    elif kind == "parquet":
        path = tmp_path / "data.parquet"
        pl.read_csv(tmp_path / "data.csv").write_parquet(path)
    found = read_labeled(path, **OF_SERIES)
    assert [x.tolist() for x in found.series] == [[[1, 10], [2, 20]], [[5, 50], [4, 40], [3, 30]]]
    assert found.features == ("x", "y")
    assert found.labels == ["up", "down"]
    assert found.names == ["a", "b"]
    assert found.texts is None
    assert found.notes == ["Columns that are not numeric are ignored: 'note'."]
    chosen = read_labeled(path, **OF_SERIES, columns=["y"], group_by="label")
    assert [x.shape for x in chosen.series] == [(2, 1), (3, 1)]
    assert (chosen.groups, chosen.notes) == (["up", "down"], [])


@pytest.mark.parametrize(
    "times",
    [
        ["2", "10", "1"],
        ["0.5", "1e3", "-1"],
        ["2024-05-02", "2024-10-01", "2024-05-01"],
        ["2024-05-01 12:30", "2024-05-01 13:00", "2024-05-01 09:00"],
        ["2024-05-01T12:30:00Z", "2024-05-01T13:00:00Z", "2024-05-01T09:00:00Z"],
        ["12:30", "13:00", "09:00"],
    ],
)
def test_rows_are_sorted_by_time(tmp_path, times):
    rows = [f"{group},{time},{group}{k},{k}" for k, time in enumerate(times) for group in "qp"]
    path = csv(tmp_path, "id,t,_,x\n" + "\n".join(rows) + "\nsorted,1,_,7\n".replace("1", times[0]))
    table = pl.read_csv(path, infer_schema=False).with_columns(label=pl.col("id").str.slice(0, 1))
    table.write_csv(path)
    found = read_labeled(path, label="label", group="id", time="t", columns=["x"])
    assert [x[:, 0].tolist() for x in found.series] == [[2, 0, 1], [2, 0, 1], [7]]
    assert found.names == ["q", "p", "sorted"]
    assert found.notes == ["The rows of 2 of 3 sequences were not sorted by 't'; now sorted."]


def test_parquet_times_are_sorted_to_the_nanosecond(tmp_path):
    path = tmp_path / "data.parquet"
    times = pl.Series([1_700_000_000_000_000_001, 1_700_000_000_000_000_000, 5]).cast(pl.Datetime("ns"))
    pl.DataFrame({"id": [1, 1, 2], "t": times, "label": [True, True, False], "x": [1, 2, 3]}).write_parquet(path)
    found = read_labeled(path, label="label", group="id", time="t")
    assert [x.tolist() for x in found.series] == [[[2], [1]], [[3]]]
    assert found.labels == ["true", "false"]
    assert found.names == ["1", "2"]


def test_data_to_predict_needs_no_labels(tmp_path):
    tree(tmp_path, {"new.txt": "one\n\ntwo\n", "data.csv": SERIES})
    lines = read_labeled(tmp_path / "new.txt", min_labels=0)
    assert (lines.texts, lines.labels, lines.names) == (["one", "two"], [], ["new.txt:1", "new.txt:3"])
    table = read_labeled(tmp_path / "data.csv", group="id", columns=["x"], min_labels=0)
    assert (len(table), table.labels, table.names) == (2, [], ["a", "b"])
    assert read_labeled(tmp_path / "data.csv", label="label", text="id", min_labels=1).labels[0] == "up"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no \.txt files; expected a directory with one \.txt file per label"),
        ({"a.wav": "x"}, r"has no \.txt files \(it has \.wav files\)"),
        ({"a.txt": "x"}, r"has 1 label \('a'\); at least 2 are needed"),
        ({"a.txt": "x", "b.txt": ""}, r"b\.txt has no sequences; add lines, or remove the file"),
        ({"a.txt": "x", "b.txt": " \n\n"}, r"b\.txt has no sequences"),
        ({"a.txt": "x", "b.txt": b"ab\nc\xe9d\n"}, r"b\.txt is not UTF-8: byte 4 \(line 2\) is 0xe9.*iconv"),
        ({"a.txt": "x", "b.txt": b"\0\1\2"}, r"b\.txt is a binary file"),
        ({"a.txt": "x", "b/c.txt": "x"}, r"both \.txt files and directories"),
        ({"a/1.txt": "x", "b/1.wav": "x"}, r"b has no \.txt files \(it has \.wav files\); each subdirectory"),
        ({"a/1.txt": "x", "b/1.txt": "\n"}, r"b/1\.txt is empty; sequences must have at least one character"),
    ],
)
def test_invalid_directories_are_rejected(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read_labeled(tree(tmp_path, files))


def test_invalid_utf8_can_be_replaced(tmp_path):
    tree(tmp_path, {"a.txt": b"c\xe9d", "b.txt": "x", "t.csv": b"l,t\na,c\xe9d\nb,x\n"})
    assert read_labeled([tmp_path / "a.txt", tmp_path / "b.txt"], encoding_errors="replace").texts == ["c\ufffdd", "x"]
    with pytest.raises(DataError, match=r"t\.csv is not UTF-8: byte 7 \(line 2\)"):
        read_labeled(tmp_path / "t.csv", label="l", text="t")
    assert read_labeled(tmp_path / "t.csv", label="l", text="t", encoding_errors="replace").texts == ["c\ufffdd", "x"]


def test_mismatched_paths_and_options_are_rejected(tmp_path):
    tree(tmp_path, {"names/a.txt": "x", "names/b.txt": "y", "names/c.rtf": "z"})
    names = tmp_path / "names"
    for arguments, message in [
        ((tmp_path / "name", {}), "no such file or directory .did you mean names"),
        (([], {}), "no data given"),
        ((names / "c.rtf", {}), r"c\.rtf is of an unsupported type \(\.rtf\)"),
        (([names / "a.txt", tmp_path], {}), "is a directory among files"),
        ((names, {"label": "y"}), r"label names table columns, but .*names is not a table \(\.csv"),
        ((names, {"group_by": "speaker"}), "group_by must be text for text files.*got 'speaker'"),
        ((names / "a.txt", {}), "has 1 label"),
    ]:
        with pytest.raises(DataError, match=message):
            read_labeled(arguments[0], **arguments[1])
    with command_line(), pytest.raises(DataError, match="--group-by must be text"):
        read_labeled(names, group_by="speaker")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "is empty; expected a table"),
        ("a,b\n", {}, "has no rows below its header"),
        ("a,b\n1,2,3\n", {}, r"is not a readable \.csv table: a row has more cells"),
        (SERIES, {"label": None}, "set its label column with label. Its columns are 'id', 't', 'label'"),
        (SERIES, {"label": "labl"}, r"no column 'labl' for label .did you mean label\?.\. Its columns are 'id'"),
        (SERIES, {"group": None}, r"needs either text .* or group .*, got neither"),
        (SERIES, {"text": "note"}, "got both"),
        (
            SERIES,
            {"text": "note", "group": None, "time": None},
            r"'note' has 3 empty sequences \(the first in row 2",
        ),
        (SERIES, {"text": "note", "group": None}, "time requires group, not text"),
        (SERIES, {"group": "idd"}, r"no column 'idd' for group .did you mean id\?"),
        (SERIES, {"time": "tt"}, r"no column 'tt' for time"),
        (SERIES, {"group_by": "who"}, r"no column 'who' for group_by"),
        (SERIES, {"group_by": "x"}, "sequence 'a' has several values in column 'x': '1', '2'"),
        (SERIES, {"columns": ["z"]}, r"no column 'z' for columns\. Its columns"),
        (SERIES, {"columns": []}, "one or more distinct columns"),
        (SERIES, {"columns": ["x", "x"]}, "one or more distinct columns"),
        (SERIES, {"columns": ["t"]}, "'t' can't be a feature"),
        (
            SERIES,
            {"columns": ["note"]},
            r"'note' has 2 values \(the first in row 1\) that are not numbers, such as 'first'",
        ),
        (SERIES.replace("down", "up"), {}, r"has 1 label \('up'\)"),
        (SERIES.replace("b,1,down", "b,1,up"), {}, "sequence 'b' has several values in column 'label': 'down', 'up'"),
        (SERIES.replace("b,1,down", "b,1,"), {}, r"column 'label' \(label\) has 1 missing value \(row 4\)"),
        (SERIES.replace("down", "").replace("up", " "), {}, r"column 'label' \(label\) has no values"),
        (SERIES.replace("b,", ","), {}, r"column 'id' \(group\) has 3 missing values \(the first in row 3\)"),
        (SERIES.replace("b,2", "b,0"), {}, r"sequence 'b' has two rows at t 0 \(rows 3 and 5\)"),
        (SERIES.replace("b,2", "b,"), {}, r"column 't' \(time\) has 1 missing value \(row 5\)"),
        (SERIES.replace("a,0", "a,03/02/2024"), {}, r"'t' \(time\) must contain numbers or ISO 8601.*got '03/02/2024'"),
        (SERIES.replace("a,0", "a,nan"), {}, "times that are not finite"),
        (SERIES.replace(",5,", ",,"), {}, r"'x' has 1 missing or infinite value \(row 3\) among 5 rows; fill"),
        (
            SERIES.replace(",5,", ",NaN,").replace(",4,", ",inf,"),
            {},
            r"'x' has 2 missing or infinite values \(the first",
        ),
        (
            SERIES.replace(",5,", ",five,"),
            {},
            r"'x' has 1 value \(row 3\) that is not a number, such as 'five'; correct",
        ),
        ("id,label\na,x\nb,y\n", {"time": None}, "has no numeric columns besides 'id', 'label'"),
    ],
)
def test_invalid_tables_are_rejected(tmp_path, content, options, message):
    with pytest.raises(DataError, match=message):
        read_labeled(csv(tmp_path, content), **{**OF_SERIES, **options})


def test_invalid_parquet_files_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"is not a readable \.parquet table"):
        read_labeled(csv(tmp_path, "no", "a.parquet"), label="label", text="text")
    nested = pl.DataFrame({"id": [1, 2], "label": ["a", "b"], "x": [[1.0], [2.0]], "y": [1.0, np.nan]})
    nested.write_parquet(tmp_path / "b.parquet")
    for columns, message in [(["x"], "has type List"), (["y"], r"1 missing or infinite value \(row 2\)")]:
        with pytest.raises(DataError, match=message):
            read_labeled(tmp_path / "b.parquet", label="label", group="id", columns=columns)


def test_missing_polars_is_reported(tmp_path, monkeypatch):
    path = csv(tmp_path, SERIES)
    monkeypatch.setattr("throughtime.packages.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"reading tables needs polars, from the extra `train`: run pip install '\.\[train\]'"
    ):
        read_labeled(path, **OF_SERIES)

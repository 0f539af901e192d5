"""Reading text: pieces add up to the text, and files that aren't text are rejected with a reason."""

import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime.data import text as text_module
from throughtime.data.text import default_text, read_text
from throughtime.errors import DataError
from throughtime.paths import require_data


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def whole(*paths: Path | str, **options: str) -> str:
    return "".join(read_text(paths, **options).pieces())


@pytest.fixture
def tiny_pieces(monkeypatch):
    monkeypatch.setattr(text_module, "_PIECE", 3)


@settings(max_examples=50, deadline=None)
@given(
    content=st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\r\n\t")),
    piece=st.integers(3, 12),
)
def test_pieces_of_any_size_add_up_to_the_text(tmp_path_factory, content, piece):
    path = written(tmp_path_factory.mktemp("text") / "a.txt", "x" + content)
    before = text_module._PIECE
    text_module._PIECE = piece
    try:
        text = read_text([path])
        expected = path.read_text(encoding="utf-8")  # with Python's translation of line ends
        assert "".join(text.pieces()) == expected
        assert text.characters == len(expected)
        for start, stop in [(0, 4), (2, 7), (3, None), (len(expected), None)]:
            assert "".join(text.pieces(start, stop)) == expected[start:stop]
    finally:
        text_module._PIECE = before


def test_files_are_concatenated_in_the_given_order(tmp_path):
    a, b = written(tmp_path / "a", "first "), written(tmp_path / "b", "second")
    assert whole(b, a) == "secondfirst "
    assert read_text([b, a]).name == f"{b} and a"


def test_a_directory_reads_its_sorted_txt_files(tmp_path):
    written(tmp_path / "2.txt", "two ")
    written(tmp_path / "1.txt", "one ")
    written(tmp_path / "3.md", "three ")
    written(tmp_path / "0.txt", "")
    assert whole(tmp_path) == "one two "


def test_byte_order_marks_and_line_ends_are_normalized(tmp_path, tiny_pieces):
    a = written(tmp_path / "a", b"\xef\xbb\xbfone\r\ntwo\r")
    b = written(tmp_path / "b", b"\xef\xbb\xbfthree\n")
    assert whole(a, b) == "one\ntwo\nthree\n"


def test_the_digest_depends_on_the_text_not_its_files(tmp_path):
    one = written(tmp_path / "one", "a line\nanother\n")
    parts = [
        written(tmp_path / "p1", b"\xef\xbb\xbfa li"),
        written(tmp_path / "p2", "ne\r\nanother\n"),
    ]
    assert read_text([one]).digest == read_text(parts).digest
    assert read_text([one]).digest != read_text([parts[0]]).digest


def test_pipes_and_standard_input_can_be_iterated_twice(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("from a pipe",))
    writer.start()
    text = read_text([pipe])
    writer.join()
    assert ["".join(text.pieces()) for _ in range(2)] == ["from a pipe"] * 2

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from stdin")))
    text = read_text(["-"])
    assert ["".join(text.pieces()) for _ in range(2)] == ["from stdin"] * 2


def test_the_default_text_is_python_documentation():
    text = read_text()
    assert "".join(text.pieces()) == default_text()
    assert text.characters > 300_000
    assert 'The "for" statement' in default_text()


@pytest.mark.parametrize(
    ("content", "tokenized"),
    [
        ("the cat <unk> on\n", True),
        ("<unk> at the start\n", True),
        ("an end in <unk>\n", True),
        ("<unk>s are markup here, like <unk>\n", True),
        ("<unk>s are not words\n", False),
        ("plain text\n", False),
    ],
)
def test_tokenized_text_is_detected_by_unk_as_a_word(tmp_path, tiny_pieces, content, tokenized):
    assert read_text([written(tmp_path / "a", content)]).tokenized is tokenized


def test_progress_counts_bytes(tmp_path, tiny_pieces):
    seen = []
    read_text([written(tmp_path / "a", "12345678")], progress=lambda *args: seen.append(args))
    assert seen[0] == ("reading", 3, 8)
    assert seen[-1] == ("reading", 8, 8)


def test_invalid_utf8_is_reported_with_its_position(tmp_path, tiny_pieces):
    path = written(tmp_path / "latin.txt", b"one\ntwo, caf\xe9 three\n")
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8: byte 12 \(line 2\) is 0xe9"):
        read_text([path])
    assert whole(path, encoding_errors="replace") == "one\ntwo, caf\ufffd three\n"


def test_the_position_of_invalid_utf8_includes_the_byte_order_mark(tmp_path, tiny_pieces):
    path = written(tmp_path / "a", b"\xef\xbb\xbfab\n\n\xff")
    with pytest.raises(DataError, match=r"byte 7 \(line 3\) is 0xff"):
        read_text([path])


def test_a_truncated_character_at_the_end_is_invalid(tmp_path, tiny_pieces):
    path = written(tmp_path / "a", "wörld…".encode()[:-1])
    with pytest.raises(DataError, match=r"byte 6 \(line 1\).*unexpected end of data"):
        read_text([path])


def refusal(*paths: Path | str, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        read_text(paths, **options)
    return str(caught.value)


def test_files_that_are_not_text_are_rejected_with_a_reason(tmp_path):
    written(tmp_path / "shakespeare.txt", "To be")
    message = refusal(tmp_path / "shakespare.txt")
    assert "no such file or directory (did you mean shakespeare.txt?" in message
    assert "no such file" in refusal(tmp_path / "nowhere" / "at.all")
    assert "is empty" in refusal(written(tmp_path / "empty", ""))
    assert "is empty" in refusal(written(tmp_path / "mark", b"\xef\xbb\xbf"))
    assert "binary file (a NUL at byte 4)" in refusal(written(tmp_path / "elf", b"\x7fELF\0\1\2"))
    assert "control characters" in refusal(written(tmp_path / "odd", b"\1\2\3\4 text" * 99))
    assert "UTF-16" in refusal(written(tmp_path / "wide", "text".encode("utf-16")))
    assert "device" in refusal("/dev/null")
    assert "did you mean replace?" in refusal(tmp_path / "shakespeare.txt", encoding_errors="replaced")
    (tmp_path / "no-text").mkdir()
    assert "without *.txt files" in refusal(tmp_path / "no-text")


def test_an_unreadable_file_is_reported(tmp_path, monkeypatch):
    path = written(tmp_path / "secret.txt", "text")

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # permissions would not stop root
    assert refusal(path) == f"{path} can't be read: Permission denied"


def test_a_shared_suffix_does_not_make_file_names_similar(tmp_path):
    (tmp_path / "tiny.txt").write_text("x")
    with pytest.raises(DataError) as raised:
        require_data([str(tmp_path / "missing.txt")])
    assert str(raised.value).endswith("no such file or directory")

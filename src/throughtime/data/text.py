r"""Read text files in pieces of bounded size, decoding and checking the text.

Several files form one text, concatenated in the given order. The text is UTF-8; a byte order mark is
dropped, and Windows and classic Mac line ends become "\n", as when Python reads text. No more than one
piece of the text is in memory at a time.
"""

import codecs
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from throughtime.errors import DataError, nearest
from throughtime.paths import display_path, files_in, joint_name, missing, types_in_words
from throughtime.spelling import setting

Progress = Callable[[str, int, int], None]
"""A callback that receives the current activity, the amount done, and the total."""

TEXT_FILES = (".txt",)
ENCODING_ERRORS = ("strict", "replace")
DEFAULT_NAME = "Python's documentation (pydoc_data.topics)"

# What to do with files of types that no task reads.
_CONVERSIONS = {
    **dict.fromkeys(
        (".mp3", ".m4a", ".aac", ".aif", ".aiff", ".opus", ".wma"),
        "convert sound files to WAV or FLAC (for example, with ffmpeg)",
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save spreadsheets as CSV"),
}

_PIECE = 1 << 20  # bytes to read at a time
_HEAD = 1 << 16  # bytes at the start of a file that decide whether it is text
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b"))


@dataclass(frozen=True)
class Source:
    """A file or file-like source: its name, its size in bytes, and a function that opens it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Text:
    """A text that has been checked and can be read again.

    Attributes:
        name: the name of the text in reports.
        sources: the files, in order.
        encoding_errors: "strict" or "replace".
        characters: the number of characters.
        digest: the SHA-256 of its characters in UTF-8, which doesn't depend on file locations.
        tokenized: whether the text contains `<unk>` as a word, as in the benchmark texts of published
            perplexities. It then consists only of words and line ends.
    """

    name: str
    sources: tuple[Source, ...]
    encoding_errors: str
    characters: int
    digest: str
    tokenized: bool

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Yield the characters from `start` to `stop` (exclusive) in pieces.

        Args:
            start: the index of the first character.
            stop: the index after the last character; the end of the text if None.

        Raises:
            DataError: if a file can't be read, or has changed.
        """
        position = 0
        for source in self.sources:
            for piece, _ in _decoded(source, self.encoding_errors):
                if stop is not None and position >= stop:
                    return
                wanted = piece[max(start - position, 0) : None if stop is None else stop - position]
                position += len(piece)
                if wanted:
                    yield wanted


def read_text(
    paths: Sequence[str | Path] | None = None,
    encoding_errors: str = "strict",
    progress: Progress | None = None,
) -> Text:
    """Read a text once to check it and to determine its size and digest.

    Args:
        paths: files, directories (their `*.txt` files, sorted), pipes, or "-" for standard input. Pipes
            and standard input are copied to a temporary file. If None, the default text, which is
            Python's own documentation.
        encoding_errors: how to handle bytes that are not UTF-8: "strict" rejects them, "replace" reads
            them as U+FFFD.
        progress: called with the number of bytes read.

    Raises:
        DataError: if the list of paths is empty, or a path is missing, unreadable, empty, not text, or not UTF-8.
    """
    if encoding_errors not in ENCODING_ERRORS:
        raise DataError(
            f"encoding_errors must be strict or replace, got {encoding_errors!r}"
            + nearest(encoding_errors, ENCODING_ERRORS)
        )
    sources = (_default(),) if paths is None else tuple(s for path in paths for s in _sources(path))
    if not sources:
        raise DataError("no text given: the list of paths is empty; omit it to use Python's own documentation")
    digest = hashlib.sha256()
    characters = done = 0
    tokenized = False
    size = sum(source.size for source in sources)
    tail = "\n"  # the end of the last piece, where " <unk> " might start
    for source in sources:
        for piece, read in _decoded(source, encoding_errors):
            digest.update(piece.encode())
            characters += len(piece)
            window = tail + piece
            tokenized = tokenized or _is_tokenized(window)
            tail = window[-6:]
            done += read
            if progress:
                progress("reading", done, size)
    name = joint_name([source.name for source in sources])
    if characters == 0:
        raise DataError(f"{name} is empty; expected a text")
    return Text(name, sources, encoding_errors, characters, digest.hexdigest(), tokenized)


def default_text() -> str:
    """Return the text available on every machine: Python's own documentation, with topics in sorted order."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _default() -> Source:
    data = default_text().encode()
    return Source(DEFAULT_NAME, len(data), partial(io.BytesIO, data))


def _is_tokenized(text: str) -> bool:
    return "<unk>" in text and re.search(r"\s<unk>\s", text) is not None


def _sources(given: str | Path) -> list[Source]:
    """Return the files that a path refers to."""
    if str(given) == "-":
        return [_copied("standard input", sys.stdin.buffer)]
    if not os.fspath(given):
        raise DataError("a path is empty; expected the name of a file or directory, or - for standard input")
    path = Path(given)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            files = [file for file in files_in(path, TEXT_FILES, nested=False) if file.stat().st_size]
            if not files:
                conversions = sorted({_CONVERSIONS.get(file.suffix.lower(), "") for file in path.iterdir()} - {""})
                advice = " and ".join(conversions) or "pass text files with other names explicitly"
                raise DataError(
                    f"{display_path(path)} is a directory without *.txt files{types_in_words(path.iterdir())}; {advice}"
                )
            return [_file(file) for file in files]
        if stat.S_ISFIFO(status.st_mode):
            with path.open("rb") as pipe:
                return [_copied(display_path(path), pipe)]
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{display_path(path)} is a device or a socket; expected a text file")
    if status.st_size == 0:
        raise DataError(f"{display_path(path)} is empty; expected a text file")
    return [_file(path)]


def _file(path: Path) -> Source:
    return Source(display_path(path), path.stat().st_size, lambda: path.open("rb"))


def _copied(name: str, stream: IO[bytes]) -> Source:
    """Copy a stream to a temporary file, because texts are read several times and a stream can be read only once."""
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        size = copy.tell()
        descriptor = os.dup(copy.fileno())

    def reopen() -> IO[bytes]:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(descriptor), "rb")

    weakref.finalize(reopen, os.close, descriptor)  # the copy exists as long as the source
    return Source(name, size, reopen)


def _unreadable(path: Path | str, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(missing(Path(path)))
    return DataError(f"{display_path(path)} can't be read: {error.strerror or error}")


def _decoded(source: Source, encoding_errors: str) -> Iterator[tuple[str, int]]:
    """Yield the decoded pieces of a file, each with the number of bytes read for it."""
    decoder = codecs.getincrementaldecoder("utf-8")(encoding_errors)
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    offset = lines = 0
    try:
        with source.open() as file:
            while True:
                raw = file.read(_PIECE)
                final = not raw
                if offset == 0:
                    _require_text(source.name, raw[:_HEAD])
                    if raw.startswith(codecs.BOM_UTF8):
                        raw, offset = raw[3:], 3
                held_back = len(decoder.getstate()[0])  # bytes of a character that was cut at the end of a piece
                try:
                    text = decoder.decode(raw, final)
                except UnicodeDecodeError as error:
                    at = offset - held_back + error.start
                    line = lines + error.object.count(b"\n", 0, error.start) + 1
                    raise DataError(
                        f"{source.name} is not UTF-8: byte {at} (line {line}) is "
                        f"0x{error.object[error.start]:02x}, {error.reason}; convert the file "
                        "(for example, iconv -f LATIN1 -t UTF-8), or read such bytes as U+FFFD "
                        f"({setting('encoding_errors', 'replace')})"
                    ) from None
                yield line_ends.decode(text, final), len(raw)
                if final:
                    return
                offset += len(raw)
                lines += raw.count(b"\n")
    except OSError as error:
        raise _unreadable(source.name, error) from None


def _require_text(name: str, head: bytes) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{name} is UTF-16; convert it first (iconv -f UTF-16 -t UTF-8)")
    nul = head.find(b"\0")
    controls = len(head) - len(head.translate(None, _CONTROL))
    if nul >= 0 or controls > len(head) // 10:
        seen = f"a NUL at byte {nul}" if nul >= 0 else f"{controls} control characters at its start"
        advice = "expected a UTF-8 text file. If it is an archive, unpack it first"
        raise DataError(f"{name} is a binary file ({seen}); {_CONVERSIONS.get(Path(name).suffix.lower(), advice)}")

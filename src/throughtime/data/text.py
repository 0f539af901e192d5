"""Text from files: read in pieces of bounded size, decoded and checked on the way.

Several files are one text, in the order given, as `cat` would join them. The text is UTF-8; a byte
order mark is dropped, and the line ends of Windows and old Macs become "\\n", as when Python reads
text. Nothing here holds more than a piece of the text.
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
from throughtime.paths import display_path, missing
from throughtime.spelling import setting

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is in all."""

ENCODING_ERRORS = ("strict", "replace")
DEFAULT_NAME = "Python's documentation (pydoc_data.topics)"

_PIECE = 1 << 20  # bytes read at a time
_HEAD = 1 << 16  # bytes at the start of a file by which text is told from other things
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b"))


@dataclass(frozen=True)
class Source:
    """One file, or what stands for it: its name, its size in bytes, and how to open it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Text:
    """A text that has been read through once, and can be read again.

    Attributes:
        name: what to call it in a report.
        sources: the files, in order.
        encoding_errors: "strict" or "replace".
        characters: how many it has.
        digest: SHA-256 of its characters in UTF-8; it tells the text, wherever its files are.
        tokenised: whether `<unk>` stands in it as a word, as in the texts that published
            perplexities are of: words and line ends are then all there is to it.
    """

    name: str
    sources: tuple[Source, ...]
    encoding_errors: str
    characters: int
    digest: str
    tokenised: bool

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The characters from `start` to before `stop`, a piece after another.

        Args:
            start: the first character's place.
            stop: the place after the last; None for the end.

        Raises:
            DataError: a file can't be read, or isn't what it was.
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
    """Read a text through once, to check it and to know its size and digest.

    Args:
        paths: files, directories (their `*.txt`, sorted), pipes or "-" for standard input; what
            can be read only once is copied to a temporary file. None: the default text, Python's own
            documentation.
        encoding_errors: what to do with bytes that are not UTF-8: "strict" refuses them, "replace"
            puts U+FFFD for them.
        progress: told the bytes read.

    Raises:
        DataError: there is no path in the list, or a path is missing, unreadable, empty, not text, or not UTF-8.
    """
    if encoding_errors not in ENCODING_ERRORS:
        raise DataError(
            f"encoding errors: {encoding_errors!r} is not known, strict or replace is wanted"
            + nearest(encoding_errors, ENCODING_ERRORS)
        )
    sources = (_default(),) if paths is None else tuple(s for path in paths for s in _sources(path))
    if not sources:
        raise DataError("no text was given: the list of paths is empty; leave it out for Python's own documentation.")
    digest = hashlib.sha256()
    characters = done = 0
    tokenised = False
    size = sum(source.size for source in sources)
    tail = "\n"  # what of the last piece could begin a " <unk> "
    for source in sources:
        for piece, read in _decoded(source, encoding_errors):
            digest.update(piece.encode())
            characters += len(piece)
            window = tail + piece
            tokenised = tokenised or _is_tokenised(window)
            tail = window[-6:]
            done += read
            if progress:
                progress("reading", done, size)
    name = sources[0].name + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
    if characters == 0:
        raise DataError(f"{name} is empty: a text to read is wanted")
    return Text(name, sources, encoding_errors, characters, digest.hexdigest(), tokenised)


def default_text() -> str:
    """The text that is on every machine: Python's own documentation, its topics in sorted order."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _default() -> Source:
    data = default_text().encode()
    return Source(DEFAULT_NAME, len(data), partial(io.BytesIO, data))


def _is_tokenised(text: str) -> bool:
    return "<unk>" in text and re.search(r"\s<unk>\s", text) is not None


def _sources(given: str | Path) -> list[Source]:
    """The files that a path means."""
    if str(given) == "-":
        return [_copied("standard input", sys.stdin.buffer)]
    if not os.fspath(given):
        raise DataError("a path of a text is empty; expected the name of a file or directory, or - for standard input.")
    path = Path(given)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            files = sorted(f for f in path.glob("*.txt") if f.is_file() and f.stat().st_size)
            if not files:
                raise DataError(
                    f"{display_path(path)} is a directory with no text in it: *.txt files are wanted there; "
                    "files of another name are to be given themselves"
                )
            return [_file(file) for file in files]
        if stat.S_ISFIFO(status.st_mode):
            with path.open("rb") as pipe:
                return [_copied(display_path(path), pipe)]
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{display_path(path)} is a device or a socket: a file of text is wanted")
    if status.st_size == 0:
        raise DataError(f"{display_path(path)} is empty: a file of text is wanted")
    return [_file(path)]


def _file(path: Path) -> Source:
    return Source(display_path(path), path.stat().st_size, lambda: path.open("rb"))


def _copied(name: str, stream: IO[bytes]) -> Source:
    """A source for what can be read only once: a text is read several times."""
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        size = copy.tell()
        descriptor = os.dup(copy.fileno())

    def reopen() -> IO[bytes]:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(descriptor), "rb")

    weakref.finalize(reopen, os.close, descriptor)  # the copy lives as long as the source
    return Source(name, size, reopen)


def _unreadable(path: Path | str, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(missing(Path(path), "file"))
    return DataError(f"{display_path(path)} can't be read: {error.strerror or error}")


def _decoded(source: Source, encoding_errors: str) -> Iterator[tuple[str, int]]:
    """The pieces of one file, each with the number of bytes that were read for it."""
    decoder = codecs.getincrementaldecoder("utf-8")(encoding_errors)
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    offset = lines = 0
    try:
        with source.open() as file:
            while True:
                raw = file.read(_PIECE)
                final = not raw
                if offset == 0:
                    _refuse_other_than_text(source.name, raw[:_HEAD])
                    if raw.startswith(codecs.BOM_UTF8):
                        raw, offset = raw[3:], 3
                held_back = len(decoder.getstate()[0])  # the start of a character, cut by a piece
                try:
                    text = decoder.decode(raw, final)
                except UnicodeDecodeError as error:
                    at = offset - held_back + error.start
                    line = lines + error.object.count(b"\n", 0, error.start) + 1
                    raise DataError(
                        f"{source.name} is not UTF-8: byte {at} (line {line}) is "
                        f"0x{error.object[error.start]:02x}, {error.reason}; convert the file "
                        "(iconv -f LATIN1 -t UTF-8, say), or go on with U+FFFD in such places "
                        f"({setting('encoding_errors', 'replace')})"
                    ) from None
                yield line_ends.decode(text, final), len(raw)
                if final:
                    return
                offset += len(raw)
                lines += raw.count(b"\n")
    except OSError as error:
        raise _unreadable(source.name, error) from None


def _refuse_other_than_text(name: str, head: bytes) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{name} is UTF-16: convert it first (iconv -f UTF-16 -t UTF-8)")
    nul = head.find(b"\0")
    controls = len(head) - len(head.translate(None, _CONTROL))
    if nul >= 0 or controls > len(head) // 10:
        seen = f"a NUL byte at {nul}" if nul >= 0 else f"{controls} control characters at its start"
        raise DataError(
            f"{name} is a binary file ({seen}): a file of text in UTF-8 is wanted; unpack it first if it is an archive"
        )

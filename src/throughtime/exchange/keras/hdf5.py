"""Read arrays from an HDF5 file in h5py's default format.

The HDF5 library is not used, because damaged files can make it hang or crash. Reading is bounded by the file's size,
and external links are not followed. Only superblock version 0 is supported; names follow The HDF Group, "HDF5 File
Format Specification Version 3.0".
"""

from __future__ import annotations

import math
import struct
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError

Array = NDArray[Any]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = (1 << 64) - 1
_LONGEST_NAME = 1024
_READINGS = 8  # maximum number of times that a byte may be read, on average
# Message types of an object's header.
_DATASPACE, _DATATYPE, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = (
    1,
    3,
    7,
    8,
    11,
    12,
    16,
    17,
)
# IEEE formats: bit offset, precision, position and size of exponent and mantissa, exponent bias.
_FLOATS = {2: (0, 16, 10, 5, 0, 10, 15), 4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}
_FLOATING_POINT, _STRING, _VARIABLE_LENGTH = 1, 3, 9  # datatype classes


class Hdf5Error(UserError):
    """Raised for a damaged or unsupported HDF5 file."""


class _Message(NamedTuple):
    """A header message: its type, and the offset and size of its content."""

    kind: int
    start: int
    size: int


class Hdf5:
    """An HDF5 file.

    Args:
        content: the content of the file.

    Raises:
        Hdf5Error: if the file is damaged or unsupported; methods can raise it too.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _READINGS * len(content)
        self._nodes: dict[int, Node] = {}
        if content[:8] != _SIGNATURE:
            raise Hdf5Error("not an HDF5 file")
        if self.unpack("B4xBB", 8) != (0, 8, 8):
            raise Hdf5Error("unsupported HDF5 version: load the model with Keras and save it again")
        base, _, end, _, _, root = self.unpack("6Q", 24)
        if base != 0 or end > len(content):
            raise Hdf5Error(f"the file is truncated: expected {end} bytes, got {len(content)}")
        self.root = self.node(root)

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        """Unpack numbers at an offset."""
        try:
            return struct.unpack_from("<" + form, self.bytes(at, struct.calcsize("<" + form)))
        except struct.error as error:
            raise Hdf5Error(f"the file is damaged: {error}") from None

    def bytes(self, at: int, size: int) -> bytes:
        """Read bytes at an offset.

        Raises:
            Hdf5Error: if the file is too short, or if so much has been read that its structure must be cyclic.
        """
        if at + size > len(self._content):
            raise Hdf5Error(f"the file is damaged: it refers to byte {at + size} of {len(self._content)}")
        self._left -= size
        if self._left < 0:
            raise Hdf5Error("the file is damaged: its structure is cyclic")
        return self._content[at : at + size]

    def text(self, at: int, longest: int) -> str:
        """Read null-terminated text at an offset."""
        end = self._content.find(b"\0", at, at + longest)
        return self.bytes(at, longest if end < 0 else end - at).decode("utf-8", "replace")

    def node(self, at: int) -> Node:
        """Return the node whose header is at an offset."""
        if at not in self._nodes:
            self._nodes[at] = Node(self, self._messages(at))
        return self._nodes[at]

    def _messages(self, at: int) -> list[_Message]:
        version, count, size = self.unpack("BxH4xI", at)
        if version != 1:
            raise Hdf5Error("the file is damaged, or uses a newer HDF5 version than Keras does")
        messages: list[_Message] = []
        blocks = [(at + 16, size)]
        for start, length in blocks:
            stop = start + length
            while start + 8 <= stop and len(messages) < count:
                kind, size, flags = self.unpack("HHB", start)
                message = _Message(kind, start + 8, size)
                if kind == _CONTINUATION:
                    blocks.append(self.unpack("2Q", message.start))  # address and length
                elif flags & 2 and kind in (_DATASPACE, _DATATYPE):
                    raise Hdf5Error("committed datatypes are not supported")
                messages.append(message)
                start += 8 + size
        return messages


class Node:
    """An object in a file: a group or an array.

    Args:
        file: the file.
        messages: the messages of the object's header.
    """

    def __init__(self, file: Hdf5, messages: list[_Message]) -> None:
        self._file, self._messages = file, messages

    @cached_property
    def members(self) -> dict[str, int]:
        """The header offsets of a group's members by name, without links; empty for an array."""
        table = self._message(_SYMBOL_TABLE)
        if table is None:
            return {}
        tree, heap = self._file.unpack("2Q", table.start)
        self._expect(b"HEAP", heap)
        (names,) = self._file.unpack("Q", heap + 24)
        found: dict[str, int] = {}
        left = [tree]
        while left:
            node = left.pop()
            if self._file.bytes(node, 4) == b"TREE":
                (used,) = self._file.unpack("H", node + 6)
                left += [self._file.unpack("Q", node + 32 + 16 * k)[0] for k in range(used)]
                continue
            self._expect(b"SNOD", node)
            (count,) = self._file.unpack("H", node + 6)
            for k in range(count):
                name, header, kind = self._file.unpack("2QI", node + 8 + 40 * k)
                if kind != 2:  # not a symbolic link
                    found[self._file.text(names + name, _LONGEST_NAME)] = header
        return found

    @property
    def is_array(self) -> bool:
        """Whether the object is an array."""
        return self._message(_LAYOUT) is not None

    def at(self, *path: str) -> Node | None:
        """Look up a member by its path; None if it doesn't exist."""
        found: Node = self
        for name in path:
            if name not in found.members:
                return None
            found = self._file.node(found.members[name])
        return found

    @cached_property
    def attributes(self) -> dict[str, str | None]:
        """The attributes by name; None for an attribute that isn't text."""
        return dict(self._attribute(m) for m in self._messages if m.kind == _ATTRIBUTE)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        space = self._wanted(_DATASPACE)
        version, rank, _, kind = self._file.unpack("4B", space.start)
        if version not in (1, 2) or rank > 8 or (version == 2 and kind == 2):
            raise Hdf5Error("an array has no shape")
        return self._file.unpack(f"{rank}Q", space.start + (8 if version == 1 else 4))

    def array(self) -> Array:
        """Read the array.

        Raises:
            Hdf5Error: if the object is not a contiguous array of floating-point numbers, or its size is wrong.
        """
        layout, kind = self._wanted(_LAYOUT), self._wanted(_DATATYPE)
        odd = [m for m in self._messages if m.kind in (_FILTERS, _EXTERNAL)]
        version, how = self._file.unpack("BB", layout.start)
        if version != 3 or how not in (0, 1) or odd:
            raise Hdf5Error("an array is not contiguous, as Keras writes arrays")
        given, bits, size = self._file.unpack("BB2xI", kind.start)
        if given & 15 != _FLOATING_POINT or size not in _FLOATS:
            raise Hdf5Error("an array's dtype is not float16, float32 or float64")
        if self._file.unpack("HH4BI", kind.start + 8) != _FLOATS[size] or bits & 0x40:
            raise Hdf5Error("an array's floating-point format is not IEEE 754")
        if how == 0:
            (stored,), place = self._file.unpack("H", layout.start + 2), layout.start + 4
        else:
            place, stored = self._file.unpack("2Q", layout.start + 2)
        shape = self.shape
        if place == _UNDEFINED or stored != math.prod(shape) * size:
            raise Hdf5Error(f"the data of an array of shape {list(shape)} is missing or has the wrong size")
        numbers = np.frombuffer(self._file.bytes(place, stored), np.dtype(f"{'>' if bits & 1 else '<'}f{size}"))
        return numbers.reshape(shape)

    def _message(self, kind: int) -> _Message | None:
        return next((m for m in self._messages if m.kind == kind), None)

    def _wanted(self, kind: int) -> _Message:
        found = self._message(kind)
        if found is None:
            raise Hdf5Error("expected an array, got another kind of object")
        return found

    def _expect(self, signature: bytes, at: int) -> None:
        if self._file.bytes(at, 4) != signature:
            raise Hdf5Error(f"the file is damaged: expected {signature.decode()} at byte {at}")

    def _attribute(self, message: _Message) -> tuple[str, str | None]:
        version, named, typed, spaced = self._file.unpack("Bx3H", message.start)
        if version not in (1, 2, 3):
            raise Hdf5Error("the file is damaged: unknown attribute version")
        start = message.start + (9 if version == 3 else 8)
        if version == 1:
            named, typed, spaced = (-(-size // 8) * 8 for size in (named, typed, spaced))
        name = self._file.text(start, named)
        kind, bits, size = self._file.unpack("BB2xI", start + named)
        place = start + named + typed + spaced
        if kind & 15 == _STRING and size <= _LONGEST_NAME:
            return name, self._file.text(place, size)
        if kind & 15 == _VARIABLE_LENGTH and bits & 15 == 1:
            length, heap, index = self._file.unpack("IQI", place)
            return name, self._heap_text(heap, index, length)
        return name, None

    def _heap_text(self, heap: int, index: int, length: int) -> str | None:
        """Read the text of an object in a global heap."""
        self._expect(b"GCOL", heap)
        (size,) = self._file.unpack("Q", heap + 8)
        at = heap + 16
        while at + 16 <= heap + size:
            number, stored = self._file.unpack("H6xQ", at)
            if number == index:
                return self._file.text(at + 16, min(length, stored))
            if number == 0:
                break
            at += 16 + -(-stored // 8) * 8
        return None

"""Reading arrays out of a file of HDF5, of the form in which h5py writes one where nothing else is asked for.

The HDF5 library itself is not used: on a damaged file it can loop for ever, and worse. What is read here is bounded by
the file's size, and links lead nowhere else. The form is that of the superblock's version 0: see The HDF Group, "HDF5
File Format Specification Version 3.0", whose names for things the functions below have.
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
_READINGS = 8  # how often a byte may be looked at, on average
# The kinds of messages in an object's header.
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
# The properties of IEEE's numbers: bit offset and precision, place and size of exponent and mantissa, exponent's bias.
_FLOATS = {2: (0, 16, 10, 5, 0, 10, 15), 4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}
_FLOATING_POINT, _STRING, _VARIABLE_LENGTH = 1, 3, 9  # classes of datatypes


class Hdf5Error(UserError):
    """A file of HDF5 that is damaged, or of a form that can't be read."""


class _Message(NamedTuple):
    """A message of an object's header: its kind, and where its content is."""

    kind: int
    start: int
    size: int


class Hdf5:
    """A file of HDF5.

    Args:
        content: its bytes.

    Raises:
        Hdf5Error: if it is damaged, or of a form that can't be read; this may also come up later.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _READINGS * len(content)
        self._nodes: dict[int, Node] = {}
        if content[:8] != _SIGNATURE:
            raise Hdf5Error("it is no file of HDF5.")
        if self.unpack("B4xBB", 8) != (0, 8, 8):
            raise Hdf5Error("it is of a newer form of HDF5 than Keras writes: load it with Keras, and save it.")
        base, _, end, _, _, root = self.unpack("6Q", 24)
        if base != 0 or end > len(content):
            raise Hdf5Error(f"it is cut off: {end} bytes are wanted, and {len(content)} are there.")
        self.root = self.node(root)

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        """The numbers at a place."""
        try:
            return struct.unpack_from("<" + form, self.bytes(at, struct.calcsize("<" + form)))
        except struct.error as error:
            raise Hdf5Error(f"it is damaged: {error}.") from None

    def bytes(self, at: int, size: int) -> bytes:
        """The bytes at a place.

        Raises:
            Hdf5Error: if there are not as many, or so much is read that the file must be made to be endless.
        """
        if at + size > len(self._content):
            raise Hdf5Error(f"it is damaged: it points to byte {at + size} of {len(self._content)}.")
        self._left -= size
        if self._left < 0:
            raise Hdf5Error("it is damaged: what it consists of goes in circles.")
        return self._content[at : at + size]

    def text(self, at: int, longest: int) -> str:
        """The text at a place, as far as the first byte 0."""
        end = self._content.find(b"\0", at, at + longest)
        return self.bytes(at, longest if end < 0 else end - at).decode("utf-8", "replace")

    def node(self, at: int) -> Node:
        """The node whose header is at a place."""
        if at not in self._nodes:
            self._nodes[at] = Node(self, self._messages(at))
        return self._nodes[at]

    def _messages(self, at: int) -> list[_Message]:
        version, count, size = self.unpack("BxH4xI", at)
        if version != 1:
            raise Hdf5Error("it is damaged, or of a newer form of HDF5 than Keras writes.")
        messages: list[_Message] = []
        blocks = [(at + 16, size)]
        for start, length in blocks:
            stop = start + length
            while start + 8 <= stop and len(messages) < count:
                kind, size, flags = self.unpack("HHB", start)
                message = _Message(kind, start + 8, size)
                if kind == _CONTINUATION:
                    blocks.append(self.unpack("2Q", message.start))  # an address and a length
                elif flags & 2 and kind in (_DATASPACE, _DATATYPE):
                    raise Hdf5Error("it has a datatype that stands by itself, which can't be read.")
                messages.append(message)
                start += 8 + size
        return messages


class Node:
    """An object of a file: a group of others, or an array.

    Args:
        file: the file.
        messages: those of its header.
    """

    def __init__(self, file: Hdf5, messages: list[_Message]) -> None:
        self._file, self._messages = file, messages

    @cached_property
    def members(self) -> dict[str, int]:
        """The headers of what is in the group, by name; nothing if it is an array. Links to elsewhere are left out."""
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
                if kind != 2:  # a symbolic link
                    found[self._file.text(names + name, _LONGEST_NAME)] = header
        return found

    @property
    def is_array(self) -> bool:
        """Whether it is one."""
        return self._message(_LAYOUT) is not None

    def at(self, *path: str) -> Node | None:
        """What is in it by that name, in that by the next, and so on; None if there is no such thing."""
        found: Node = self
        for name in path:
            if name not in found.members:
                return None
            found = self._file.node(found.members[name])
        return found

    @cached_property
    def attributes(self) -> dict[str, str | None]:
        """Its attributes by name; None for one that is no text."""
        return dict(self._attribute(m) for m in self._messages if m.kind == _ATTRIBUTE)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        space = self._wanted(_DATASPACE)
        version, rank, _, kind = self._file.unpack("4B", space.start)
        if version not in (1, 2) or rank > 8 or (version == 2 and kind == 2):
            raise Hdf5Error("it has an array without a shape.")
        return self._file.unpack(f"{rank}Q", space.start + (8 if version == 1 else 4))

    def array(self) -> Array:
        """Its numbers.

        Raises:
            Hdf5Error: if it is no array of floating-point numbers in one piece, or has not as many as it says.
        """
        layout, kind = self._wanted(_LAYOUT), self._wanted(_DATATYPE)
        odd = [m for m in self._messages if m.kind in (_FILTERS, _EXTERNAL)]
        version, how = self._file.unpack("BB", layout.start)
        if version != 3 or how not in (0, 1) or odd:
            raise Hdf5Error("it has an array that is not in one piece, as Keras writes one.")
        given, bits, size = self._file.unpack("BB2xI", kind.start)
        if given & 15 != _FLOATING_POINT or size not in _FLOATS:
            raise Hdf5Error("it has an array of other numbers than float16, float32 or float64.")
        if self._file.unpack("HH4BI", kind.start + 8) != _FLOATS[size] or bits & 0x40:
            raise Hdf5Error("it has an array of floating-point numbers that are not IEEE's.")
        if how == 0:
            (stored,), place = self._file.unpack("H", layout.start + 2), layout.start + 4
        else:
            place, stored = self._file.unpack("2Q", layout.start + 2)
        shape = self.shape
        if place == _UNDEFINED or stored != math.prod(shape) * size:
            raise Hdf5Error(f"it has an array that says that it is {list(shape)}, and is not there.")
        numbers = np.frombuffer(self._file.bytes(place, stored), np.dtype(f"{'>' if bits & 1 else '<'}f{size}"))
        return numbers.reshape(shape)

    def _message(self, kind: int) -> _Message | None:
        return next((m for m in self._messages if m.kind == kind), None)

    def _wanted(self, kind: int) -> _Message:
        found = self._message(kind)
        if found is None:
            raise Hdf5Error("it has something else where an array is wanted.")
        return found

    def _expect(self, signature: bytes, at: int) -> None:
        if self._file.bytes(at, 4) != signature:
            raise Hdf5Error(f"it is damaged: {signature.decode()} is wanted at byte {at}.")

    def _attribute(self, message: _Message) -> tuple[str, str | None]:
        version, named, typed, spaced = self._file.unpack("Bx3H", message.start)
        if version not in (1, 2, 3):
            raise Hdf5Error("it is damaged: an attribute is of no known form.")
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
        """An object of a global heap."""
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

"""Read the arrays of an ONNX model, from the file itself or a data file next to it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from throughtime.errors import UserError
from throughtime.exchange.onnx.graph import Array

_KINDS = "fiub"  # numbers and booleans, but not strings


def read_array(proto: Any, name: str, folder: Path | None) -> Array:
    """Read a `TensorProto`.

    Args:
        proto: the tensor.
        name: the array's name in error messages.
        folder: the model's directory, which contains any data files; None if the model was passed as bytes.

    Raises:
        UserError: if the dtype is unsupported, or the data file is missing, too short or outside the directory.
        ValueError: if the tensor is damaged.
    """
    from onnx import TensorProto, helper, numpy_helper

    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
    if dtype.kind not in _KINDS or dtype == np.float16:
        raise UserError(f"array {name!r} has unsupported type {dtype}; expected float32, float64, integers or booleans")
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        return _external(proto, name, dtype, folder)
    if proto.raw_data and len(proto.raw_data) != math.prod(proto.dims) * dtype.itemsize:
        raise ValueError(f"array {name!r} of shape {list(proto.dims)} has {len(proto.raw_data)} bytes")
    array: Array = numpy_helper.to_array(proto)
    return array


def _external(proto: Any, name: str, dtype: np.dtype[Any], folder: Path | None) -> Array:
    entries = {entry.key: entry.value for entry in proto.external_data}
    location, shape = entries.get("location", ""), [int(n) for n in proto.dims]
    if folder is None:
        raise UserError(
            f"array {name!r} is stored in another file, {location!r}, which can't be located from bytes: pass the path "
            "of the model, with the data file next to it, or onnx.load(path), which reads both"
        )
    offset, size = int(entries.get("offset", 0)), math.prod(shape) * dtype.itemsize
    length = int(entries.get("length", size))
    if min(shape, default=0) < 0 or offset < 0 or length != size:
        raise ValueError(
            f"array {name!r} of shape {shape} must have {size} bytes, but its entry refers to {length} bytes from byte "
            f"{offset} of {location!r}"
        )
    data = np.frombuffer(_part(_inside(folder, location, name), offset, size, name), dtype.newbyteorder("<"))
    return data.astype(dtype).reshape(shape)


def _inside(folder: Path, location: str, name: str) -> Path:
    """Return the data file's path; raise UserError if it is outside the model's directory."""
    root = folder.resolve()
    path = (root / location).resolve() if location and "\0" not in location else root
    if path == root or Path(location).is_absolute() or not path.is_relative_to(root):
        raise UserError(
            f"array {name!r} is stored in {location!r}, outside the model's directory, which is not allowed"
        )
    return path


def _part(path: Path, offset: int, size: int, name: str) -> bytes:
    if path.exists() and not path.is_file():  # reading from a pipe could block forever
        raise UserError(f"array {name!r} is stored in another file, {path}, which is not a regular file")
    try:
        with path.open("rb") as file:
            available = path.stat().st_size
            if offset + size > available:
                raise UserError(
                    f"array {name!r} needs {size:,} bytes from {offset:,} on in {path}, which has {available:,}: "
                    "it belongs to another model or is truncated"
                )
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise UserError(
            f"array {name!r} is stored in another file, {path}, which can't be read: {error.strerror}. Keep it next to "
            "the model, under its original name"
        ) from None

"""Read the arrays of an ONNX model, in the file itself or in a data file beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from throughtime.errors import UserError
from throughtime.exchange.onnx.graph import Array

_KINDS = "fiub"  # numbers and truth values; no strings


def read_array(proto: Any, name: str, folder: Path | None) -> Array:
    """Read a `TensorProto`.

    Args:
        proto: the tensor.
        name: what to call it in an error.
        folder: the model's directory, in which data files may be; None if only the model's bytes are known.

    Raises:
        UserError: if its type is unsupported, or its data file is missing, too short or outside the directory.
        ValueError: if it is damaged.
    """
    from onnx import TensorProto, helper, numpy_helper

    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
    if dtype.kind not in _KINDS or dtype == np.float16:
        raise UserError(f"the array {name!r} is {dtype}; float32, float64, integers and booleans are read.")
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        return _external(proto, name, dtype, folder)
    if proto.raw_data and len(proto.raw_data) != math.prod(proto.dims) * dtype.itemsize:
        raise ValueError(f"the array {name!r} of the shape {list(proto.dims)} has {len(proto.raw_data)} bytes")
    array: Array = numpy_helper.to_array(proto)
    return array


def _external(proto: Any, name: str, dtype: np.dtype[Any], folder: Path | None) -> Array:
    entries = {entry.key: entry.value for entry in proto.external_data}
    location, shape = entries.get("location", ""), [int(n) for n in proto.dims]
    if folder is None:
        raise UserError(
            f"the array {name!r} is in another file, {location!r}, and bytes don't say where that is: pass the path of "
            "the model, with the data file beside it, or onnx.load(path), which reads both."
        )
    offset, size = int(entries.get("offset", 0)), math.prod(shape) * dtype.itemsize
    length = int(entries.get("length", size))
    if min(shape, default=0) < 0 or offset < 0 or length != size:
        raise ValueError(f"the array {name!r} of the shape {shape} has {length} bytes from {offset} on in {location!r}")
    data = np.frombuffer(_part(_inside(folder, location, name), offset, size, name), dtype.newbyteorder("<"))
    return data.astype(dtype).reshape(shape)


def _inside(folder: Path, location: str, name: str) -> Path:
    """The data file's path. A file elsewhere must not be read because a model names it."""
    root = folder.resolve()
    path = (root / location).resolve() if location and "\0" not in location else root
    if path == root or Path(location).is_absolute() or not path.is_relative_to(root):
        raise UserError(
            f"the array {name!r} is in another file, {location!r}; only files in the model's own directory are read."
        )
    return path


def _part(path: Path, offset: int, size: int, name: str) -> bytes:
    if path.exists() and not path.is_file():  # reading a pipe would wait forever
        raise UserError(f"the array {name!r} is in another file, {path}, which is not a regular file.")
    try:
        with path.open("rb") as file:
            available = path.stat().st_size
            if offset + size > available:
                raise UserError(
                    f"the array {name!r} needs {size:,} bytes from {offset:,} on in {path}, which has {available:,}: "
                    "it belongs to another model or was cut off."
                )
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise UserError(
            f"the array {name!r} is in another file, {path}, which can't be read: {error.strerror}. Keep it beside the "
            "model, under the name that it had."
        ) from None

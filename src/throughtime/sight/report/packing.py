"""Arrays and texts in a page: small, and harmless whatever a text has in it."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DECADES = 3.0  # of a reach that are told apart


def as_json(value: Any) -> str:
    """JSON that may stand in a script element: ASCII without `<`, `>` and `&`; what is not finite becomes null."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def packed(data: bytes, level: int = 6) -> str:
    """Bytes in little space and in letters: zlib's format, then base64."""
    return base64.b64encode(zlib.compress(data, level)).decode("ascii")


def packed_array(array: Array, kind: str) -> str:
    """An array's numbers as a little-endian type such as `"<u2"`, in C order, packed."""
    return packed(np.ascontiguousarray(array, kind).tobytes())


def quantised(steps: Array) -> tuple[Array, Array | None]:
    """Values in a byte each.

    Args:
        steps: `[T, units]`.

    Returns:
        Bytes `[units, T]`, and each unit's scale: a byte b stands for `(b - 128) / 127 * scale`; where all values are
        from 0 to 1 there is no scale, and b stands for `b / 255`.
    """
    rows = np.nan_to_num(np.asarray(steps, np.float32).T)
    if rows.min(initial=0) >= 0 and rows.max(initial=0) <= 1:
        return np.rint(rows * 255).astype(np.uint8), None
    scales = np.abs(rows).max(1)
    scales[scales == 0] = 1
    return np.rint(rows / scales[:, None] * 127 + 128).astype(np.uint8), scales


def shares(values: Array) -> Array:
    """Values from 0 to 1 in a byte each: a byte b stands for `b / 255`."""
    levels: Array = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    return levels


def quantised_reach(reach: Array) -> Array:
    """Sizes `[T, lags]` in a byte each, by order of magnitude: 255 is each step's largest, 1 a thousandth of it."""
    sizes = np.nan_to_num(np.asarray(reach, np.float64))
    largest = sizes.max(1, keepdims=True, initial=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 + np.log10(sizes / largest) / _DECADES
    levels: Array = np.rint(np.clip(np.nan_to_num(share, neginf=0), 0, 1) * 255).astype(np.uint8)
    return levels


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, six digits, null for what is not finite."""
    match value:
        case Mapping():
            return {str(key): plain(v) for key, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case float() if not math.isfinite(value):
            return None
        case float():
            return float(f"{value:.6g}")
    return value

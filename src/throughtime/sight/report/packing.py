"""Encode arrays and texts for a page: compact, and safe whatever a text contains."""

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

_DECADES = 3.0  # orders of magnitude that a packed influence resolves


def as_json(value: Any) -> str:
    """Encode JSON for a script element: ASCII without `<`, `>` and `&`; non-finite numbers become null."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def packed(data: bytes, level: int = 6) -> str:
    """Compress bytes with zlib and encode them in base64."""
    return base64.b64encode(zlib.compress(data, level)).decode("ascii")


def packed_array(array: Array, kind: str) -> str:
    """Pack an array in C order as a little-endian type such as `"<u2"`."""
    return packed(np.ascontiguousarray(array, kind).tobytes())


def quantized(steps: Array) -> tuple[Array, Array | None]:
    """Quantize values to one byte each.

    Args:
        steps: `[T, units]`.

    Returns:
        Bytes `[units, T]` and each unit's scale; a byte b represents `(b - 128) / 127 * scale`. If all values are from
        0 to 1 there is no scale, and b represents `b / 255`.
    """
    rows = np.nan_to_num(np.asarray(steps, np.float32).T)
    if rows.min(initial=0) >= 0 and rows.max(initial=0) <= 1:
        return np.rint(rows * 255).astype(np.uint8), None
    scales = np.abs(rows).max(1)
    scales[scales == 0] = 1
    return np.rint(rows / scales[:, None] * 127 + 128).astype(np.uint8), scales


def shares(values: Array) -> Array:
    """Quantize values from 0 to 1 to one byte each; a byte b represents `b / 255`."""
    levels: Array = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    return levels


def quantized_influence(influence: Array) -> Array:
    """Quantize norms `[T, lags]` to bytes on a log scale: 255 is a step's largest, 0 a thousandth of it or less."""
    sizes = np.nan_to_num(np.asarray(influence, np.float64))
    largest = sizes.max(1, keepdims=True, initial=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 + np.log10(sizes / largest) / _DECADES
    levels: Array = np.rint(np.clip(np.nan_to_num(share, neginf=0), 0, 1) * 255).astype(np.uint8)
    return levels


def plain(value: Any) -> Any:
    """Convert a value for JSON: arrays to lists, six digits, null for non-finite numbers."""
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

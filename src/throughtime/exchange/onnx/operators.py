"""The supported ONNX operators around recurrent layers. All others are rejected."""

from __future__ import annotations

from throughtime.exchange.onnx.bounds import Meaning
from throughtime.exchange.onnx.feedforward import FEEDFORWARD
from throughtime.exchange.onnx.pointwise import POINTWISE
from throughtime.exchange.onnx.reductions import REDUCTIONS
from throughtime.exchange.onnx.shapes import SHAPES

GROUPS: dict[str, dict[str, Meaning]] = {
    "shapes": SHAPES,
    "pointwise": POINTWISE,
    "along axes": REDUCTIONS,
    "layers": FEEDFORWARD,
}
MEANINGS: dict[str, Meaning] = {name: meaning for group in GROUPS.values() for name, meaning in group.items()}

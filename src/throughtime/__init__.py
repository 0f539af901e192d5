"""throughtime: recurrent networks you can see through, at full speed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughtime import cells
    from throughtime.checking import check
    from throughtime.engines.native import release_memory
    from throughtime.exchange.keras_in import from_keras
    from throughtime.exchange.onnx_in import from_onnx
    from throughtime.exchange.onnx_out import to_onnx
    from throughtime.exchange.torch_modules import from_torch, to_torch
    from throughtime.model_file import load, save
    from throughtime.nn.accelerate import accelerate
    from throughtime.nn.dropin import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
    from throughtime.nn.freezing import freeze
    from throughtime.nn.recurrent import Recurrent
    from throughtime.program.cell import Cell, cell
    from throughtime.program.core import Program
    from throughtime.sight.edit import edit
    from throughtime.sight.record import record
    from throughtime.streaming import Stream
    from throughtime.training import train

__version__ = "0.1.0"

# Where each public name lives; it is imported when it is first asked for, so that `import throughtime` is quick.
_HOMES = {
    "cells": "throughtime.cells",
    "check": "throughtime.checking",
    "release_memory": "throughtime.engines.native",
    "from_keras": "throughtime.exchange.keras_in",
    "from_onnx": "throughtime.exchange.onnx_in",
    "to_onnx": "throughtime.exchange.onnx_out",
    "from_torch": "throughtime.exchange.torch_modules",
    "to_torch": "throughtime.exchange.torch_modules",
    "load": "throughtime.model_file",
    "save": "throughtime.model_file",
    "accelerate": "throughtime.nn.accelerate",
    "freeze": "throughtime.nn.freezing",
    "GRU": "throughtime.nn.dropin",
    "LSTM": "throughtime.nn.dropin",
    "RNN": "throughtime.nn.dropin",
    "GRUCell": "throughtime.nn.dropin",
    "LSTMCell": "throughtime.nn.dropin",
    "RNNCell": "throughtime.nn.dropin",
    "Recurrent": "throughtime.nn.recurrent",
    "Cell": "throughtime.program.cell",
    "cell": "throughtime.program.cell",
    "Program": "throughtime.program.core",
    "edit": "throughtime.sight.edit",
    "record": "throughtime.sight.record",
    "Stream": "throughtime.streaming",
    "train": "throughtime.training",
}

__all__ = [
    "Cell", "GRU", "GRUCell", "LSTM", "LSTMCell", "Program", "RNN", "RNNCell", "Recurrent", "Stream", "accelerate",
    "cell", "cells", "check", "edit", "freeze", "from_keras", "from_onnx", "from_torch", "load", "record",
    "release_memory", "save", "to_onnx", "to_torch", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'throughtime' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if home == f"throughtime.{name}" and not hasattr(module, name) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

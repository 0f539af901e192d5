"""throughtime: recurrent networks you can see through, at full speed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughtime import cells
    from throughtime.acceleration import accelerate, restore
    from throughtime.engines.native import release_memory
    from throughtime.estimators import SequenceClassifier, SequenceRegressor
    from throughtime.exchange.c.writing import to_c
    from throughtime.exchange.keras.reader import from_keras
    from throughtime.exchange.onnx.reading import from_onnx
    from throughtime.exchange.onnx.writing import to_onnx
    from throughtime.exchange.plugins import from_guitarml, from_nam, from_rtneural, to_guitarml, to_nam, to_rtneural
    from throughtime.exchange.torch.modules import from_torch, to_torch
    from throughtime.forecaster import Forecaster
    from throughtime.gradient_check import gradcheck
    from throughtime.model_file import load, save
    from throughtime.nn.dropin import GRU, LSTM, RNN
    from throughtime.nn.dropin_cells import GRUCell, LSTMCell, RNNCell
    from throughtime.nn.freezing import freeze
    from throughtime.nn.recurrent import Recurrent
    from throughtime.program.cell import Cell, cell
    from throughtime.program.core import Program
    from throughtime.runs import Run
    from throughtime.sight.hooks.edit import edit
    from throughtime.sight.hooks.record import record
    from throughtime.streaming import Stream
    from throughtime.studies.compare import compare
    from throughtime.studies.memory import memory
    from throughtime.studies.tune import tune
    from throughtime.training import evaluate, fit, predict, sample, train

__version__ = "0.1.0"

# The module of each public name. Names are imported on first use, so that `import throughtime` is fast.
_HOMES = {
    "Run": "throughtime.runs",
    "cells": "throughtime.cells",
    "gradcheck": "throughtime.gradient_check",
    "release_memory": "throughtime.engines.native",
    "SequenceClassifier": "throughtime.estimators",
    "SequenceRegressor": "throughtime.estimators",
    "Forecaster": "throughtime.forecaster",
    "to_c": "throughtime.exchange.c.writing",
    "from_keras": "throughtime.exchange.keras.reader",
    "from_onnx": "throughtime.exchange.onnx.reading",
    "to_onnx": "throughtime.exchange.onnx.writing",
    "from_torch": "throughtime.exchange.torch.modules",
    "to_torch": "throughtime.exchange.torch.modules",
    "load": "throughtime.model_file",
    "save": "throughtime.model_file",
    "accelerate": "throughtime.acceleration",
    "restore": "throughtime.acceleration",
    "freeze": "throughtime.nn.freezing",
    "GRU": "throughtime.nn.dropin",
    "LSTM": "throughtime.nn.dropin",
    "RNN": "throughtime.nn.dropin",
    "GRUCell": "throughtime.nn.dropin_cells",
    "LSTMCell": "throughtime.nn.dropin_cells",
    "RNNCell": "throughtime.nn.dropin_cells",
    "Recurrent": "throughtime.nn.recurrent",
    "Cell": "throughtime.program.cell",
    "cell": "throughtime.program.cell",
    "Program": "throughtime.program.core",
    "edit": "throughtime.sight.hooks.edit",
    "record": "throughtime.sight.hooks.record",
    "Stream": "throughtime.streaming",
    "compare": "throughtime.studies.compare",
    "memory": "throughtime.studies.memory",
    "tune": "throughtime.studies.tune",
    **dict.fromkeys(
        ("from_guitarml", "from_nam", "from_rtneural", "to_guitarml", "to_nam", "to_rtneural"),
        "throughtime.exchange.plugins",
    ),
    "evaluate": "throughtime.training",
    "fit": "throughtime.training",
    "predict": "throughtime.training",
    "sample": "throughtime.training",
    "train": "throughtime.training",
}

# The extra that installs each package missing from a base installation.
_EXTRAS = {"torch": "torch", "onnx": "onnx"} | dict.fromkeys(
    ("jinja2", "lightning", "plotly", "pydantic", "rich", "sklearn", "tokenizers", "typer"), "train"
)

# Modules that need the whole extra `train`.
_TRAINING = (
    "throughtime.estimators", "throughtime.forecaster", "throughtime.studies.compare", "throughtime.studies.memory",
    "throughtime.studies.tune", "throughtime.training",
)  # fmt: skip

__all__ = [
    "Cell", "Forecaster", "GRU", "GRUCell", "LSTM", "LSTMCell", "Program", "RNN", "RNNCell", "Recurrent", "Run",
    "SequenceClassifier", "SequenceRegressor", "Stream", "accelerate", "cell", "cells", "compare", "edit", "evaluate",
    "fit", "freeze", "from_guitarml", "from_keras", "from_nam", "from_onnx", "from_rtneural", "from_torch", "gradcheck",
    "load", "memory", "predict", "record", "release_memory", "restore", "sample", "save", "to_c", "to_guitarml",
    "to_nam", "to_onnx", "to_rtneural", "to_torch", "train", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'throughtime' has no attribute {name!r}")
    try:
        module = importlib.import_module(home)
        value = module if home == f"throughtime.{name}" and not hasattr(module, name) else getattr(module, name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        from throughtime.packages import installing

        extra = "train" if home in _TRAINING else _EXTRAS[package]
        # Not an AttributeError, whose message `from throughtime import ...` would replace with its own.
        raise ImportError(f"throughtime.{name} needs {package}, {installing(extra)}", name=error.name) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""Training: configuration, the training loop and its callbacks, and evaluation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughtime.training.callbacks import Callback
    from throughtime.training.config import TrainConfig
    from throughtime.training.fitting import fit
    from throughtime.training.inference import evaluate, predict, sample
    from throughtime.training.loop import replay, resume, train
    from throughtime.training.options import TrainOptions

_HOMES = {
    "Callback": "callbacks",
    "TrainConfig": "config",
    "TrainOptions": "options",
    "evaluate": "inference",
    "fit": "fitting",
    "predict": "inference",
    "replay": "loop",
    "resume": "loop",
    "sample": "inference",
    "train": "loop",
}

__all__ = [
    "Callback",
    "TrainConfig",
    "TrainOptions",
    "evaluate",
    "fit",
    "predict",
    "replay",
    "resume",
    "sample",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

"""Training on text: the configuration, the loop that Lightning runs, evaluation and sampling."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughtime.training.config import TrainConfig
    from throughtime.training.evaluation import evaluate
    from throughtime.training.loop import resume, train
    from throughtime.training.options import TrainOptions
    from throughtime.training.sampling import sample

_HOMES = {
    "TrainConfig": "config",
    "TrainOptions": "options",
    "evaluate": "evaluation",
    "resume": "loop",
    "sample": "sampling",
    "train": "loop",
}

__all__ = ["TrainConfig", "TrainOptions", "evaluate", "resume", "sample", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Checkpoint files that are written atomically and can be loaded without running code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from throughtime.errors import RunError
from throughtime.files import replacing
from throughtime.spelling import option


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint next to the previous one, then replace it atomically."""
    buffer = io.BytesIO()  # torch's own file writing hides the reason for a failure
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint, which contains only tensors and plain values.

    Raises:
        RunError: if the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        # torch's messages are about its archive format.
        raise RunError(
            f"{path} is damaged, so the run can't be resumed; its best weights are kept, and a new run can start from "
            f"them with {option('init_from')}"
        ) from None

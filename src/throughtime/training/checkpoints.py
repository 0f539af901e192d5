"""Checkpoints as files that are there in whole or not at all, and run no code when read."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from throughtime.errors import RunError
from throughtime.files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint beside the last one and then puts it in its place."""
    buffer = io.BytesIO()  # torch's own writing to a file hides why it fails
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; it holds tensors and plain values alone.

    Raises:
        RunError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise RunError(f"{path} is damaged, and the run can't go on: {reason}") from None

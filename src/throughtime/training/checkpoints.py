"""Lightning's checkpoints as files that are there in whole or not at all, and run no code when read."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from throughtime.errors import RunError
from throughtime.files import replacing


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the last one and then puts it in its place."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        buffer = io.BytesIO()  # torch's own writing to a file hides why it fails
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; it holds tensors and plain values alone.

        Raises:
            RunError: the file is damaged.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return checkpoint
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            reason = str(error).split("\n")[0]
            raise RunError(f"{path} is damaged, and the run can't go on: {reason}") from None

"""Create untrained networks to analyze, and tokens for them to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from throughtime import cells
from throughtime.errors import UserError
from throughtime.program.cell import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.runs import Run

VOCABULARY_SIZE = 64
"""The vocabulary size of an untrained network, about the number of distinct characters in English text."""


def untrained_model(
    cell: str | Cell, *, hidden: int = 128, layers: int = 1, seed: int = 0, **fields: Any
) -> SequenceModel:
    """Create a language model with a vocabulary of 64 tokens, initialized as `throughtime train` does.

    Args:
        cell: the name of a built-in cell, or a cell of your own.
        hidden: the number of hidden units per layer.
        layers: the number of layers.
        seed: the seed for the weights.
        **fields: other fields of `throughtime.training.TrainConfig`, such as `init` and `forget_bias`.

    Raises:
        UserError: if an argument is invalid.
    """
    from throughtime.outputs import Categorical
    from throughtime.tasks.base import Interface
    from throughtime.training.building import build_model, programs_of
    from throughtime.training.config import TrainConfig

    definition = cells.get(cell)
    config = TrainConfig.of(cell=definition.name, hidden_size=hidden, num_layers=layers, **fields)
    interface = Interface("embedding", VOCABULARY_SIZE, Categorical(VOCABULARY_SIZE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        programs = programs_of(config.network, definition, interface)
        return build_model(config.network, programs, interface, config.training.engine).eval()


def random_token_ids(steps: int, rows: int, seed: int = 0) -> Tensor:
    """Draw uniformly random token ids `[steps, rows]`.

    Raises:
        UserError: if a size is not a positive integer.
    """
    for what, size in (("steps", steps), ("rows", rows)):
        if not isinstance(size, int) or size < 1:
            raise UserError(f"{what} must be a positive integer, got {size!r}")
    return torch.randint(VOCABULARY_SIZE, (steps, rows), generator=torch.Generator().manual_seed(seed))


def held_out_token_ids(run: Run, steps: int, streams: int, data: Sequence[str] | None = None) -> Tensor:
    """Read evenly spaced streams of a text as ids `[steps + 1, streams]`, fewer if the text is short.

    Args:
        run: the run.
        steps: the number of tokens per stream to predict.
        streams: the number of streams.
        data: text files and directories; defaults to the held-out part of the run's own data.

    Raises:
        UserError: if the text can't be read, or is too short.
    """
    from throughtime.tasks.text import Text
    from throughtime.training.reloading import data_of

    Text.required_of(run, "comparing on held-out text")
    if data is not None:
        part = run.task.read(data, run.description.codecs)
    else:
        try:
            part = data_of(run).valid
        except UserError as error:
            raise type(error)(f"{error}; or pass another text to read") from None
    streams = max(1, min(streams, part.token_count // 2))
    apart = part.token_count // streams
    ids = [np.asarray(part.ids[k * apart : k * apart + min(apart, steps + 1)]) for k in range(streams)]
    return torch.from_numpy(np.stack(ids, 1).astype(np.int64))

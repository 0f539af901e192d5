"""What to look at: networks that nobody has trained yet, and symbols for networks to read."""

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

SYMBOLS = 64
"""How many symbols a fresh network knows: about as many as an English text has characters."""


def fresh_model(cell: str | Cell, *, hidden: int = 128, layers: int = 1, seed: int = 0, **fields: Any) -> SequenceModel:
    """A language model of 64 symbols as `throughtime train` would begin with it.

    Args:
        cell: a named cell, or one of your own.
        hidden: the number of hidden units of each layer.
        layers: the number of layers.
        seed: of the weights.
        **fields: other fields of `throughtime.training.TrainConfig`, such as `init` and `forget_bias`.

    Raises:
        UserError: if one of them means nothing.
    """
    from throughtime.outputs import Categorical
    from throughtime.tasks.base import Interface
    from throughtime.training.building import build_model, programs_of
    from throughtime.training.config import TrainConfig

    definition = cells.get(cell)
    config = TrainConfig.of(cell=definition.name, hidden_size=hidden, num_layers=layers, **fields)
    interface = Interface("embedding", SYMBOLS, Categorical(SYMBOLS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        programs = programs_of(config.network, definition, interface)
        return build_model(config.network, programs, interface, config.training.engine).eval()


def random_symbols(steps: int, rows: int, seed: int = 0) -> Tensor:
    """Ids `[steps, rows]` of symbols drawn at random, all alike.

    Raises:
        UserError: if a size is not a whole number of 1 or more.
    """
    for what, size in (("steps", steps), ("rows", rows)):
        if not isinstance(size, int) or size < 1:
            raise UserError(f"{what} must be a whole number of 1 or more; given {size!r}.")
    return torch.randint(SYMBOLS, (steps, rows), generator=torch.Generator().manual_seed(seed))


def held_out_symbols(run: Run, steps: int, streams: int, data: Sequence[str] | None = None) -> Tensor:
    """Ids `[steps + 1, streams]` of a text for a trained network, fewer where it is short; streams begin evenly apart.

    Args:
        run: the run.
        steps: how many symbols of each stream are to be predicted.
        streams: how many streams.
        data: files and directories of text; what was held out of the run's own data if not given.

    Raises:
        UserError: if the text can't be read, or is too short.
    """
    from throughtime.tasks.text import Text
    from throughtime.training.reloading import data_of

    Text.required_of(run, "the gradient's reach")
    if data is not None:
        part = run.task.read(data, run.description.codecs)
    else:
        try:
            part = data_of(run).valid
        except UserError as error:
            raise type(error)(f"{error}; or give another text to read") from None
    streams = max(1, min(streams, part.symbols // 2))
    apart = part.symbols // streams
    ids = [np.asarray(part.ids[k * apart : k * apart + min(apart, steps + 1)]) for k in range(streams)]
    return torch.from_numpy(np.stack(ids, 1).astype(np.int64))

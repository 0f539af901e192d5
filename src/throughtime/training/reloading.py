"""What a run was begun with, once more: its data and the network before its first step."""

from __future__ import annotations

from typing import Any

import torch

from throughtime.errors import RunError
from throughtime.nn.sequence_model import SequenceModel
from throughtime.runs import Run
from throughtime.stored import INITIAL
from throughtime.tasks.base import Data, Progress
from throughtime.training.building import build_model


def data_of(run: Run, progress: Progress | None = None) -> Data[Any]:
    """The data of a run.

    Args:
        run: the run.
        progress: told what is being done, and how far.

    Raises:
        RunError: they are not what they were.
        DataError: they can't be read.
    """
    data = run.task.prepare(progress, run.description.codecs)
    if data.digest != run.record.data.digest:
        raise RunError(f"{data.name} is not what {run.path} was begun with: it has changed; train anew")
    return data


def untrained(run: Run) -> SequenceModel:
    """A run's network as it was before the first step; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.training.seed)
        return begun_model(run).eval()


def begun_model(run: Run) -> SequenceModel:
    """A run's network as it starts: with weights drawn from torch's generator, or with those of another run.

    Raises:
        RunError: a file of the run is damaged.
    """
    interface = run.task.interface(run.description.codecs)
    model = build_model(run.config.network, run.programs, interface, run.config.training.engine)
    model.task = run.description
    weights = run.initial_weights()
    if weights is not None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"{run.path} is damaged: {INITIAL} does not fit: {error}") from None
    return model

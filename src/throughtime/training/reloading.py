"""Reload a run's data and its untrained network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throughtime.errors import DataError, RunError
from throughtime.paths import display_path
from throughtime.runs import Run
from throughtime.stored import INITIAL
from throughtime.tasks.base import Data, Progress

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel


def data_of(run: Run, progress: Progress | None = None) -> Data[Any]:
    """Read the data of a run again.

    Args:
        run: the run.
        progress: called with the current activity and its progress.

    Raises:
        RunError: if the data have changed.
        DataError: if the data can't be read.
    """
    try:
        data = run.task.prepare(progress, run.description.codecs)
    except DataError:
        if "-" not in (run.config.task.data or ()):
            raise
        raise DataError(
            f"{display_path(run.path)} was trained on a text from standard input, which runs don't store; pass it to "
            "standard input again"
        ) from None
    if data.digest != run.record.data.digest:
        raise RunError(f"{data.name} has changed since {run.path} was started; restore it, or train a new run")
    return data


def untrained(run: Run) -> SequenceModel:
    """Return a run's network as it was before the first step, without changing torch's generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.training.seed)
        return begun_model(run).eval()


def begun_model(run: Run) -> SequenceModel:
    """Build a run's network with its initial weights, drawn from torch's generator or taken from another run.

    Raises:
        RunError: if a file of the run is damaged.
    """
    from throughtime.training.building import build_model

    interface = run.task.interface(run.description.codecs)
    model = build_model(run.config.network, run.programs, interface, run.config.training.engine)
    model.task = run.description
    weights = run.initial_weights()
    if weights is not None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"{run.path} is damaged: {INITIAL} doesn't match the network: {error}") from None
    return model

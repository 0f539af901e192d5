"""What a run was begun with, once more: its data and the model before its first step."""

from __future__ import annotations

import torch

from throughtime.data import Corpus, prepare_text
from throughtime.data.text import Progress
from throughtime.errors import RunError
from throughtime.nn.language_model import LanguageModel
from throughtime.runs import Run
from throughtime.stored import INITIAL
from throughtime.training.building import build_model


def corpus_of(run: Run, progress: Progress | None = None) -> Corpus:
    """The data of a run.

    Args:
        run: the run.
        progress: told what is being done, and how far.

    Raises:
        RunError: they are not what they were.
        DataError: they can't be read.
    """
    corpus = prepare_text(
        run.config.data,
        valid=run.config.valid,
        test=run.config.test,
        encoding_errors=run.config.encoding_errors,
        vocabulary=run.vocabulary,
        progress=progress,
    )
    if corpus.digest != run.record.data.digest:
        raise RunError(f"{corpus.name} is not the text that {run.path} was begun with: it has changed; train anew")
    return corpus


def untrained(run: Run) -> LanguageModel:
    """A run's model as it was before the first step; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        return begun_model(run).eval()


def begun_model(run: Run) -> LanguageModel:
    """A run's model as it starts: with weights drawn from torch's generator, or with those of another run.

    Raises:
        RunError: a file of the run is damaged.
    """
    model = build_model(run.config, run.programs, run.vocabulary.size)
    weights = run.initial_weights()
    if weights is not None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"{run.path} is damaged: {INITIAL} does not fit: {error}") from None
    return model

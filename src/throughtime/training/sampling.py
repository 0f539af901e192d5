"""Text from a trained model, symbol by symbol."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from throughtime.data import Vocabulary
from throughtime.errors import UserError
from throughtime.runs import Run
from throughtime.spelling import option

TEMPERATURE = 0.8  # of the samples that a run is shown with

_LENGTHS = {"char": 300, "word": 60, "bpe": 90}  # in symbols, about as long for the eye
_SAMPLES = 2


def sample(
    run: Run | str | Path,
    prompt: str = "",
    *,
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    engine: str | None = None,
) -> Iterator[str]:
    """Let a run's model continue a text. The same seed gives the same text; `<unk>` is never drawn.

    Args:
        run: the run, or its directory.
        prompt: what to continue; the model begins as after a line's end if it is empty.
        length: how many symbols to draw.
        temperature: what the scores are divided by: below 1 is more cautious, 0 takes the likeliest symbol each time.
        top_k: draw from so many of the likeliest symbols only.
        top_p: draw from the likeliest symbols only whose probabilities make up this share (nucleus sampling, Holtzman
            et al. 2020, arXiv:1904.09751).
        seed: of the draws.
        engine: what runs the recurrent layers; the one that the run was trained with if not given.

    Returns:
        The text that follows the prompt, in pieces as they are made.

    Raises:
        UserError: an argument means nothing.
        RunError: the run can't be read.
    """
    _check(length, temperature, top_k, top_p)
    run = run if isinstance(run, Run) else Run.open(run)
    model, vocabulary = run.model(engine), run.vocabulary
    generator = torch.Generator().manual_seed(seed % 2**63)

    def pieces() -> Iterator[str]:
        decoder = vocabulary.decoder()
        separator = vocabulary.separator if prompt and not prompt[-1].isspace() else ""
        symbols, state = _begin(vocabulary, prompt, generator), None
        for _ in range(length):
            with torch.no_grad():
                scores, state = model(symbols[:, None], state)
            symbol = _draw(scores[-1, 0], vocabulary.unknown, temperature, top_k, top_p, generator)
            symbols = torch.tensor([symbol])
            if text := decoder([symbol]):
                if separator and not text[0].isspace():
                    text = separator + text
                separator = ""
                yield text
        if text := decoder([], final=True):
            yield text

    return pieces()


def first_samples(run: Run) -> list[str]:
    """The texts that a finished run is shown with, always the same ones."""
    length = _LENGTHS[run.config.level]
    return ["".join(sample(run, length=length, temperature=TEMPERATURE, seed=seed)) for seed in range(_SAMPLES)]


def _begin(vocabulary: Vocabulary, prompt: str, generator: torch.Generator) -> Tensor:
    """The ids to begin from: the prompt's, a line end's, or else of a symbol that is drawn."""
    for text in (prompt, "\n"):
        ids = vocabulary.encode(text)
        if ids.size and (text == prompt or vocabulary.unknown not in ids):
            return torch.from_numpy(ids.astype("int64"))
    first = 0 if vocabulary.unknown is None else 1
    return torch.randint(first, max(vocabulary.size, first + 1), (1,), generator=generator)


def _draw(
    scores: Tensor,
    unknown: int | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> int:
    scores = scores.double()
    if unknown is not None:
        scores[unknown] = -math.inf
    if temperature == 0:
        return int(scores.argmax())
    scores = (scores - scores.max()) / temperature  # the largest is 0, so that no temperature makes it overflow
    scores, order = scores.sort(descending=True, stable=True)
    probabilities = scores.softmax(0)
    if top_k is not None:
        probabilities[top_k:] = 0
    if top_p is not None:
        before = probabilities.cumsum(0) - probabilities
        probabilities[before >= top_p * probabilities.sum()] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def _check(length: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    if length < 0:
        raise UserError(f"{option('length')} must be at least 0, got {length}")
    if not 0 <= temperature < math.inf:
        raise UserError(f"{option('temperature')} must be at least 0 and finite, got {temperature:g}")
    if top_k is not None and top_k < 1:
        raise UserError(f"{option('top_k')} must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"{option('top_p')} must be greater than 0 and at most 1, got {top_p:g}")

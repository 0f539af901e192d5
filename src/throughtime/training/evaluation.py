"""How well a model predicts a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from throughtime.data import Part, Streams, encode_text
from throughtime.data.text import Progress
from throughtime.errors import DataError
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.recurrent import State
from throughtime.runs import Run
from throughtime.training.building import device_for

Figures = dict[str, float]

_WINDOW = 500  # steps at a time: bounds the memory, and changes nothing else


def evaluate(
    run: Run | str | Path,
    data: Part | str | Path | Sequence[str | Path],
    *,
    encoding_errors: str = "strict",
    engine: str | None = None,
    progress: Progress | None = None,
) -> Figures:
    """How well a run's model predicts a text, read from its first symbol to its last.

    Args:
        run: the run, or its directory.
        data: files and directories that make one text, or a text that is encoded already.
        encoding_errors: "strict" or "replace".
        engine: what runs the recurrent layers; the one that the run was trained with if not given.
        progress: told what is being done, and how far.

    Returns:
        The figures (see `figures_of`).

    Raises:
        RunError: the run can't be read.
        DataError: the text can't be read, or has fewer than two symbols.
    """
    if not isinstance(data, Part):
        data = [data] if isinstance(data, str | Path) else data
        if not data:
            raise DataError("data is an empty list; expected a file or directory, or several")
    run = run if isinstance(run, Run) else Run.open(run)
    model = run.model(engine).to(device_for(run.config))
    if not isinstance(data, Part):
        data = encode_text(data, run.vocabulary, encoding_errors=encoding_errors, progress=progress)
    return figures_of(model, data, progress=progress)


def figures_of(
    model: LanguageModel, part: Part, *, symbols: int | None = None, progress: Progress | None = None
) -> Figures:
    """How well a model predicts a text; the state is carried through the whole of it, in one stream.

    Args:
        model: on any device; not in training mode.
        part: the text.
        symbols: how many of its first symbols to predict; all but the very first if not given.
        progress: told how far it is.

    Returns:
        `loss` in nats per symbol, `perplexity`, `bits_per_symbol`, `symbols` that were predicted, symbols
        of the whole text that are `unknown` to the vocabulary, `bits_per_character` and
        `bits_per_byte`, which compare across levels.

    Raises:
        DataError: the text has fewer than two symbols.
    """
    if part.symbols < 2:
        raise DataError(f"{part.name} has {part.symbols} symbol: 2 are wanted, one to predict the other from")
    ids = part.ids if symbols is None else part.ids[: symbols + 1]
    total, count = total_loss(model, Streams(ids, 1, _WINDOW), progress)
    loss = total / count
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "bits_per_symbol": loss / math.log(2),
        "symbols": count,
        "unknown": part.unknown,
        "bits_per_character": part.bits_per_character(loss),
        "bits_per_byte": part.bits_per_byte(loss),
    }


@torch.no_grad()
def total_loss(model: LanguageModel, streams: Streams, progress: Progress | None = None) -> tuple[float, int]:
    """The cross-entropy in nats summed over all windows, each stream's state carried through them, and the count.

    The model is left in the mode, training or not, that it was in; it predicts without dropout.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0
    state: State | None = None
    for k in range(len(streams)):
        symbols, targets = (torch.from_numpy(array).to(device) for array in streams[k])
        loss, state = model.loss(symbols, targets, state)
        total += loss
        count += targets.numel()
        if progress:
            progress("evaluating", count, streams.targets)
    model.train(training)
    return total.item(), count

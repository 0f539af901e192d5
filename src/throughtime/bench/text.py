"""End-to-end training on text: `throughtime train`, and the equivalent training loop in torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import TEXT, Case
from throughtime.bench.contestant import Ready
from throughtime.bench.modules import torch_name

_STEPS = 100  # per training run
_TOKENS = 64
_FIRST = 32  # the first printable character
_RATE, _DROPOUT, _CLIP = 0.004, 0.1, 1.0


class _Training(NamedTuple):
    """A training run's median seconds per step, and the loss of its last step."""

    seconds: float
    loss: float


class TrainCommand:
    """`throughtime train`, timed by its own metrics, excluding validation."""

    name = "throughtime"
    packages = ("lightning",)
    is_ours = True

    def takes(self, case: Case) -> bool:
        """Return True only for training on text."""
        return case.mode == TEXT

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Start a new run on each call."""
        from throughtime.training import train

        tokens = _tokens(case)
        text = "".join(map(chr, (tokens + _FIRST).flatten().tolist()))

        def run() -> _Training:
            with TemporaryDirectory() as place:
                data, valid = Path(place, "text.txt"), Path(place, "valid.txt")
                data.write_text(text, encoding="utf-8")
                valid.write_text(text[:1000], encoding="utf-8")
                trained = train(
                    data=data,
                    valid=valid,
                    out=Path(place, "run"),
                    cell=case.cell,
                    hidden_size=case.hidden,
                    embed=case.hidden,
                    num_layers=case.layers,
                    batch=case.batch,
                    window=case.steps,
                    lr=_RATE,
                    dropout=_DROPOUT,
                    clip=_CLIP,
                    steps=_STEPS,
                    threads=threads,
                    engine="native",
                    progress=False,
                )
                return _of_metrics(trained.metrics())

        return _ready(run)


class TorchTraining:
    """An embedding, torch's layers and a softmax, trained with AdamW and clipping."""

    name = "torch"
    packages = ("torch",)
    is_ours = False

    def takes(self, case: Case) -> bool:
        """Return True only for training on text."""
        return case.mode == TEXT

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Train from scratch on each call."""
        tokens = _tokens(case)

        def run() -> _Training:
            model = _Model(case)
            optimizer = torch.optim.AdamW(model.parameters(), _RATE)
            seconds, state = [], None
            for t in range(0, _STEPS * case.steps, case.steps):
                start = time.perf_counter()
                scores, state = model(tokens[t : t + case.steps], state)
                loss = functional.cross_entropy(scores.flatten(0, 1), tokens[t + 1 : t + case.steps + 1].flatten())
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
                optimizer.step()
                last = loss.item()
                seconds.append(time.perf_counter() - start)
            return _Training(median(seconds), last)

        return _ready(run)


class _Model(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_TOKENS, case.hidden)
        self.layers = getattr(nn, torch_name(case))(case.hidden, case.hidden, case.layers, dropout=_DROPOUT)
        self.head = nn.Linear(case.hidden, _TOKENS)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        if state is not None:
            state = state.detach() if isinstance(state, Tensor) else tuple(s.detach() for s in state)
        embedded = functional.dropout(self.embedding(tokens), _DROPOUT)
        output, state = self.layers(embedded, state)
        return self.head(functional.dropout(output, _DROPOUT)), state


def _ready(run: Any) -> Ready:
    return Ready(run, lambda given: {"loss": np.array(given.loss)}, lambda given: given.seconds)


def _tokens(case: Case) -> Tensor:
    """Draw random tokens, `[T, B]` for all steps of a training run."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_TOKENS, (_STEPS * case.steps + 1, case.batch), generator=generator)


def _of_metrics(rows: Sequence[dict[str, float | None]]) -> _Training:
    """Return the median time of the steps alone, and the last loss.

    A step with a validation is left out, since its time includes it, and so is the next step, whose time includes the
    checkpoint.
    """
    times = [row["time"] or 0.0 for row in rows]
    validated = [row["valid_loss"] is not None for row in rows]
    seconds = [times[k] - times[k - 1] for k in range(1, len(rows)) if not (validated[k] or validated[k - 1])]
    return _Training(median(seconds), rows[-1]["train_loss"] or 0.0)

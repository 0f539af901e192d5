"""Time Keras's recurrent layers on the torch backend before and after `throughtime.accelerate`.

    python benchmarks/keras_layers.py

Each row is a model with two recurrent layers of 128 units and a dense layer, on a batch of 32 sequences of 100 steps
with 32 features. For a step of `fit` and for `predict`, the script prints the median processor time in milliseconds
over interleaved rounds on one thread, and the median ratio per round. The last column is the largest difference between
the losses of 50 training steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

import throughtime

BATCH, STEPS, FEATURES, UNITS, CLASSES = 32, 100, 32, 128, 10
LOSS_STEPS = 50
layers = keras.layers


def stack(kind: str, *, both: bool = False, mask: bool = False, **options: Any) -> Any:
    """Build a classifier with two recurrent layers."""

    def layer(**more: Any) -> Any:
        made = getattr(layers, kind)(UNITS, **options, **more)
        return layers.Bidirectional(made) if both else made

    masking = [layers.Masking()] if mask else []
    below, top = layer(return_sequences=True), layer()
    return keras.Sequential([keras.Input((STEPS, FEATURES)), *masking, below, top, layers.Dense(CLASSES)])


MODELS: dict[str, Callable[[], Any]] = {
    "SimpleRNN": lambda: stack("SimpleRNN"),
    "LSTM": lambda: stack("LSTM"),
    "LSTM, masked": lambda: stack("LSTM", mask=True),
    "LSTM, dropout 0.2": lambda: stack("LSTM", dropout=0.2),
    "LSTM, recurrent dropout 0.2": lambda: stack("LSTM", recurrent_dropout=0.2),
    "LSTM, both": lambda: stack("LSTM", dropout=0.2, recurrent_dropout=0.2),
    "GRU": lambda: stack("GRU"),
    "GRU, recurrent dropout 0.2": lambda: stack("GRU", recurrent_dropout=0.2),
    "Bidirectional GRU": lambda: stack("GRU", both=True),
}


def made(name: str, *, accelerated: bool) -> Any:
    """Build a model by name, with the same weights on every call."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return throughtime.accelerate(model) if accelerated else model


def seconds(call: Callable[[Any], Any], model: Any) -> float:
    """Return the processor time of a call in seconds, which other programs affect less than elapsed time."""
    start = time.process_time()
    call(model)
    return time.process_time() - start


def compare(name: str, rounds: int) -> str:
    """Measure a model and return its row of the table."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, STEPS, FEATURES)).astype(np.float32)
    if "masked" in name:
        for row, length in enumerate(rng.integers(STEPS // 2, STEPS + 1, BATCH)):
            x[row, length:] = 0
    y = rng.integers(0, CLASSES, BATCH)
    models = [made(name, accelerated=accelerated) for accelerated in (False, True)]
    losses = []
    for model in models:
        keras.utils.set_random_seed(1)  # the dropout masks
        losses.append([model.train_on_batch(x, y) for _ in range(LOSS_STEPS)])
    difference = float(np.abs(np.subtract(*losses)).max())
    calls = {
        "fit": lambda model: model.fit(x, y, batch_size=BATCH, verbose=0),
        "predict": lambda model: model.predict(x, batch_size=BATCH, verbose=0),
    }
    cells = []
    for call in calls.values():
        times = [[seconds(call, model) for model in models] for _ in range(rounds + 1)][1:]
        before, after = (statistics.median(of) * 1e3 for of in zip(*times, strict=True))
        cells.append(f"{before:.0f} | {after:.1f} | {statistics.median(a / b for a, b in times):.1f}")
    return f"| {name} | {cells[0]} | {cells[1]} | {difference:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | fit, before | after | ratio | predict, before | after | ratio | losses differ by |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        print(compare(name, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()

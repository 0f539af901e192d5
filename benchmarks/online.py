"""A drifting series: a network that goes on learning beside the same network frozen.

    python benchmarks/online.py

trains networks of 32 units to predict the next value of a series, then runs them over a later part of it, in which its
frequencies and amplitudes move away from those of training. Each line is the mean squared error there: of the network
as it was trained, as it goes on learning by each method, and of three yardsticks. It takes under two minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch

import throughtime
from throughtime.nn.encoders import Numeric
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Point

TRAINED, STREAMED = 4000, 8000
HIDDEN, WINDOW, ROWS, UPDATES = 32, 50, 32, 400
NOISE, LAGS = 0.1, 16
CELLS = ("lstm", "gru", "mingru")


def series(seed: int = 0) -> np.ndarray:
    """A saturated sum of two oscillations that drift after the training part, and noise, `[values]`."""
    generator = np.random.default_rng(seed)
    n = TRAINED + STREAMED + 1
    drift = np.clip((np.arange(n) - TRAINED) / STREAMED, 0, 1)  # 0 in training, 1 at the end
    slow = np.cumsum(0.15 * (1 + 1.2 * drift))
    fast = np.cumsum(0.52 * (1 - 0.5 * drift))
    clean = np.sin(slow) * (1 - 0.5 * drift) + (0.6 + 0.6 * drift) * np.sin(fast)
    return (np.tanh(2 * clean) + NOISE * generator.standard_normal(n)).astype(np.float32)


def trained(cell: str, values: np.ndarray) -> SequenceModel:
    """A network trained on windows of the first part."""
    torch.manual_seed(0)
    model = SequenceModel(Numeric(1), Recurrent(cell, 1, HIDDEN), Point(1, "mse"))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    windows = torch.from_numpy(values[: TRAINED + 1]).unfold(0, WINDOW + 1, 1)
    for _ in range(UPDATES):
        x = windows[torch.randint(len(windows), (ROWS,))].T[..., None]
        loss, _ = model.loss(x[:-1], x[1:])
        optimizer.zero_grad()
        (loss / (WINDOW * ROWS)).backward()
        optimizer.step()
    return model


def streamed(stream: throughtime.Stream, values: np.ndarray, *, learn: bool) -> tuple[np.ndarray, float]:
    """The squared error of each prediction after training, and the seconds of a step."""
    for value in values[TRAINED - 200 : TRAINED]:  # so that the state is the series'
        stream.step(value[None])
    errors, start = [], time.perf_counter()
    for value, following in zip(values[TRAINED:-1], values[TRAINED + 1 :], strict=True):
        (predicted,) = stream.step(value[None])
        errors.append((predicted - following) ** 2)
        if learn:
            stream.learn(following)
    return np.array(errors), (time.perf_counter() - start) / len(errors)


def linear(values: np.ndarray, rate: float = 0.5) -> np.ndarray:
    """Squared errors of a linear filter of the last values that learns online (normalized least mean squares)."""
    weights, errors = np.zeros(LAGS), []
    for t in range(LAGS, len(values) - 1):
        past = values[t - LAGS + 1 : t + 1]
        error = values[t + 1] - weights @ past
        errors.append(error**2)
        weights += rate * error * past / (1e-3 + past @ past)
    return np.array(errors[-STREAMED:])


def results(values: np.ndarray) -> Iterator[tuple[str, str, np.ndarray, float, int]]:
    """Who predicts, how it learns, its errors, the seconds of a step and the bytes of its sensitivities."""
    for cell in CELLS:
        model = trained(cell, values)
        yield cell, "frozen", *streamed(throughtime.Stream(model), values, learn=False), 0
        for method in ("snap1", "rtrl"):
            stream = throughtime.Stream(model, learn=method, lr=1e-3)
            name = stream.methods[0].name
            if method == "snap1" and name == "rtrl":
                continue  # they are the same for this cell
            yield cell, name, *streamed(stream, values, learn=True), stream.methods[0].bytes
    yield "linear filter", "online", linear(values), math.nan, 0
    later = values[TRAINED:]
    yield "last value", "-", (later[1:] - later[:-1]) ** 2, math.nan, 0
    yield "mean", "-", (later[1:] - values[:TRAINED].mean()) ** 2, math.nan, 0


def main() -> None:
    values = series()
    print("| | learns by | MSE, first quarter | MSE, last quarter | MSE, all | us a step | sensitivities, kB |")
    print("|---|---|---|---|---|---|---|")
    for who, how, errors, seconds, count in results(values):
        first, *_, last = np.split(errors, 4)
        step = "" if math.isnan(seconds) else f"{seconds * 1e6:.0f}"
        print(
            f"| {who} | {how} | {first.mean():.4f} | {last.mean():.4f} | {errors.mean():.4f} | {step} | "
            f"{count / 1e3:.0f} |",
            flush=True,
        )
    print(f"\nThe noise alone has an MSE of {NOISE**2:.4f}.")


if __name__ == "__main__":
    main()

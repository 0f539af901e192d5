"""Compare networks that keep learning online with the same networks frozen, on a drifting series.

    python benchmarks/online.py

trains networks of 32 units to predict the next value of a series, then runs them on a later part in which the
frequencies and amplitudes drift. Each line is the mean squared error on that part, for the frozen network, for the
network with each online learning method, and for three baselines. It takes less than two minutes.

    python benchmarks/online.py --speed

instead prints the processor time of a step, without learning and with each method, for several numbers of units.
"""

from __future__ import annotations

import argparse
import math
import statistics
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
SIZES, CALLS, ROUNDS = (8, 32, 128), 50, 7


def series(seed: int = 0) -> np.ndarray:
    """Return a saturated sum of two oscillations that drift after the training part, plus noise, `[values]`."""
    generator = np.random.default_rng(seed)
    n = TRAINED + STREAMED + 1
    drift = np.clip((np.arange(n) - TRAINED) / STREAMED, 0, 1)  # 0 in training, 1 at the end
    slow = np.cumsum(0.15 * (1 + 1.2 * drift))
    fast = np.cumsum(0.52 * (1 - 0.5 * drift))
    clean = np.sin(slow) * (1 - 0.5 * drift) + (0.6 + 0.6 * drift) * np.sin(fast)
    return (np.tanh(2 * clean) + NOISE * generator.standard_normal(n)).astype(np.float32)


def trained(cell: str, values: np.ndarray) -> SequenceModel:
    """Train a network on windows of the first part."""
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
    """Return the squared error of each prediction after the training part, and the seconds per step."""
    for value in values[TRAINED - 200 : TRAINED]:  # warm up the state
        stream.step(value[None])
    errors, start = [], time.perf_counter()
    for value, following in zip(values[TRAINED:-1], values[TRAINED + 1 :], strict=True):
        (predicted,) = stream.step(value[None])
        errors.append((predicted - following) ** 2)
        if learn:
            stream.learn(following)
    return np.array(errors), (time.perf_counter() - start) / len(errors)


def linear(values: np.ndarray, rate: float = 0.5) -> np.ndarray:
    """Return the squared errors of an online linear filter of the last values (normalized least mean squares)."""
    weights, errors = np.zeros(LAGS), []
    for t in range(LAGS, len(values) - 1):
        past = values[t - LAGS + 1 : t + 1]
        error = values[t + 1] - weights @ past
        errors.append(error**2)
        weights += rate * error * past / (1e-3 + past @ past)
    return np.array(errors[-STREAMED:])


def results(values: np.ndarray) -> Iterator[tuple[str, str, np.ndarray, float, int]]:
    """Yield each predictor's name, learning method, errors, seconds per step and bytes of sensitivities."""
    for cell in CELLS:
        model = trained(cell, values)
        yield cell, "frozen", *streamed(throughtime.Stream(model), values, learn=False), 0
        for method in ("snap1", "rtrl"):
            stream = throughtime.Stream(model, learn=method, lr=1e-3)
            name = stream.methods[0].name
            if method == "snap1" and name == "rtrl":
                continue  # the two methods are identical for this cell
            yield cell, name, *streamed(stream, values, learn=True), stream.methods[0].bytes
    yield "linear filter", "online", linear(values), math.nan, 0
    later = values[TRAINED:]
    yield "last value", "-", (later[1:] - later[:-1]) ** 2, math.nan, 0
    yield "mean", "-", (later[1:] - values[:TRAINED].mean()) ** 2, math.nan, 0


def microseconds(stream: throughtime.Stream, values: np.ndarray, *, learn: bool) -> float:
    """Return the processor time of a step, and of the update after it, in microseconds."""
    start = time.process_time()  # less affected by other programs than elapsed time
    for value in values:
        stream.step(value[None])
        if learn:
            stream.learn(value)
    return (time.process_time() - start) / len(values) * 1e6


def speeds(cell: str, size: int, values: np.ndarray) -> tuple[list[float], int]:
    """Return the medians of a step's time without learning, with SnAp-1 and with RTRL, and RTRL's bytes."""
    torch.manual_seed(0)
    model = SequenceModel(Numeric(1), Recurrent(cell, 1, size), Point(1, "mse"))
    streams = [throughtime.Stream(model)]
    streams += [throughtime.Stream(model, learn=method, lr=1e-3) for method in ("snap1", "rtrl")]
    rounds = [
        [microseconds(stream, values[:CALLS], learn=stream is not streams[0]) for stream in streams]
        for _ in range(ROUNDS + 1)
    ]
    return [statistics.median(of) for of in zip(*rounds[1:], strict=True)], streams[-1].methods[0].bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure the time of a step instead of the errors")
    values = series()
    if parser.parse_args().speed:
        torch.set_num_threads(1)
        print(
            "| | units | step | step and SnAp-1 | step and RTRL | RTRL's sensitivities, kB |\n|---|---|---|---|---|---|"
        )
        for cell in CELLS:
            for size in SIZES:
                (alone, snap1, rtrl), count = speeds(cell, size, values)
                print(f"| {cell} | {size} | {alone:.1f} | {snap1:.0f} | {rtrl:.0f} | {count / 1e3:,.0f} |", flush=True)
        return
    print("| | method | MSE, first quarter | MSE, last quarter | MSE, all | us per step | sensitivities, kB |")
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

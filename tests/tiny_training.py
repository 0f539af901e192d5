"""Shared helpers for the tests of training: a small text and a small model that trains in a second."""

from __future__ import annotations

import multiprocessing
import random
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from throughtime.runs import Run
from throughtime.training import callbacks, train

TINY = {
    "hidden_size": 12,
    "num_layers": 2,
    "dropout": 0.1,
    "batch": 8,
    "window": 10,
    "steps": 12,
    "threads": 1,
}
SAMPLED = 20  # the number of characters in a sample after training

# The server process imports the library once and forks for each training run, because importing takes longer.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["throughtime.training"])


def write_text(path: Path, words: int = 600) -> Path:
    """Write a text of a few words in random order, identical on every call."""
    draw = random.Random(1)
    path.write_text(" ".join(draw.choice(["through", "time", "and", "over", "again\n"]) for _ in range(words)))
    return path


def train_tiny(directory: Path, *, report: bool = False, **options: Any) -> Run:
    """Train a small model in `directory/run`, by default without the report, which takes longer than training.

    The samples of text after training are short, since drawing 600 characters takes longer than training too.
    """
    data = directory / "text.txt"
    if "data" not in options and not data.exists():
        write_text(data)
    short = patch.dict("throughtime.tasks.text._LENGTHS", {"char": SAMPLED, "word": 10, "bpe": 10})
    with short, nullcontext() if report else patch("throughtime.training.loop.write_report"):
        return train(**{"data": data, "out": directory / "run", "progress": False, **TINY, **options})


def figures(run: Run) -> list[dict[str, float | None]]:
    """Return the rows of metrics.csv without the time, which differs between runs."""
    return [{name: value for name, value in row.items() if name != "time"} for row in run.metrics()]


def _train_with_many_checkpoints(options: dict[str, Any]) -> None:
    callbacks._CHECKPOINT_SECONDS = 0
    train(**options)


def train_and_kill(more_rows: int, options: dict[str, Any]) -> Run:
    """Train in another process, kill it when metrics.csv has more than `more_rows` rows, and return the run."""
    process = _PROCESSES.Process(target=_train_with_many_checkpoints, args=(options,))
    process.start()
    metrics, deadline = Path(options["out"]) / "metrics.csv", time.monotonic() + 300
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > more_rows):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    run = Run.open(metrics.parent)
    assert not run.finished
    return run

"""Time training steps of a forecasting network against the same network built from torch layers.

A step consists of the forward pass, the loss, the backward pass, gradient clipping and an AdamW update, on the same
batches of a simulated hourly series. One network uses throughtime's layers; the other uses `torch.nn.LSTM` or
`torch.nn.GRU` with `torch.nn.Linear`. They start with the same weights, and their first losses must agree. The steps of
the two networks are interleaved. The result is the median ratio of torch's time to throughtime's over pairs of
neighboring steps. Run it on an otherwise idle machine.

    python benchmarks/forecast_speed.py [--threads 2] [--rounds 60]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import polars
import torch
from torch import Tensor, nn

from throughtime import cells, to_torch
from throughtime.bench.machine import Machine
from throughtime.nn.sequence_model import SequenceModel
from throughtime.tasks.forecast import ForecastTask
from throughtime.tasks.options.forecast import ForecastOptions
from throughtime.training import TrainConfig
from throughtime.training.building import build_model, programs_of


class Peer(nn.Module):
    """The same network built from torch layers."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.recurrent = to_torch(model.recurrent)
        self.head = nn.Linear(model.recurrent.output_size, model.head.output.width)
        self.head.load_state_dict({name: value.detach().clone() for name, value in model.head.named_parameters()})

    def forward(self, x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the absolute errors."""
        y, _ = self.recurrent(x)
        return ((self.head(y) - targets).abs() * weights).sum()


def measured(table: Path, cell: str, options: argparse.Namespace) -> list[float]:
    """Return the ratio of torch's time to throughtime's for each pair of neighboring steps."""
    task = ForecastTask(ForecastOptions(data=(str(table),), horizon=options.horizon, context=options.context,
                                        segment=options.segment, strategy="direct"))  # fmt: skip
    data = task.prepare()
    config = TrainConfig.of("forecast", horizon=options.horizon, cell=cell, hidden_size=options.hidden, dropout=0)
    interface = task.interface(data.codecs)
    ours = build_model(config.network, programs_of(config.network, cells.get(cell), interface), interface, None)
    theirs = Peer(ours)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (ours, theirs)]
    batches = task.batches(data.train, options.batch)

    def step(which: int, k: int) -> tuple[float, float]:
        batch = batches.batch(k)
        assert batch.weights is not None
        x, targets, weights = map(torch.from_numpy, (batch.inputs, batch.targets, batch.weights))
        began = time.perf_counter()
        if which == 0:
            loss = ours.loss(x, targets, weights=weights)[0] / batch.terms
        else:
            loss = theirs(x, targets, weights) / batch.terms
        optimizers[which].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_((ours, theirs)[which].parameters(), 1.0)
        optimizers[which].step()
        return time.perf_counter() - began, float(loss.detach())

    first = [step(which, 0)[1] for which in (0, 1)]
    np.testing.assert_allclose(*first, rtol=1e-4)  # the same network
    ratios = []
    for k in range(1, options.rounds + 1):
        order = (0, 1) if k % 2 else (1, 0)
        took = dict(zip(order, (step(which, k)[0] for which in order), strict=True))
        if k > 3:
            ratios.append(took[1] / took[0])
    return ratios


def main() -> None:
    """Measure an LSTM and a GRU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"threads": 2, "rounds": 60, "hidden": 128, "batch": 64, "context": 96, "horizon": 24, "segment": 1}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(Machine.this())
    draw = np.random.default_rng(0)
    y = np.sin(np.arange(5000) * 2 * np.pi / 24) + 0.1 * draw.normal(size=5000)
    with tempfile.TemporaryDirectory() as directory:
        table = Path(directory) / "table.parquet"
        polars.DataFrame({"y": y}).write_parquet(table)
        for cell in ("lstm", "gru"):
            ratios = measured(table, cell, options)
            low, high = np.quantile(ratios, (0.25, 0.75))
            print(
                f"{cell}: {options.hidden} units, batch {options.batch}, context {options.context}, horizon "
                f"{options.horizon}, segment {options.segment}: {median(ratios):.2f} times as fast as torch's layer "
                f"(quartiles {low:.2f} to {high:.2f})"
            )


if __name__ == "__main__":
    main()

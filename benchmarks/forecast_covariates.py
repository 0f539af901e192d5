"""Measure how much informative covariates reduce forecast error, on 200 simulated series of different lengths.

The series are in long format: `unique_id`, `ds` (days), `y`, a static covariate `region`, and a future covariate
`promotion`, drawn at random for each day. `y` is the sum of a weekly cycle, an effect of the promotion whose strength
and sign depend on the region, and noise. The script trains the same network with and without the covariates and prints
the errors on the test part. It exits with status 1 if the error with covariates is more than half the error without.

    python benchmarks/forecast_covariates.py [--steps 1200] [--threads 2] [--table series.csv]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars

from throughtime.tasks.forecast import ForecastTask
from throughtime.tasks.options.forecast import ForecastOptions
from throughtime.training import TrainConfig, fit

EFFECTS = {"north": 1.0, "east": -1.0, "south": 2.0, "west": -2.0}
"""The effect of a promotion in each region, relative to the level of the series."""


def series(count: int = 200, seed: int = 0) -> polars.DataFrame:
    """Simulate series of 120 to 400 days that all end on the same day."""
    draw = np.random.default_rng(seed)
    days = polars.date_range(polars.date(2022, 1, 1), polars.date(2023, 12, 31), "1d", eager=True)
    regions = list(EFFECTS)
    frames = []
    for k in range(count):
        rows = int(draw.integers(120, 401))
        region = regions[int(draw.integers(len(regions)))]
        level = float(draw.lognormal(3, 1))
        promotion = draw.uniform(0, 1, rows).round(2)
        week = 0.3 * np.sin(np.arange(len(days) - rows, len(days)) * 2 * np.pi / 7)
        y = level * (5 + week + EFFECTS[region] * promotion + 0.05 * draw.normal(size=rows))
        frames.append(
            polars.DataFrame(
                {
                    "unique_id": [f"series{k:03}"] * rows,
                    "ds": days[len(days) - rows :],
                    "y": y,
                    "promotion": promotion,
                    "region": [region] * rows,
                }
            )
        )
    return polars.concat(frames)


def errors(table: Path, steps: int, threads: int, covariates: bool) -> tuple[dict[str, float], float]:
    """Train a network and return its metrics on the test part and the training time in seconds."""
    given = {"future": "promotion", "static": "region"} if covariates else {}
    task = ForecastTask(ForecastOptions(data=(str(table),), horizon=14, context=28, **given))
    data = task.prepare()
    config = TrainConfig.of(
        "forecast", horizon=14, context=28, **given, hidden_size=64, dropout=0, batch=128, lr=3e-3, steps=steps,
        threads=threads,
    )  # fmt: skip
    began = time.perf_counter()
    model = fit(task, data, config)
    took = time.perf_counter() - began
    assert data.test is not None
    return task.extra_figures(model, data.test), took


def main() -> int:
    """Train both networks and print their errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write the series to this CSV or Parquet file and exit")
    options = parser.parse_args()
    frame = series(seed=options.seed)
    if options.table is not None:
        (frame.write_parquet if options.table.suffix == ".parquet" else frame.write_csv)(options.table)
        return 0
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        table = Path(directory) / "series.parquet"
        frame.write_parquet(table)
        for covariates in (False, True):
            figures, took = errors(table, options.steps, options.threads, covariates)
            found[covariates] = figures
            name = "with covariates" if covariates else "without"
            print(
                f"{name:16} scaled MAE {figures['mae']:.4f}  scaled MSE {figures['mse']:.4f}"
                f"  MASE {figures['mase']:.3f}  coverage {figures['coverage']:.1%}  {took:.0f} s"
            )
    ratio = found[True]["mae"] / found[False]["mae"]
    print(f"error with covariates: {ratio:.2f} times the error without")
    return int(ratio > 0.5)


if __name__ == "__main__":
    sys.exit(main())

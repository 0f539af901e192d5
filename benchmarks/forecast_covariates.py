"""How much covariates that matter lower the error of forecasts: 200 simulated series of unequal length.

The series are in long format: `unique_id`, `ds` (days), `y`, a static covariate `region`, and a future covariate
`promotion`, which is drawn anew each day. `y` has a weekly cycle, follows the promotion with a strength and a sign
that depend on the region, and has noise. The command trains the same network with both covariates and without, and
prints the errors on the test part; it exits with 1 if the error with covariates is more than half of that without.

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
from throughtime.tasks.forecast_options import ForecastOptions
from throughtime.training import TrainConfig, fit

EFFECTS = {"north": 1.0, "east": -1.0, "south": 2.0, "west": -2.0}
"""What a promotion adds in each region, relative to the level of the series."""


def series(count: int = 200, seed: int = 0) -> polars.DataFrame:
    """Return the simulated series: from 120 to 400 days long, all ending on the same day."""
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
    """Train a network; return its figures on the test part, and the seconds that training took."""
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
    return task.further_figures(model, data.test), took


def main() -> int:
    """Train both networks and print their errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write the series here as CSV or Parquet, and train nothing")
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
                f"{name:16} MAE, scaled {figures['mae']:.4f}  MSE, scaled {figures['mse']:.4f}"
                f"  MASE {figures['mase']:.3f}  coverage {figures['coverage']:.1%}  {took:.0f} s"
            )
    ratio = found[True]["mae"] / found[False]["mae"]
    print(f"error with covariates: {ratio:.2f} of that without")
    return int(ratio > 0.5)


if __name__ == "__main__":
    sys.exit(main())

"""Measure the peak memory of training a forecaster on one long series from Parquet (Linux).

A separate process first reads and trains on a small table, so that all libraries are loaded, then trains for some
steps on the long one. The script prints how far the peak resident memory rises during the second training, relative to
the size of the columns used: 8 bytes per row for the time and 4 for the float32 target.

    python benchmarks/forecast_memory.py [--rows 10000000] [--parts]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
import tempfile
from pathlib import Path

_ROW = 12  # bytes: a datetime and a float32


def write(path: Path, rows: int) -> None:
    """Write a series with one row per minute."""
    import numpy as np
    import polars

    draw = np.random.default_rng(0)
    y = np.sin(np.arange(rows, dtype=np.float32) * np.float32(2 * np.pi / 1440)) + draw.normal(0, 0.1, rows).astype(
        np.float32
    )
    start = np.datetime64("2000-01-01", "us")
    times = start + np.arange(rows) * np.timedelta64(60_000_000, "us")
    polars.DataFrame({"ds": times, "y": y.astype(np.float32)}).write_parquet(path, row_group_size=1_000_000)


def resident(field: str = "VmRSS") -> float:
    """Return the resident memory of this process in MB: current (VmRSS) or peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}")


def settle() -> float:
    """Free unused memory, reset the peak, and return the resident memory in MB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def measured(small: Path, large: Path, steps: int, parts: bool) -> None:
    """Train on the small table, then on the large one, and print the rise in MB."""
    from throughtime.tasks.forecast import ForecastTask
    from throughtime.tasks.options.forecast import ForecastOptions
    from throughtime.training import TrainConfig, fit

    given = {"horizon": 24, "context": 96}

    def run(path: Path) -> None:
        task = ForecastTask(ForecastOptions(data=(str(path),), **given))
        data = task.prepare()
        if parts and path == large:
            print(f"read: peak {resident('VmHWM') - idle:.0f} MB, then {resident() - idle:.0f} MB", file=sys.stderr)
        config = TrainConfig.of("forecast", **given, hidden_size=16, batch=64, steps=steps, threads=1)
        model = fit(task, data, config)
        if parts and path == large:
            print(f"fit: peak {resident('VmHWM') - idle:.0f} MB, then {resident() - idle:.0f} MB", file=sys.stderr)
        assert data.test is not None
        part = task.subset(data.test, 1_000_000)
        task.extra_figures(model, part)
        task.baseline_figures(model.task.baselines if model.task else {}, part, data.codecs)

    idle = 0.0
    run(small)
    idle = settle()
    run(large)
    print(resident("VmHWM") - idle)


def main() -> int:
    """Run the measurement in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--parts", action="store_true", help="also print the peak after reading and after training")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measured(*options.measure, options.steps, options.parts)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        small, large = Path(directory) / "small.parquet", Path(directory) / "large.parquet"
        write(small, 20_000)
        write(large, options.rows)
        extra = ["--parts"] if options.parts else []
        command = [sys.executable, __file__, "--measure", str(small), str(large), "--steps", str(options.steps), *extra]
        rise = float(subprocess.run(command, check=True, capture_output=not options.parts, text=True,
                                    stdout=subprocess.PIPE if options.parts else None).stdout.split()[-1])  # fmt: skip
    used = options.rows * _ROW / 1e6
    message = f"peak {rise:.0f} MB above an idle process, {rise / used:.2f} times the {used:.0f} MB of the columns used"
    print(f"{options.rows:,} rows: {message}")
    return int(rise > 1.5 * used)


if __name__ == "__main__":
    sys.exit(main())

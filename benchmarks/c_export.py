"""Time an LSTM exported as C against `Stream` and the native engine (one input feature, 20 units).

    python benchmarks/c_export.py

prints nanoseconds per step, the median of interleaved rounds on one thread, for the C code with several compilers and
options, a `Stream` called once per step (which includes the cost of a Python call), and the module called once on the
whole sequence.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import throughtime

STEPS, ROUNDS = 100_000, 9
UNITS = 20
OPTIONS = (("-O2",), ("-O3",), ("-O3", "-march=native"), ("-O3", "-march=native", "-ffast-math"), ("-O3", "-DNET_LIBM"))

TIMED = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>
#include "net.h"
int main(void)
{
    static net_state state;
    float x[1], y[NET_OUTPUTS], sum = 0.0f;
    struct timespec start, end;
    int t;
    net_reset(&state);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (t = 0; t < STEPS; t++) {
        x[0] = (float)(t % 100) * 0.01f;
        net_step(&state, x, y);
        sum += y[0];
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.17g %g\\n", ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / STEPS, (double)sum);
    return 0;
}
"""


def compiled(folder: Path, compiler: str, options: tuple[str, ...]) -> Callable[[], float]:
    """Compile the C code and return a function that runs it and returns nanoseconds per step."""
    program = folder / "-".join([compiler, *options]).replace("=", "")
    files = [str(folder / "net.c"), str(folder / "timed.c"), "-lm"]
    subprocess.run([compiler, "-std=c99", f"-DSTEPS={STEPS}", *options, "-o", program, *files], check=True)
    return lambda: float(subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()[0])


def main() -> None:
    torch.set_num_threads(1)
    module = throughtime.Recurrent("lstm", 1, UNITS)
    stream = throughtime.Stream(module)
    samples = (np.arange(STEPS, dtype=np.float32)[:, None] % 100) * np.float32(0.01)
    whole = torch.from_numpy(samples)[:, None]
    out = np.empty(UNITS, np.float32)

    def by_stream() -> float:
        start = time.perf_counter()
        for x in samples:
            stream.step(x, out)
        return (time.perf_counter() - start) / STEPS * 1e9

    def by_module() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            module(whole)
        return (time.perf_counter() - start) / STEPS * 1e9

    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        wrote = throughtime.to_c(module, folder / "net.c")
        (folder / "timed.c").write_text(TIMED)
        contestants = {"Stream.step": by_stream, "module, whole sequence": by_module}
        for compiler in filter(shutil.which, ("gcc", "clang")):
            for options in OPTIONS:
                contestants[f"{compiler} {' '.join(options)}"] = compiled(folder, compiler, options)
        rounds = [{name: timed() for name, timed in contestants.items()} for _ in range(ROUNDS)]
        size = wrote.code_size()
    print(f"weights {wrote.weights} bytes, state {wrote.state}, stack {wrote.scratch}, code {size}")
    print("| contestant | ns per step |\n|---|---|")
    for name in contestants:
        print(f"| {name} | {statistics.median(found[name] for found in rounds):.0f} |")


if __name__ == "__main__":
    main()

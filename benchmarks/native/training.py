"""Measures the native engine against torch's own layers: forward, and a training step (forward and all gradients).

Both run in turn in one process, so that a busy machine slows both alike; the median of each is compared. Prints, for
each shape, torch's time, ours, the ratio, and the share of the machine's measured multiply-add peak.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from throughtime import _native, cells
from throughtime.engines.native import NativeEngine
from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_tape

LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def torch_calls(cell: str, steps: int, batch: int, hidden: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """torch's forward and training step."""
    layer = LAYERS[cell](hidden, hidden)
    x = torch.randn(steps, batch, hidden, requires_grad=True)
    g = torch.randn(steps, batch, hidden)

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def train() -> None:
        layer(x)[0].backward(g)

    return forward, train


def native_calls(
    engine: NativeEngine, cell: str, steps: int, batch: int, hidden: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Our forward and training step."""
    program = cells.get(cell).program(hidden, hidden)
    wanted = everything_wanted(program)
    taped = with_tape(program, wanted)
    derived = gradient(taped, everything_given(program), wanted)
    x = torch.randn(steps, batch, hidden)
    g = torch.randn(steps, batch, hidden)
    parameters = [torch.randn(*p.shape) / hidden**0.5 for p in program.parameters]
    zeros = [torch.zeros(batch, s.width) for s in program.states]

    def forward() -> None:
        engine.run(program, steps, [x], zeros, parameters)

    def train() -> None:
        outputs, _, _ = engine.run(taped, steps, [x], zeros, parameters)
        arguments: list[Tensor] = [[x][k] for k in derived.inputs]
        arguments += [outputs[k] for k in derived.tape] + [g for _ in derived.given.vectors]
        engine.run(derived.program, steps, arguments, zeros, [parameters[k] for k in derived.parameters])

    return forward, train


def in_turn(calls: list[Callable[[], None]], seconds: float) -> list[float]:
    """The median time of each call, all run in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[0]) < 3:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def main() -> None:
    """Runs the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", default=list(LAYERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--hidden", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--isa", default="")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    engine = NativeEngine(given.threads, given.isa)
    peak = _native.fma_peak(given.threads, isa=given.isa)
    print(f"peak {peak * 1e-9:.0f} GFLOP/s on {given.threads} threads")
    columns = "torch ms  ours ms  ratio  of peak |"
    print(f"cell  batch hidden | forward: {columns} training: {columns}")
    for cell in given.cells:
        ratios: list[list[float]] = [[], []]
        for batch, hidden in product(given.batch, given.hidden):
            ours = native_calls(engine, cell, given.steps, batch, hidden)
            theirs = torch_calls(cell, given.steps, batch, hidden)
            flops = 2 * given.steps * batch * GATES[cell] * hidden * 2 * hidden
            line = f"{cell:5} {batch:5} {hidden:6} |"
            for k, work in enumerate((flops, 3 * flops)):
                mine, other = in_turn([ours[k], theirs[k]], given.seconds)
                ratios[k].append(other / mine)
                line += f"  {other * 1e3:15.3f} {mine * 1e3:8.3f} {other / mine:6.2f} {work / mine / peak:8.0%} |"
            print(line, flush=True)
        print(
            f"{cell}: geometric mean forward {statistics.geometric_mean(ratios[0]):.2f}, "
            f"training {statistics.geometric_mean(ratios[1]):.2f}; least {min(ratios[0]):.2f}, {min(ratios[1]):.2f}"
        )


if __name__ == "__main__":
    main()

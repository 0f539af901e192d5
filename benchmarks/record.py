"""Measure the cost of recording all gates of a layer, in a training step and in a forward pass.

Runs with and without recording alternate in one process, so that other load on the machine slows both equally. The
script prints the median ratio over all rounds. Each run opens a new recording. Recording must not change any result.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import throughtime

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
GATES = {
    "lstm": ("input", "forget", "candidate", "output"),
    "gru": ("reset", "update", "candidate"),
}


def main() -> None:
    """Measure each cell in each kind of run, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for cell, gates in GATES.items():
        names = [f"layer0.{gate}" for gate in gates]
        model = throughtime.Recurrent(cell, given.hidden, given.hidden)
        x = torch.randn(given.steps, given.batch, given.hidden)

        def training(model: torch.nn.Module = model, x: torch.Tensor = x) -> torch.Tensor:
            model.zero_grad()
            loss = model(x)[0].square().mean()
            loss.backward()
            return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

        @torch.no_grad()
        def forward(model: torch.nn.Module = model, x: torch.Tensor = x) -> torch.Tensor:
            output: torch.Tensor = model(x)[0]
            return output

        def with_gradients(model: torch.nn.Module = model, names: list[str] = names) -> torch.Tensor:
            with throughtime.record(model, *names, gradients=True):
                return training()

        for what, plain, bound in (("training step", training, "1.05"), ("forward pass", forward, "1.3")):

            def recorded(
                run: Callable[[], torch.Tensor] = plain, model: torch.nn.Module = model, names: list[str] = names
            ) -> torch.Tensor:
                with throughtime.record(model, *names):
                    return run()

            report(cell, what, bound, plain, recorded, given)
        report(cell, "training step, with gradients", "-", training, with_gradients, given)


def report(
    cell: str,
    what: str,
    bound: str,
    plain: Callable[[], torch.Tensor],
    recorded: Callable[[], torch.Tensor],
    given: argparse.Namespace,
) -> None:
    """Time a run with and without recording, and print the ratio."""
    if not torch.equal(plain(), recorded()):
        raise SystemExit(f"{cell}, {what}: recording changed the result.")
    clock, times = CLOCKS[given.clock], []
    for number in range(given.rounds):
        of_round = {}
        for run in (plain, recorded) if number % 2 else (recorded, plain):
            start = clock()
            run()
            of_round[run] = clock() - start
        times.append((of_round[plain], of_round[recorded]))
    ratio = statistics.median(recorded / plain for plain, recorded in times)
    usual = statistics.median(plain for plain, _ in times)
    print(f"{cell}, {what}: {usual * 1e3:.2f} ms, {ratio:.3f} times as long with recording (target: {bound})")


if __name__ == "__main__":
    main()

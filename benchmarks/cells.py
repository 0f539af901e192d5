"""Measure every named cell: the time of a training step on the native engine, and how far back its gradient reaches.

The training step is timed against an LSTM's and against the same cell as a loop of torch operations (the reference
engine under torch's autograd), in interleaved rounds in one process. --write saves the figures to docs/cells.json and
generates the page of all cells, docs/cells.md. --page regenerates the page from the saved figures. With --cells, the
figures of other cells are kept, and the page names the machine on which the new ones were measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch

from throughtime import cells
from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import TRAINING, Case
from throughtime.bench.contestant import Ready
from throughtime.bench.machine import Machine
from throughtime.bench.measuring import error, in_turn, processors, torch_threads, turn_of
from throughtime.bench.modules import filled, ready_module
from throughtime.bench.quiet import quiet
from throughtime.cells.page import page
from throughtime.nn.recurrent import Recurrent
from throughtime.sight.gradients.flow import gradient_flow

BATCH, HIDDEN, STEPS = 32, 256, 100
HORIZON_HIDDEN, HORIZON_WINDOW = 64, 200
WRONG = 1e-3  # of the largest element; gradients of scalars are the least accurate, since their terms cancel
SLOW = 0.6  # share of the LSTM's FLOP/s below which a cell is listed at the end
DOCS = Path(__file__).parent.parent / "docs"


def ready(case: Case, engine: str) -> Ready:
    """Prepare a case's training step on an engine."""
    arguments = Arguments.of(case)
    layer = Recurrent(case.definition, HIDDEN, HIDDEN, engine=engine)
    return ready_module(filled(layer, list(arguments.parameters.values())), case, arguments)


def speed(name: str, seconds: float) -> dict[str, Any]:
    """Return a cell's median time per training step, and its ratios to its peers' times in the same rounds."""
    case, lstm = (Case(TRAINING, cell, BATCH, HIDDEN, STEPS) for cell in (name, "lstm"))
    entries = [ready(case, "native"), ready(lstm, "native"), ready(case, "reference")]
    found, wanted = (entry.results(entry.call()) for entry in (entries[0], entries[2]) if entry.results)
    off = error(found, wanted)
    if not off <= WRONG:
        print(f"  {name}: results differ by {off:.1e} of the largest element")
    rounds = in_turn([turn_of(entry) for entry in entries], seconds, quiet(torch.get_num_threads()))
    ours, lstms, loops = zip(*rounds.times, strict=True)
    ratio = median(b / a for a, b in zip(ours, lstms, strict=True))
    return {
        "seconds": median(ours),
        "flops": case.flops,
        "steps_of_lstm": ratio,
        "flops_of_lstm": ratio * case.flops / lstm.flops,
        "loop": median(b / a for a, b in zip(ours, loops, strict=True)),
    }


def horizon(name: str) -> str:
    """Return the number of steps after which 1% of an untrained cell's gradient remains."""
    torch.manual_seed(0)
    layer = Recurrent(name, HORIZON_HIDDEN, HORIZON_HIDDEN)
    found = gradient_flow(layer, torch.randn(HORIZON_WINDOW + 50, 8, HORIZON_HIDDEN), window=HORIZON_WINDOW)
    reach = found.horizons["layer0"]
    if reach.lag is not None:
        return str(reach.lag)
    return "grows" if reach.grows else f"> {HORIZON_WINDOW}"


def main() -> None:
    """Measure the cells and write the requested files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", default=cells.names(), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per cell")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the figures and the page of all cells")
    parser.add_argument("--page", action="store_true", help="write the page from saved figures, without measuring")
    given = parser.parse_args()
    file = DOCS / "cells.json"
    measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not given.page:
        settings = {"batch": BATCH, "hidden": HIDDEN, "steps": STEPS, "horizon_hidden": HORIZON_HIDDEN}
        settings |= {"machine": str(Machine.this()), "threads": given.threads}
        known = measured.get("cells", {})
        of_one: dict[str, Any] = {}
        if known and set(given.cells) < set(cells.names()):
            if given.threads != measured["threads"]:
                parser.error(f"the saved figures are of {measured['threads']} threads: pass --threads, or all cells")
            of_one = {"machine": settings["machine"]}
            settings = {name: value for name, value in measured.items() if name != "cells"}
        with processors(given.threads), torch_threads(given.threads):
            for name in given.cells:
                known[name] = own = speed(name, given.seconds) | {"horizon": horizon(name)} | of_one
                print(
                    f"{name:20} {own['seconds'] * 1e3:8.2f} ms  of the LSTM: steps/s {own['steps_of_lstm']:6.0%}, "
                    f"FLOP/s {own['flops_of_lstm']:5.0%}; {own['loop']:5.1f} times as fast as a torch loop; "
                    f"horizon {own['horizon']}",
                    flush=True,
                )
        measured = settings | {"cells": {name: known[name] for name in cells.names() if name in known}}
        slow = [f"{name} {own['flops_of_lstm']:.0%}" for name, own in known.items() if own["flops_of_lstm"] < SLOW]
        print(f"below {SLOW:.0%} of the LSTM's FLOP/s: {', '.join(slow) or 'none'}")
    if given.write:
        file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    if given.write or given.page:
        (DOCS / "cells.md").write_text(page(measured), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Estimate the largest possible speedup of a cell over its peers, from the results of `throughtime bench --out DIR`.

    python benchmarks/bounds.py DIR/bench.json --cell lstm

Where the fastest peer already reaches a large share of the processor's peak FLOP/s, little speedup is possible. The
estimate is the geometric mean of the speedups over all shapes. It assumes that throughtime reaches 100% (or 90%) of the
peak in the shapes where a peer is close to it, and uses the measured speedup in all other shapes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

OURS = "throughtime"
MODES = ("forward", "training")
NEAR_PEAK = 0.4  # share of the peak above which a peer leaves little room


class Shape(NamedTuple):
    """A shape's speedup over the fastest peer, and the share of the processor's peak that this peer reaches."""

    ratio: float
    peers_share: float


def shapes(cases: list[dict[str, Any]], mode: str, cell: str) -> Iterator[Shape]:
    """Yield the measurements of a cell for each shape."""
    for case in cases:
        if (case["mode"], case["cell"]) != (mode, cell):
            continue
        times = {time["contestant"]: time for time in case["times"]}
        ratio = min(time["ratio"] for name, time in times.items() if not name.startswith(OURS))
        share = case["flops"] / times[OURS]["seconds"] / case["peak"]
        yield Shape(ratio, share / ratio)


def main() -> None:
    """Print the estimates for both modes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, metavar="bench.json")
    parser.add_argument("--cell", default="lstm")
    given = parser.parse_args()
    try:
        cases = json.loads(given.bench.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{given.bench} was not written by `throughtime bench --out`: {error}") from None
    for mode in MODES:
        found = list(shapes(cases, mode, given.cell))
        if not found:
            raise SystemExit(f"{given.bench} has no case for {mode}/{given.cell}")
        near = sum(shape.peers_share > NEAR_PEAK for shape in found)
        print(
            f"{mode}: {geometric_mean(shape.ratio for shape in found):.2f} times as fast as the fastest peer; "
            f"in {near} of {len(found)} shapes the peer exceeds {NEAR_PEAK:.0%} of the peak"
        )
        for share in (1.0, 0.9):
            best = (share / s.peers_share if s.peers_share > NEAR_PEAK else s.ratio for s in found)
            print(f"  at {share:.0%} of the peak in these shapes: {geometric_mean(best):.2f} times as fast")


if __name__ == "__main__":
    main()

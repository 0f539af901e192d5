"""Tells how many times as fast as its peers a cell could be at most, from a run of `throughtime bench --out DIR`.

    python benchmarks/bounds.py DIR/bench.json --cell lstm

Where the faster peer already takes much of what the processor can multiply and add, there is little left to be quicker
by. The mean over all shapes is worked out as if ours took all of the peak in those shapes, or nearly all, and what it
took in the others.
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
MUCH = 0.4  # of the peak, from which on a peer leaves little


class Shape(NamedTuple):
    """How many times as fast as the faster peer ours is, and the peer's share of the peak."""

    ratio: float
    peers_share: float


def shapes(cases: list[dict[str, Any]], mode: str, cell: str) -> Iterator[Shape]:
    """What was measured of each shape."""
    for case in cases:
        if (case["mode"], case["cell"]) != (mode, cell):
            continue
        times = {time["contestant"]: time for time in case["times"]}
        ratio = min(time["ratio"] for name, time in times.items() if not name.startswith(OURS))
        share = case["flops"] / times[OURS]["seconds"] / case["peak"]
        yield Shape(ratio, share / ratio)


def main() -> None:
    """Prints both modes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, metavar="bench.json")
    parser.add_argument("--cell", default="lstm")
    given = parser.parse_args()
    try:
        cases = json.loads(given.bench.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{given.bench} is no file that `throughtime bench --out` has written: {error}") from None
    for mode in MODES:
        found = list(shapes(cases, mode, given.cell))
        if not found:
            raise SystemExit(f"{given.bench} has no case of {mode}/{given.cell}")
        near = sum(shape.peers_share > MUCH for shape in found)
        print(
            f"{mode}: {geometric_mean(shape.ratio for shape in found):.2f} times its fastest peer; "
            f"in {near} of {len(found)} shapes that takes more than {MUCH:.0%} of the peak"
        )
        for share in (1.0, 0.9):
            best = (share / s.peers_share if s.peers_share > MUCH else s.ratio for s in found)
            print(f"  with {share:.0%} of the peak in these: {geometric_mean(best):.2f} times")


if __name__ == "__main__":
    main()

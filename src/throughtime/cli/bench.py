"""`throughtime bench`."""

from __future__ import annotations

import json
import os
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from throughtime.cli.errors import REFUSED, tell
from throughtime.cli.output import show_json, starting
from throughtime.errors import UserError

if TYPE_CHECKING:
    from throughtime.bench.cases import Case

PAGE, TABLES, JSON = "bench.md", "tables.md", "bench.json"


def bench(
    cases: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Run only these cases, such as training, training/gru or '*/lstm/b32/*'. Repeatable.",
        ),
    ] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Measure a few shapes in under a minute.")] = False,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Minimum time per case, in seconds.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads per contestant. Default: one per processor."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Write {PAGE}, {TABLES} and {JSON} to this directory instead of printing."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of Markdown.")] = False,
) -> None:
    """Compare with torch, ONNX Runtime and JAX where they are installed (pip install '.[bench]' in a checkout).

    All contestants compute the same case in turn, and their results are checked against torch's. Run it on an idle
    machine.
    """
    started = time.perf_counter()
    seconds = _SECONDS[quick] if seconds is None else seconds
    processors = len(os.sched_getaffinity(0))
    threads = processors if threads is None else threads
    if not 1 <= threads <= processors:
        raise UserError(f"--threads must be between 1 and {processors} (the available processors), got {threads}")
    if not seconds > 0:
        raise UserError(f"--seconds must be positive, got {seconds:g}")
    with starting():
        from throughtime.bench.cases import CASES, QUICK, select
        from throughtime.bench.machine import Machine
        from throughtime.bench.measuring import absent, measure_all, present
        from throughtime.bench.report import Report
        from throughtime.training.display import Display

    chosen = select(QUICK if quick else CASES, cases or [])
    machine = Machine.this()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # before the long run, so that a bad path fails at once
    numbers = count()
    with Display(shown=True) as display:

        def begin(case: Case) -> None:
            share = next(numbers) / len(chosen)
            if quick:  # the time limit may end the benchmark before the last case
                share = max(share, (time.perf_counter() - started) / _QUICK_LIMIT)
            display.progress("measuring", min(_FINE - 1, round(_FINE * share)), _FINE, case.name)

        until = started + _QUICK_LIMIT if quick else None
        measurements = measure_all(chosen, seconds=seconds, threads=threads, begin=begin, until=until)
    done = {m.case for m in measurements}
    unmeasured = [case.name for case in chosen if case not in done and present(case)]
    report = Report(machine, threads, seconds, measurements, absent(chosen), unmeasured)
    if out is not None:
        (out / PAGE).write_text(report.page(), encoding="utf-8")
        (out / TABLES).write_text(report.tables(), encoding="utf-8")
        (out / JSON).write_text(json.dumps(report.data(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if as_json:
        show_json(report.data())
    elif out is None:
        print(report.page(), end="")
    if report.wrong:
        tell(f"results differ from torch's: {', '.join(report.wrong)}")
        raise typer.Exit(REFUSED)


_FINE = 1000  # the resolution of the progress bar
_SECONDS = {False: 1.0, True: 0.5}
_QUICK_LIMIT = 45.0  # seconds after which a quick benchmark starts no further case, so that it ends within a minute

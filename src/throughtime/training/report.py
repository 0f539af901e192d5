"""The short report that training ends with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from throughtime.data import Corpus, Part
from throughtime.levels import UNITS
from throughtime.runs import Run
from throughtime.training.again import untrained
from throughtime.training.sampling import TEMPERATURE, first_samples

if TYPE_CHECKING:
    from throughtime.sight.report.data import ReportData

_log = logging.getLogger("throughtime")

_SYMBOLS = 300  # of the held-out text that gradients are followed through
_LOSSES = 40


def write_report(run: Run, corpus: Corpus) -> Path | None:
    """Write a page on how a run learnt into its directory.

    Args:
        run: the run, finished.
        corpus: its data.

    Returns:
        The page's path; None if it could not be written, which is said and no more: the run is whole without it.
    """
    try:
        from throughtime.sight.report.render import write

        write(short_report(run, corpus.valid), run.report)
    except (Exception, KeyboardInterrupt) as error:
        _log.warning("the report was not written: %s", str(error) or type(error).__name__)
        return None
    return run.report


def short_report(run: Run, held_out: Part) -> ReportData:
    """How a run learnt: its learning curves, the reach of its gradient before and after, and samples."""
    from throughtime.sight.report.collect import facts, flows_of, training_curves
    from throughtime.sight.report.data import ReportData, Sample

    ids = torch.from_numpy(np.asarray(held_out.ids[:_SYMBOLS]).astype(np.int64))
    symbol, result = UNITS[run.vocabulary.level], run.result
    figures = result["valid"] if result else None
    return ReportData(
        title=f"How {run.path.resolve().name} learnt",
        facts=[
            *facts(run),
            *([f"{figures['loss']:.3f} nats per {symbol} of what was held out"] if figures else []),
            f"a look inside: throughtime inspect {run.path}",
        ],
        symbol=symbol,
        flows=[
            *flows_of(untrained(run), ids, "before training", _LOSSES),
            *flows_of(run.model(), ids, "after training", _LOSSES),
        ],
        samples=[
            Sample(f"Sample {number}, at temperature {TEMPERATURE}", text)
            for number, text in enumerate(first_samples(run), 1)
        ],
        **training_curves(run),
    )

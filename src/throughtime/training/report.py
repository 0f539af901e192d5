"""The short report at the end of training."""

from __future__ import annotations

import itertools
import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.paths import display_path
from throughtime.runs import Run
from throughtime.spelling import command
from throughtime.tasks.base import Data
from throughtime.tasks.generative import Generative
from throughtime.training.reloading import untrained

if TYPE_CHECKING:
    from throughtime.sight.report.data import ReportData, Sample

_log = logging.getLogger("throughtime")


def write_report(run: Run, data: Data[Any]) -> Path | None:
    """Write a report on a run's training to its directory.

    Args:
        run: the finished run.
        data: its data.

    Returns:
        The path of the report; None if it can't be written, which is only logged because the run is complete anyway.
    """
    try:
        from throughtime.sight.report.render import write

        write(short_report(run, data), run.report)
    except (Exception, KeyboardInterrupt) as error:
        _log.warning("could not write the report: %s", str(error) or type(error).__name__)
        return None
    return run.report


def short_report(run: Run, data: Data[Any]) -> ReportData:
    """Collect the report: learning curves, and the task's view of the network before and after training."""
    from throughtime.sight.gradients.sampling import followed
    from throughtime.sight.report.collect import facts, flows_before_and_after, training_curves
    from throughtime.sight.report.data import ReportData

    result, task = run.result, run.task
    headline = run.headline()
    part = headline.part
    held_out = f"the {'test' if part == 'test' else 'validation'} data"
    share = result["measured"][part] if result else 1
    measured_on = f"{share:.0%} of {held_out}" if share < 1 else held_out
    figures = {name: value for name, value in result[part].items() if name != "baselines"} if result else {}
    rows = dict(task.figure_rows(figures)) if figures else {}
    model = run.model()
    flows = []
    if task.shows_reach:
        flows = flows_before_and_after(model, untrained(run), followed(task, data.valid), run.plan.losses)
    pictures = task.pictures(model, data, run.plan.evaluate_terms)
    return ReportData(
        title=f"How {run.path.resolve().name} learned",
        facts=[
            *facts(run),
            *([f"{headline.label} {rows[headline.label]} on {measured_on}"] if headline.label in rows else []),
            f"to look inside: {command(f'inspect {shlex.quote(display_path(run.path))}')}",
        ],
        step=task.unit,
        loss=task.loss_in_words,
        # Forecasts, sounds and rolls are chosen from all held-out data.
        results_on=measured_on if "confusion" in pictures else held_out,
        flows=flows,
        samples=_samples(run),
        **pictures,
        **training_curves(run),
    )


def _samples(run: Run) -> list[Sample]:
    from throughtime.sight.report.data import Sample

    task, result = run.task, run.result
    if result is None or not isinstance(task, Generative):
        return []
    titles = (f"Sample {k} at temperature {task.first_temperature:g}" for k in itertools.count(1))
    return [Sample(title, text) for title, text in zip(titles, result["samples"], strict=False)]

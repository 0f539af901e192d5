"""The evaluation at the end of training."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from throughtime.paths import display_path
from throughtime.runs import Run
from throughtime.spelling import command, counted, figure, option
from throughtime.tasks.base import Data, Figures, Task
from throughtime.tasks.generative import Generative
from throughtime.tasks.streams import StreamTask
from throughtime.training.callbacks import BestWeights
from throughtime.training.display import Display
from throughtime.training.evaluation import measured
from throughtime.training.fitting import Fit

_log = logging.getLogger("throughtime")
_OVERFITTING = 0.5  # if the best weights came before this fraction of the steps, the network overfits
_ALL = 0.995  # a larger fraction of the data is measured whole; parallel streams that read more leave out few terms


def measure(run: Run, data: Data[Any], training: Fit, best: BestWeights, display: Display) -> None:
    """Evaluate the best weights on held-out data and save the result, which finishes the run."""
    model, task = run.model().to(run.device), run.task
    calibration = task.calibrate(model, data, run.plan.evaluate_terms)
    if calibration:
        model.task = replace(run.description, calibration=calibration)
        run.save_description(model.task)
        run.save_weights(model)
    result: dict[str, Any] = {
        "run": str(run.path),
        "steps": training.step,
        "epochs": training.step / run.plan.epoch_steps,
        "seconds": training.elapsed,
        "best_step": best.step,
        "measured": {},
    }
    for what, part in (("valid", data.valid), ("test", data.test)):
        result[what] = None
        if part is not None:
            every = task.reading(part).terms
            terms, streams = run.plan.evaluate_terms if run.plan.evaluate_terms < _ALL * every else every, 1
            # Parallel streams read as much as a validation during training in the same short time.
            if isinstance(task, StreamTask) and terms < min(run.plan.validate_terms, every):
                terms, streams = min(run.plan.validate_terms, every), run.plan.batch
            read = task.reading(part, streams, terms=terms).terms
            share = 1.0 if streams > 1 and read >= _ALL * every else read / every
            result["measured"][what] = share
            figures = measured(model, task, part, terms=terms, batch=streams, progress=display.progress)
            baselines = task.baseline_figures(run.description.baselines, task.subset(part, terms), data.codecs)
            result[what] = {**figures, "baselines": baselines}
            _log.info(
                "%s: %s",
                what,
                ", ".join(f"{label} {value}" for label, value in task.figure_rows(figures)[: task.baseline_rows]),
            )
            if worse := worse_than(task, figures, baselines, best.step / max(1, training.step)):
                on_part = "on the part that was measured, " if share < 1 else ""
                _log.warning("%s: %s%s", what, on_part, worse)
            if share < 1:
                _log.info("%s: measured on %s of %s", what, f"{read:,}", counted(every, task.unit))
                if part is data.reported:
                    evaluate = command(f"evaluate {shlex.quote(display_path(run.path))}")
                    _log.info("measure on all of them with: %s", evaluate)
    result["samples"] = task.first_samples(model.cpu(), data.codecs) if isinstance(task, Generative) else []
    run.save_result(result)


def worse_than(task: Task[Any], figures: Figures, baselines: Mapping[str, Figures], best_at: float = 1.0) -> str:
    """Return a warning if the network is worse than the best baseline, otherwise "".

    Args:
        task: the task.
        figures: the network's metrics.
        baselines: the metrics of each baseline, by name.
        best_at: when the best weights were reached, as a fraction of the steps; if early, more steps don't help.
    """
    metric, larger = task.compared_metric
    theirs = {name: each[metric] for name, each in baselines.items() if metric in each}
    if not theirs or metric not in figures:
        return ""
    best = (max if larger else min)(theirs, key=theirs.__getitem__)
    ours, guess = figures[metric], theirs[best]
    # Equal figures may differ in their last digits, because the network's are sums in single precision.
    if math.isclose(ours, guess, rel_tol=1e-6) or (ours > guess if larger else ours < guess):
        return ""
    advice = f"Train longer, or try a lower {option('lr')} or another size"
    if best_at < _OVERFITTING:
        advice = (
            f"Its best weights came after {best_at:.0%} of the steps, so training longer won't help: try more "
            f"{option('dropout')}, a lower {option('lr')} or a smaller {option('hidden_size')}"
        )
    return (
        f"the network is worse than the baseline '{best}' ({task.label(metric)} {figure(guess)}, the network "
        f"{figure(ours)}). {advice}"
    )

"""Compare cells on a task with equal parameter counts, equal budgets and several seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from throughtime import cells as named_cells
from throughtime import tasks
from throughtime.errors import CellError, Interrupted, UserError
from throughtime.files import replacing
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.runs import Run
from throughtime.spelling import counted, duration, option, setting
from throughtime.stored import CONFIG
from throughtime.studies.blocks import block_figures, compared_figure
from throughtime.studies.folder import folder_of
from throughtime.studies.horizons import horizon_of
from throughtime.studies.jobs import finish
from throughtime.studies.result import StudyResult
from throughtime.studies.runs import open_run
from throughtime.studies.statistics import MIN_SEEDS, differences, spread
from throughtime.studies.widths import equal_widths, parameter_count
from throughtime.tasks.base import Data, Task
from throughtime.training.config import ENDS, NetworkOptions, TrainConfig
from throughtime.training.display import Display
from throughtime.training.options import Paths, TrainOptions
from throughtime.training.reloading import untrained

CELLS = ("rnn", "lstm", "gru")
RESULT, PAGE = "comparison.json", "comparison.html"


@dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        cell: the cell's name.
        seed: the seed for the weights and the order of the data.
        path: the run's directory.
        config: the run's options.
    """

    cell: str
    seed: int
    path: Path
    config: TrainConfig


def compare(
    data: Paths | None = None,
    *,
    cells: Sequence[str | Cell] = CELLS,
    task: str | type[Task[Any]] | None = None,
    params: int | None = None,
    seeds: int = 3,
    jobs: int = 1,
    progress: bool = True,
    **options: Unpack[TrainOptions],
) -> StudyResult:
    """Compare cells on the same task and data, with equal budgets.

    Every run is an ordinary run directory below `out`, which also receives `comparison.json` and `comparison.html`. To
    resume an interrupted comparison, call the function again with the same `out`: finished runs are kept and unfinished
    ones continue from their last checkpoints. Add cells and seeds in the same way.

    Args:
        data: see `throughtime.train`.
        cells: names of built-in cells, or cells of your own.
        task: the task; inferred from the data by default.
        params: the number of parameters per network, including embedding and head; the hidden size is chosen to match.
            Defaults to that of an LSTM with `hidden_size` units.
        seeds: the number of runs per cell, with consecutive seeds from the option `seed`.
        jobs: the number of runs to train in parallel, each in its own process.
        progress: whether to report progress on standard error.
        **options: options of `throughtime.train`, such as `steps` or `minutes` (per run) and `out`.

    Returns:
        A result with `figure` (the metric by which cells are compared), `maximize`, `part` (the data it was measured
        on), `parameters` (the target number), `cells` (one dictionary per cell with the metric's spread over seeds, the
        size, the speed and the horizon before and after training), `baselines`, `differences` (see
        `studies.statistics.Difference`; empty below 5 seeds), `notes`, `folder` and `page`.

    Raises:
        UserError: if an option is invalid, a cell is unknown, or `out` has runs with other options.
        Interrupted: on Ctrl-C or SIGTERM; the comparison can be resumed.
    """
    found = resolved(cells)
    for name, value in (("seeds", seeds), ("jobs", jobs), ("params", 1 if params is None else params)):
        if value < 1:
            raise UserError(f"{option(name)} must be at least 1, got {value}")
    if options.get("cell") is not None:
        raise UserError(f"{option('cell')} is not an option of a comparison; use {option('cells')}")
    given: dict[str, Any] = {"data": data, **{name: value for name, value in options.items() if name != "out"}}
    kind, why = tasks.chosen(task, given)
    config = TrainConfig.of(kind, why=why, **given).anywhere()
    _require_possible(config, jobs)
    folder = folder_of(options.get("out"), config, ("compare", "comparison"), ("runs",))
    instance = kind(config.task)
    with Display(progress) as display:
        read = instance.prepare(display.progress)
        networks, wanted = _networks(instance, read, config, found, params)
        trials = [
            Trial(name, seed, folder / "runs" / f"{name}-seed{seed}", _configured(config, networks[name], seed))
            for seed in range(config.training.seed, config.training.seed + seeds)
            for name in found
        ]
        folder.mkdir(parents=True, exist_ok=True)
        each = "" if config.training.minutes is None else f" of {duration(60 * config.training.minutes)}"
        display.console.print(
            f"comparison of {', '.join(found)} in {display_path(folder)}: {counted(len(trials), 'run')}{each}",
            markup=False,
        )
        failed = _train(trials, instance, read, found, jobs, display)
        part = "valid" if read.test is None else "test"
        rows = [_measured(trial, instance, read, part, display) for trial in trials if trial.path not in failed]
    result = _result(instance, read, part, folder, trials, rows, failed, networks, wanted)
    return _written(result, trials, folder)


def resolved(cells: Sequence[str | Cell]) -> dict[str, Cell]:
    """Look up cells and return them by name.

    Raises:
        CellError: if `cells` is empty, names unknown cells (one message lists them all), or repeats a name.
    """
    if isinstance(cells, str):
        cells = cells.split(",")
    found: dict[str, Cell] = {}
    wrong: list[str] = []
    for each in cells:
        try:
            cell = named_cells.get(each.strip() if isinstance(each, str) else each)
        except CellError as error:
            wrong.append(str(error))
            continue
        if found.setdefault(cell.name, cell) is not cell:
            wrong.append(f"two cells are named {cell.name!r}; rename one of them.")
    if wrong:
        raise CellError("\n".join(wrong))
    if not found:
        raise CellError(f"{option('cells')} is empty; pass the names of the cells to compare")
    return found


def _require_possible(config: TrainConfig, jobs: int) -> None:
    training = config.training
    if jobs > 1 and training.minutes is not None:
        raise UserError(
            f"{setting('jobs', jobs)} can't be used with {option('minutes')}: runs that share the machine would do "
            f"less in the same time. Use {option('steps')} or {option('epochs')}, or remove {option('jobs')}"
        )
    if training.processes > 1:
        raise UserError(
            f"{option('devices')} can't be used in a comparison, which trains each run in one process; "
            f"use {option('jobs')}"
        )
    if config.network.init_from is not None:
        raise UserError(f"{option('init_from')} can't be used in a comparison: its weights belong to one cell")
    if jobs > 1 and not _is_built_in(config):
        raise UserError(
            f"{setting('jobs', jobs)}: the task {config.task.task} is defined in your own Python code, which other "
            f"processes don't import; remove {option('jobs')}"
        )


def _is_built_in(config: TrainConfig) -> bool:
    return tasks.get(config.task.task).__module__.startswith("throughtime.")


def _networks(
    task: Task[Any], data: Data[Any], config: TrainConfig, cells: Mapping[str, Cell], params: int | None
) -> tuple[dict[str, NetworkOptions], int]:
    """Return each cell's network options and the approximate number of parameters."""
    from throughtime.nn.initialization import forgets

    interface = task.interface(data.codecs)
    if params is None:
        reference = config.network.model_copy(update={"forget_bias": None})
        params = parameter_count(reference, named_cells.get("lstm"), interface)
    networks = {}
    for name, cell in cells.items():
        update: dict[str, Any] = {"cell": name}
        if config.network.forget_bias is not None and not forgets(cell.program(4, 4)):
            update["forget_bias"] = None  # the option applies only to cells with a forget gate
        networks[name] = config.network.model_copy(update=update)
    return equal_widths(networks, cells, interface, params), params


def _configured(config: TrainConfig, network: NetworkOptions, seed: int) -> TrainConfig:
    training = config.training.model_copy(update={"seed": seed})
    return config.model_copy(update={"network": network, "training": training})


def _train(
    trials: Sequence[Trial],
    task: Task[Any],
    data: Data[Any],
    cells: Mapping[str, Cell],
    jobs: int,
    display: Display,
) -> dict[Path, str]:
    """Train all runs to completion and return those that diverged, with the reasons."""
    ends = _Ends(len(trials), display)
    waiting = []
    for trial in trials:  # reject runs with other options before training starts
        if (trial.path / CONFIG).is_file() and open_run(
            trial.path, task, data, trial.config, cells[trial.cell]
        ).finished:
            ends(trial, None)
        else:
            waiting.append(trial)
    try:
        finish(waiting, lambda trial: open_run(trial.path, task, data, trial.config, cells[trial.cell]), jobs, ends)
    except Interrupted:
        folder = display_path(trials[0].path.parent.parent)
        raise Interrupted(
            f"comparison stopped after {ends.count} of {len(trials)} runs. Resume with the same command and "
            f"{setting('out', folder)}"
        ) from None
    return ends.failed


class _Ends:
    """Report each run that ends, and count them.

    Attributes:
        count: the number of runs that ended.
        failed: the reason for each run that diverged, by its directory.
    """

    def __init__(self, total: int, display: Display) -> None:
        self.count = 0
        self.failed: dict[Path, str] = {}
        self._total, self._display = total, display
        self._show()

    def __call__(self, trial: Trial, error: str | None) -> None:
        self.count += 1
        if error is not None:
            self.failed[trial.path] = error
        state = f"failed: {error}" if error else "done"
        number = f"{self.count} of {self._total}"
        self._display.console.print(f"{trial.cell}, seed {trial.seed} ({number}): {state}", markup=False)
        self._show()

    def _show(self) -> None:
        self._display.progress(f"training {self._total} runs", self.count, self._total)


def _measured(trial: Trial, task: Task[Any], data: Data[Any], part: str, display: Display) -> dict[str, Any]:
    """Measure a finished run: block metrics, size, speed and horizons; results are cached next to the runs."""
    kept = trial.path.parent.parent / "measured" / f"{trial.path.name}.json"
    run = Run.open(trial.path)
    result = run.result
    assert result is not None
    if kept.is_file() and kept.stat().st_mtime >= (trial.path / "result.json").stat().st_mtime:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    display.progress("measuring", 0, 1, trial.path.name)
    model = run.model().to(run.device)
    values, weights = block_figures(model, task, getattr(data, part))
    found = {
        "cell": trial.cell,
        "seed": trial.seed,
        "run": str(trial.path),
        "blocks": values.tolist(),
        "weights": weights.tolist(),
        "value": float((values * weights).sum() / weights.sum()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": result["steps"],
        "seconds": result["seconds"],
        "horizon_before": horizon_of(untrained(run), task, data.valid, run.plan.losses),
        "horizon": horizon_of(model, task, data.valid, run.plan.losses),
    }
    with replacing(kept) as file:
        file.write(json.dumps(found).encode())
    display.progress("measuring", 1, 1)
    return found


def _result(
    task: Task[Any],
    data: Data[Any],
    part: str,
    folder: Path,
    trials: Sequence[Trial],
    rows: Sequence[Mapping[str, Any]],
    failed: Mapping[Path, str],
    networks: Mapping[str, NetworkOptions],
    wanted: int,
) -> dict[str, Any]:
    figure, maximize = compared_figure(task, getattr(data, part))
    notes = [f"{path.name}: {why}" for path, why in failed.items()]
    by_cell = {name: [row for row in rows if row["cell"] == name] for name in networks}
    seeds = len({trial.seed for trial in trials})
    whole = {name for name in networks if len(by_cell[name]) == seeds}
    cells = [_summary(name, by_cell[name], networks[name].hidden_size) for name in networks if by_cell[name]]
    for each in cells:
        off = each["parameters"] / wanted - 1
        if abs(off) > _SIZE_TOLERANCE:
            notes.append(f"{each['cell']} differs by {off:+.0%} from the target of {wanted:,} parameters.")
    cells.sort(key=lambda each: each["value"]["mean"], reverse=maximize)
    compared = {each["cell"]: np.array([r["blocks"] for r in by_cell[each["cell"]]]) for each in cells
                if each["cell"] in whole}  # fmt: skip
    found = differences(compared, np.array(rows[0]["weights"])) if rows else []
    if seeds < MIN_SEEDS:
        notes.append(f"Differences are tested with {MIN_SEEDS} or more seeds; this comparison has {seeds}.")
    return {
        "task": task.name,
        "data": data.name,
        "figure": figure,
        "label": task.label(figure),
        "unit": task.loss_in_words if figure == "loss" else "",
        "maximize": maximize,
        "part": part,
        "parameters": wanted,
        "seeds": seeds,
        "budget": {name: getattr(trials[0].config.training, name) for name in ENDS},
        "cells": cells,
        "baselines": _baselines(rows, part, figure),
        "differences": [each.data for each in found],
        "notes": notes,
        "folder": str(folder),
        "page": str(folder / PAGE),
    }


_SIZE_TOLERANCE = 0.05


def _summary(name: str, rows: Sequence[Mapping[str, Any]], width: int) -> dict[str, Any]:
    middle = {key: _median(row[key] for row in rows) for key in ("horizon_before", "horizon")}
    return {
        "cell": name,
        "hidden_size": width,
        "parameters": rows[0]["parameters"],
        "value": spread([row["value"] for row in rows]),
        "values": [row["value"] for row in rows],
        "steps": round(float(np.mean([row["steps"] for row in rows]))),
        "seconds": float(np.mean([row["seconds"] for row in rows])),
        "steps_per_second": sum(row["steps"] for row in rows) / max(sum(row["seconds"] for row in rows), 1e-9),
        **middle,
        "runs": [row["run"] for row in rows],
    }


def _median(values: Any) -> float | None:
    """Return the median, infinite for a horizon beyond the measured lags; None if there are no values."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _baselines(rows: Sequence[Mapping[str, Any]], part: str, figure: str) -> dict[str, float]:
    if not rows:
        return {}
    result = Run.open(rows[0]["run"]).result or {}
    baselines = (result.get(part) or {}).get("baselines", {})
    return {name: figures[figure] for name, figures in baselines.items() if figure in figures}


def _written(result: Mapping[str, Any], trials: Sequence[Trial], folder: Path) -> StudyResult:
    from throughtime.studies.comparison_page import claims, comparison_page, head, rows

    with replacing(folder / RESULT) as file:
        file.write((json.dumps(_finite(result), indent=2) + "\n").encode())
    with replacing(folder / PAGE) as file:
        file.write(comparison_page(result).encode("utf-8", "replace"))
    return StudyResult(result, head(result), rows(result), [*claims(result), *result["notes"]])


def _finite(value: Any) -> Any:
    """Replace infinities and NaN, which JSON can't represent, by None."""
    match value:
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value

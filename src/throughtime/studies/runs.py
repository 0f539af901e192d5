"""Manage a study's runs: start new ones, keep finished ones, resume the others."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from throughtime.errors import RunError
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.runs import Run
from throughtime.spelling import option, setting
from throughtime.stored import CONFIG
from throughtime.tasks.base import Data, Task
from throughtime.training.building import build_model, programs_of
from throughtime.training.config import TrainConfig
from throughtime.training.planning import make_plan
from throughtime.training.session import settings_kept


def open_run(path: Path, task: Task[Any], data: Data[Any], config: TrainConfig, cell: Cell) -> Run:
    """Open a directory's run if it has the same options, or start a new one, ready to be resumed.

    Args:
        path: the run's directory.
        task: the task.
        data: the task's data.
        config: the options.
        cell: the cell.

    Raises:
        RunError: if the directory has a run with other options or on other data.
    """
    if (path / CONFIG).is_file():
        run = Run.open(path)
        _require_same(run, data, config, cell)
        return run
    if path.exists():  # the process was killed before the directory was complete
        shutil.rmtree(path)
    interface = task.interface(data.codecs)
    programs = programs_of(config.network, cell, interface)
    started = time.monotonic()
    with settings_kept(config.training):
        torch.manual_seed(config.training.seed)
        model = build_model(config.network, programs, interface, config.training.engine)
        plan = make_plan(task, data, config, model, started)
    return Run.create(path, config, data, task.describe(data.codecs, task.baselines(data)), programs, plan)


def _require_same(run: Run, data: Data[Any], config: TrainConfig, cell: Cell) -> None:
    where, other = display_path(run.path), f"choose another directory with {option('out')}"
    before, now = (each.model_dump(mode="json") for each in (run.config, config))
    for name, value in now.items():
        if (earlier := before.get(name)) != value:
            raise RunError(f"{where} was trained with {setting(name, earlier)}, not {value}; {other}")
    if run.record.data.digest != data.digest:
        raise RunError(f"{where} was trained on other data; {other}")
    interface = run.task.interface(data.codecs)
    if run.programs != tuple(programs_of(config.network, cell, interface)):
        raise RunError(f"{where} was trained with other equations of cell {cell.name}; {other}")

"""Training a run from its beginning or its last checkpoint to its end."""

from __future__ import annotations

import logging
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
import torch

from throughtime import cells
from throughtime.data import Corpus, Streams, prepare_text
from throughtime.errors import DataError, Interrupted
from throughtime.program.cell import Cell
from throughtime.runs import Run, require_new
from throughtime.training.again import corpus_of
from throughtime.training.building import build_model, device_for, programs_of
from throughtime.training.config import TrainConfig
from throughtime.training.display import Display, TrainingBar
from throughtime.training.evaluation import figures_of
from throughtime.training.keeper import Keeper
from throughtime.training.module import TrainingModule
from throughtime.training.planning import make_plan, validation_streams
from throughtime.training.processes import rank
from throughtime.training.report import write_report
from throughtime.training.session import log_file, session
from throughtime.training.trainer import joinable, make_trainer, path_from_first, require_possible

_log = logging.getLogger("throughtime")

_WEIGHTS = {"64": torch.float64, "bf16": torch.bfloat16}


def train(*, cell: str | Cell = "lstm", progress: bool = True, **fields: Any) -> Run:
    """Train a recurrent language model on text, and measure it on what was held out.

    Args:
        cell: a named cell, or one of your own.
        progress: whether to show bars and a line for each validation, on standard error.
        **fields: the other fields of `throughtime.training.TrainConfig`.

    Returns:
        The run, finished.

    Raises:
        TrainingError: an option means nothing, or training can't go on.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
        DataError: the text can't be read or is too short.
        RunError: the directory for the run is there already.
    """
    started = time.monotonic()
    definition = cells.get(cell)
    config = TrainConfig.of(cell=definition.name, **fields).anywhere()
    require_possible(config)
    begun: list[tuple[Run, Corpus]] = []

    def begin() -> Path:
        begun.append(_begin(config, definition, started, display))
        return begun[0][0].path

    with session(config, progress) as display:
        path = path_from_first(config, begin)
        run, corpus = begun[0] if begun else _opened(path, display)
        return _to_the_end(run, corpus, display)


def resume(path: str | Path, *, progress: bool = True) -> Run:
    """Go on with a run from its last checkpoint; a finished run is given back as it is.

    Args:
        path: the run's directory.
        progress: whether to show bars and a line for each validation, on standard error.

    Returns:
        The run, finished.

    Raises:
        RunError: the run can't be read, or its data are not what they were.
        TrainingError, Interrupted, DataError: see `train`.
    """
    run = Run.open(path)
    if run.finished:
        return run
    require_possible(run.config)
    with session(run.config, progress) as display:
        run, corpus = _opened(path_from_first(run.config, lambda: run.path), display)
        return _to_the_end(run, corpus, display)


def _begin(config: TrainConfig, cell: Cell, started: float, display: Display) -> tuple[Run, Corpus]:
    """Read the data, settle the plan and write the run's directory."""
    if config.out is not None:
        require_new(Path(config.out))
    programs = programs_of(config, cell)
    corpus = _corpus(config, display)
    torch.manual_seed(config.seed)
    plan = make_plan(config, corpus, build_model(config, programs, corpus.vocabulary.size), started)
    run = Run.create(_directory(config, corpus), config, corpus, programs, plan)
    if plan.batch < config.batch:
        _log.info("the text is short: %d streams instead of %d", plan.batch, config.batch)
    return run, corpus


def _corpus(config: TrainConfig, display: Display) -> Corpus:
    corpus = prepare_text(
        config.data,
        level=config.level,
        vocab_size=config.vocab_size,
        min_count=config.min_count,
        valid=config.valid,
        test=config.test,
        encoding_errors=config.encoding_errors,
        progress=display.progress,
    )
    for what, part in (("validation", corpus.valid), ("test", corpus.test)):
        if part is not None and part.symbols < 2:
            raise DataError(f"the text for {what} has {part.symbols} symbol: 2 or more are wanted")
    return corpus


def _opened(path: Path, display: Display) -> tuple[Run, Corpus]:
    """A run that is there already, and its data."""
    run = Run.open(path)
    return run, corpus_of(run, display.progress)


def _directory(config: TrainConfig, corpus: Corpus) -> Path:
    """Where the run is to be: as asked, or under `runs`, by time, cell and data."""
    if config.out is not None:
        return Path(config.out)
    first = config.data[0] if config.data else "pydoc"
    name = "stdin" if first == "-" else Path(first).resolve().stem
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "text"
    path = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{config.cell}-{name}"
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.removesuffix(f'-{number - 1}')}-{number}")
    return path


def _to_the_end(run: Run, corpus: Corpus, display: Display) -> Run:
    """Train the steps that are left, then measure."""
    again = f"Go on with: throughtime train --resume {run.path}"
    with log_file(run):
        _log.info("run %s", run.path)
        trainer, keeper = _fit(run, corpus, display)
        if keeper.interrupted:
            raise Interrupted(f"training was stopped at step {trainer.global_step} of {run.plan.steps}. {again}")
        if rank() == 0:
            try:
                _measure(run, corpus, trainer, keeper, display)
            except KeyboardInterrupt:
                raise Interrupted(f"all steps are done, but measuring was stopped. {again}") from None
            write_report(run, corpus)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return run


def _fit(run: Run, corpus: Corpus, display: Display) -> tuple[lightning.Trainer, Keeper]:
    config, plan, here = run.config, run.plan, rank()
    torch.manual_seed(config.seed)
    model = build_model(config, run.programs, corpus.vocabulary.size)
    # Lightning would do so too, but only after it has read a checkpoint's weights into what was there before.
    model.to(_WEIGHTS.get(config.precision, torch.float32))
    torch.manual_seed(config.seed + here)  # other dropout in each process
    module = TrainingModule(
        model, config, plan, Streams(corpus.train.ids, plan.batch, config.window, here, config.processes)
    )
    keeper = Keeper(run, validation_streams(corpus.valid, plan, config.window, here, config.processes))
    trainer = make_trainer(config, run, callbacks=[keeper, TrainingBar(display, keeper, plan.steps)])
    try:
        with joinable(run), keeper.at_work():
            trainer.fit(module, ckpt_path=run.checkpoint if run.checkpoint.exists() else None, weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one of the other
        keeper.interrupted = True
    if keeper.late:
        _log.warning("the time was up at step %d of %d: the machine became slower", trainer.global_step, plan.steps)
    return trainer, keeper


def _measure(run: Run, corpus: Corpus, trainer: lightning.Trainer, keeper: Keeper, display: Display) -> None:
    """The figures of the best weights on what was held out; with them the run is finished."""
    model = run.model().to(device_for(run.config))
    result: dict[str, Any] = {
        "run": str(run.path),
        "steps": trainer.global_step,
        "epochs": trainer.global_step / run.plan.epoch_steps,
        "seconds": keeper.elapsed,
        "best_step": keeper.best_step,
    }
    for what, part in (("valid", corpus.valid), ("test", corpus.test)):
        result[what] = None
        if part is not None:
            figures = figures_of(model, part, symbols=run.plan.evaluate_symbols, progress=display.progress)
            result[what] = figures
            _log.info(
                "%s: %.4f nats per symbol, %.4f bits per character",
                what,
                figures["loss"],
                figures["bits_per_character"],
            )
            if figures["symbols"] < part.symbols - 1:
                _log.info("that is of the first %d symbols; `throughtime evaluate` takes all", figures["symbols"])
    run.save_result(result)

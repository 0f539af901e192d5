"""Training a run from its beginning or its last checkpoint to its end."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Unpack

import lightning
import torch

from throughtime import cells
from throughtime.data import Corpus, Streams, Vocabulary, prepare_text
from throughtime.errors import DataError, Interrupted, TrainingError
from throughtime.files import DISK_FULL
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.runs import Run, remover, require_new
from throughtime.training.again import begun_model, corpus_of
from throughtime.training.building import build_model, device_for
from throughtime.training.config import TrainConfig
from throughtime.training.display import Display, TrainingBar
from throughtime.training.evaluation import figures_of
from throughtime.training.keeper import Keeper
from throughtime.training.module import Diverged, TrainingModule
from throughtime.training.options import TrainOptions
from throughtime.training.planning import later_end, make_plan, validation_streams
from throughtime.training.processes import rank
from throughtime.training.report import write_report
from throughtime.training.session import log_file, session
from throughtime.training.start import Start
from throughtime.training.trainer import joinable, make_trainer, path_from_first, require_possible

_log = logging.getLogger("throughtime")

_WEIGHTS = {"64": torch.float64, "bf16": torch.bfloat16}


def train(*, cell: str | Cell | None = None, progress: bool = True, **options: Unpack[TrainOptions]) -> Run:
    """Train a recurrent language model on text, and measure it on held-out text.

    Args:
        cell: a named cell, or one of your own; the LSTM if not given.
        progress: whether to show bars and a line for each validation, on standard error.
        **options: `data`, `hidden_size`, `num_layers`, `steps`, `out` and the other options that
            `throughtime.training.TrainOptions` lists and `throughtime.training.TrainConfig` explains.

    Returns:
        The run, finished.

    Raises:
        TrainingError: an option means nothing, or training can't go on.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
        DataError: the text can't be read or is too short.
        RunError: the directory for the run is there already.
    """
    started = time.monotonic()
    definition = None if cell is None else cells.get(cell)
    named = {} if definition is None else {"cell": definition.name}
    config = TrainConfig.of(**named, **options).anywhere()
    require_possible(config)
    start = Start.of(config, definition)
    config = start.config
    begun: list[tuple[Run, Corpus]] = []
    undo: list[Callable[[], None]] = []

    def begin() -> Path:
        begun.append(_begin(start, started, display, undo))
        return begun[0][0].path

    try:
        with session(config, progress) as display:
            path = path_from_first(config, begin)
            run, corpus = begun[0] if begun else _opened(path, display)
            return _to_the_end(run, corpus, display)
    except Interrupted:
        raise
    except BaseException:
        if undo and not (begun and begun[0][0].metrics_file.exists()):  # no step was begun
            undo[0]()
        raise


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    progress: bool = True,
) -> Run:
    """Resume a run from its last checkpoint, to its end or to a later one.

    A finished run is returned as it is, unless a later end is given. The schedule then follows the new number of
    steps.

    Args:
        path: the run's directory.
        steps: the new end of training, in steps from the run's first.
        epochs: the same in times through the data.
        minutes: the same in training time, which earlier sittings count towards; of the ends given, the first that is
            reached ends training.
        progress: whether to show bars and a line for each validation, on standard error.

    Returns:
        The run, finished.

    Raises:
        RunError: the run can't be read, or its data are not what they were.
        TrainingError, Interrupted, DataError: see `train`.
    """
    run = Run.open(path)
    later = (steps, epochs, minutes) != (None, None, None)
    if run.finished and not later:
        return run
    require_possible(run.config)
    end = later_end(run, steps=steps, epochs=epochs, minutes=minutes) if later else None

    def begin() -> Path:
        if end is not None:
            corpus_of(run, display.progress)  # refuses other data before anything is written
            run.extended(*end)
        return run.path

    with session(run.config, progress) as display:
        opened, corpus = _opened(path_from_first(run.config, begin), display)
        return _to_the_end(opened, corpus, display)


def _begin(start: Start, started: float, display: Display, undo: list[Callable[[], None]]) -> tuple[Run, Corpus]:
    """Read the data, settle the plan and write the run's directory; `undo` gets a function that removes it again."""
    config = start.config
    if config.out is not None:
        require_new(Path(config.out))
    corpus = _corpus(config, display, start.vocabulary)
    torch.manual_seed(config.seed)
    plan = make_plan(config, corpus, build_model(config, start.programs, corpus.vocabulary.size), started)
    path = _directory(config, corpus)
    undo.append(remover(path))
    run = Run.create(path, config, corpus, start.programs, plan, start.weights)
    if plan.batch < config.batch:
        _log.info("the text is short: %d streams instead of %d", plan.batch, config.batch)
    return run, corpus


def _corpus(config: TrainConfig, display: Display, vocabulary: Vocabulary | None) -> Corpus:
    corpus = prepare_text(
        config.data,
        level=config.level,
        vocab_size=config.vocab_size,
        min_count=config.min_count,
        valid=config.valid,
        test=config.test,
        encoding_errors=config.encoding_errors,
        vocabulary=vocabulary,
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


def _saved(run: Run) -> str:
    """What a run that stopped early has saved, and how to go on."""
    if not run.checkpoint.exists():
        return "no checkpoint was saved yet, so the training has to begin again"
    again = f"throughtime train --resume {shlex.quote(display_path(run.path))}"
    return f"the last checkpoint is intact, to resume the run from with: {again}"


def _to_the_end(run: Run, corpus: Corpus, display: Display) -> Run:
    """Train the steps that are left, then measure.

    Raises:
        TrainingError: the disk is full, or numbers are no longer finite; with what was saved.
    """
    try:
        return _trained(run, corpus, display)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise TrainingError(
            f"the disk is full{where}: training stopped; {_saved(run)}. Free some space first"
        ) from None
    except Diverged as error:
        if not run.checkpoint.exists():
            raise
        raise Diverged(f"{error}. The checkpoint and the best weights saved before this are kept") from None


def _trained(run: Run, corpus: Corpus, display: Display) -> Run:
    again = f"Resume with: throughtime train --resume {shlex.quote(display_path(run.path))}"
    with log_file(run):
        _log.info("run %s", display_path(run.path))
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
    model = begun_model(run)
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

"""Training a run from its beginning or its last checkpoint to its end."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from throughtime import cells, engines
from throughtime.data import Corpus, Streams, prepare_text
from throughtime.errors import DataError, Interrupted, RunError, TrainingError
from throughtime.program.cell import Cell
from throughtime.runs import Run, require_new
from throughtime.training.building import build_model, device_for, programs_of
from throughtime.training.checkpoints import AtomicCheckpoints
from throughtime.training.config import TrainConfig
from throughtime.training.display import Display, TrainingBar
from throughtime.training.evaluation import figures_of
from throughtime.training.keeper import Keeper
from throughtime.training.module import TrainingModule
from throughtime.training.planning import make_plan, validation_streams
from throughtime.training.processes import rank

_log = logging.getLogger("throughtime")

_JOINED = "THROUGHTIME_RUN"  # tells the processes that Lightning starts which run they take part in
_PRECISIONS = {"32": "32-true", "64": "64-true", "bf16": "bf16-true"}
_WEIGHTS = {"64": torch.float64, "bf16": torch.bfloat16}
_PATIENCE = timedelta(hours=2)  # for other processes, one of which may be reading a long text


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
    _require_possible(config)
    with _session(config, progress) as display:
        run, corpus = _first_then_others(config, lambda: _begin(config, definition, started, display), display)
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
    _require_possible(run.config)
    with _session(run.config, progress) as display:
        run, corpus = _first_then_others(run.config, lambda: (run, _corpus_of(run, display)), display)
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


def _corpus_of(run: Run, display: Display) -> Corpus:
    """The data of a run that is there already."""
    corpus = prepare_text(
        run.config.data,
        valid=run.config.valid,
        test=run.config.test,
        encoding_errors=run.config.encoding_errors,
        vocabulary=run.vocabulary,
        progress=display.progress,
    )
    if corpus.digest != run.record.data.digest:
        raise RunError(f"{corpus.name} is not the text that {run.path} was begun with: it has changed; train anew")
    return corpus


def _directory(config: TrainConfig, corpus: Corpus) -> Path:
    """Where the run is to be: as asked, or under `runs`, by time, cell and data."""
    if config.out is not None:
        return Path(config.out)
    name = Path(config.data[0]).resolve().stem if config.data and config.data[0] != "-" else "text"
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
    with _log_file(run):
        _log.info("run %s", run.path)
        trainer, keeper = _fit(run, corpus, display)
        if keeper.interrupted:
            raise Interrupted(f"training was stopped at step {trainer.global_step} of {run.plan.steps}. {again}")
        if rank() == 0:
            try:
                _measure(run, corpus, trainer, keeper, display)
            except KeyboardInterrupt:
                raise Interrupted(f"all steps are done, but measuring was stopped. {again}") from None
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
    trainer = _trainer(config, run, callbacks=[keeper, TrainingBar(display, keeper, plan.steps)])
    os.environ[_JOINED] = str(run.path.resolve())
    try:
        with keeper.at_work():
            trainer.fit(module, ckpt_path=run.checkpoint if run.checkpoint.exists() else None, weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one of the other
        keeper.interrupted = True
    finally:
        del os.environ[_JOINED]
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


def _trainer(config: TrainConfig, run: Run | None = None, callbacks: Sequence[Callback] = ()) -> lightning.Trainer:
    """Lightning's trainer; without a run it is only good for finding the other processes."""
    loggers: list[Logger] = []
    if run is not None and config.log == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run.path, name="", version="tensorboard"))
    strategy = DDPStrategy(timeout=_PATIENCE) if config.processes > 1 else "auto"
    try:
        return lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(config.device_kind, config.device_kind),
            devices=config.device_count,
            num_nodes=config.nodes,
            strategy=strategy,
            precision=_PRECISIONS.get(config.precision, config.precision),  # type: ignore[arg-type]
            max_epochs=-1,
            max_steps=run.plan.steps if run else 1,
            logger=loggers or False,
            callbacks=list(callbacks),
            plugins=[AtomicCheckpoints()],
            enable_checkpointing=False,
            enable_progress_bar=bool(callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=run.path if run else None,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise TrainingError(f"{config.device_count} devices on {config.nodes} machines: {error}") from None


def _first_then_others(
    config: TrainConfig, begin: Callable[[], tuple[Run, Corpus]], display: Display
) -> tuple[Run, Corpus]:
    """What the first process begins, the others open when it is there."""
    joined = os.environ.pop(_JOINED, None)  # Lightning has started this process to take part
    if joined is not None and rank() > 0:
        run = Run.open(joined)
        return run, _corpus_of(run, display)
    if config.processes == 1 or not _started_from_outside():
        return begin()
    # torchrun and SLURM start all processes at once: the others wait here for the first.
    strategy = _trainer(config).strategy
    strategy.setup_environment()
    told: list[str | None] = [None]
    if rank() == 0:
        try:
            run, corpus = begin()
            told = [str(run.path.resolve())]
        finally:
            torch.distributed.broadcast_object_list(told)
        return run, corpus
    torch.distributed.broadcast_object_list(told)
    if told[0] is None:
        raise TrainingError("the first process could not begin; it says why")
    run = Run.open(told[0])
    return run, _corpus_of(run, display)


def _started_from_outside() -> bool:
    return any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "SLURM_NTASKS"))


def _require_possible(config: TrainConfig) -> None:
    """Refuse what this machine can't do, before anything is read or written.

    Raises:
        TrainingError: it can't.
    """
    if config.engine is not None:
        engines.get(config.engine)
    cuda = torch.cuda.is_available()
    if config.device_kind == "cuda" and not cuda:
        raise TrainingError(f"devices {config.devices}: torch finds no CUDA device here; leave --devices out")
    if config.precision == "16-mixed" and (not cuda or config.device_kind == "cpu"):
        raise TrainingError("precision 16-mixed is for CUDA devices; bf16-mixed runs anywhere")
    if config.log == "tensorboard" and find_spec("tensorboard") is None:
        raise TrainingError("--log tensorboard wants the package: pip install tensorboard; metrics.csv needs nothing")
    if config.batch % config.processes:
        raise TrainingError(
            f"a batch of {config.batch} streams can't be shared by {config.processes} processes: "
            f"give a multiple of {config.processes}"
        )
    started = int(os.environ.get("WORLD_SIZE", config.processes)) if _started_from_outside() else 1
    if config.nodes > 1 and not _started_from_outside():
        raise TrainingError(f"{config.nodes} machines: start a process for each device by torchrun or SLURM (srun)")
    if started > 1 and started != config.processes:
        raise TrainingError(
            f"{started} processes were started, but --devices {config.device_count} --nodes {config.nodes} "
            f"make {config.processes}: both are to agree"
        )


@contextmanager
def _session(config: TrainConfig, progress: bool) -> Iterator[Display]:
    """What is set for the time of training, and set back after it; errors of the machine are told in our words."""
    threads = torch.get_num_threads()
    display = Display(progress and rank() == 0)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        stack.enter_context(_quiet_lightning())
        stack.enter_context(_listening(display.handler))
        stack.enter_context(display)
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(config.threads or threads)
        try:
            yield display
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TrainingError(
                f"the disk is full{f' ({error.filename})' if error.filename else ''}: training can't go on. "
                "The last checkpoint is kept: free some space, then resume the run"
            ) from None
        except MisconfigurationException as error:
            raise TrainingError(str(error)) from None


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning says much that is not to the point here: its tips, and warnings about a loader of no known length."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Our messages go to the handler."""
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        handler.close()


@contextmanager
def _log_file(run: Run) -> Iterator[None]:
    """Our messages go to the run's log as well."""
    if rank() > 0:
        yield
        return
    handler = _LogFile(run.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with _listening(handler):
        yield


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A log that can't be written, on a full disk say, is no reason to stop."""

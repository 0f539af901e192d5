"""Lightning's trainer, and the processes that train together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from throughtime import engines
from throughtime.errors import TrainingError
from throughtime.runs import Run
from throughtime.spelling import option, setting
from throughtime.training.building import device_for
from throughtime.training.checkpoints import AtomicCheckpoints
from throughtime.training.config import TrainConfig
from throughtime.training.processes import rank

_JOINED = "THROUGHTIME_RUN"  # tells the processes that Lightning starts which run they take part in
_PRECISIONS = {"32": "32-true", "64": "64-true", "bf16": "bf16-true"}
_PATIENCE = timedelta(hours=2)  # for other processes, one of which may be reading a long text


def require_possible(config: TrainConfig) -> None:
    """Refuse what this machine can't do, before anything is read or written.

    Raises:
        TrainingError: it can't.
    """
    if config.engine is not None:
        engines.get(config.engine)
    cuda = torch.cuda.is_available()
    if config.device_kind == "cuda" and not cuda:
        raise TrainingError(
            f"{setting('devices', config.devices)}: torch finds no CUDA device here; leave {option('devices')} out"
        )
    if config.precision == "16-mixed" and (not cuda or config.device_kind == "cpu"):
        raise TrainingError(f"{setting('precision', '16-mixed')} is for CUDA devices; bf16-mixed runs anywhere")
    if config.log == "tensorboard" and find_spec("tensorboard") is None:
        raise TrainingError(f"{setting('log', 'tensorboard')} needs the package: pip install tensorboard")
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
            f"{started} processes were started, but {setting('devices', config.device_count)} and "
            f"{setting('nodes', config.nodes)} "
            f"make {config.processes}: both are to agree"
        )


def make_trainer(config: TrainConfig, run: Run | None = None, callbacks: Sequence[Callback] = ()) -> lightning.Trainer:
    """Lightning's trainer; without a run it is only good for finding the other processes."""
    loggers: list[Logger] = []
    if run is not None and config.log == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run.path, name="", version="tensorboard"))
    strategy = DDPStrategy(timeout=_PATIENCE) if config.processes > 1 else "auto"
    try:
        return lightning.Trainer(
            accelerator="gpu" if device_for(config).type == "cuda" else "cpu",
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


def path_from_first(config: TrainConfig, begin: Callable[[], Path]) -> Path:
    """The directory of the run: the first process begins it, the others get to know it when it is there.

    Args:
        config: how many processes there are.
        begin: called in the first process.

    Raises:
        TrainingError: in the others, if the first could not begin.
    """
    joined = os.environ.pop(_JOINED, None)  # Lightning has started this process to take part
    if joined is not None and rank() > 0:
        return Path(joined)
    if config.processes == 1 or not _started_from_outside():
        return begin()
    # torchrun and SLURM start all processes at once: the others wait here for the first.
    make_trainer(config).strategy.setup_environment()
    told: list[Path | None] = [None]
    try:
        if rank() == 0:
            told = [begin().resolve()]
    finally:
        torch.distributed.broadcast_object_list(told)
    if told[0] is None:
        raise TrainingError("the first process could not begin; it says why")
    return told[0]


@contextmanager
def joinable(run: Run) -> Iterator[None]:
    """While it lasts, processes that Lightning starts know the run."""
    os.environ[_JOINED] = str(run.path.resolve())
    try:
        yield
    finally:
        os.environ.pop(_JOINED, None)


def _started_from_outside() -> bool:
    return any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "SLURM_NTASKS"))

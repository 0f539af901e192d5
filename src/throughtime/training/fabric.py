"""Lightning Fabric, which handles devices, precision and processes.

Fabric is used rather than Lightning's Trainer, whose loop added 1 ms per step without any other benefit here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException

from throughtime import engines
from throughtime.errors import TrainingError
from throughtime.runs import Run
from throughtime.spelling import option, setting
from throughtime.training.building import device_for
from throughtime.training.config import TrainingOptions
from throughtime.training.processes import rank

_JOINED = "THROUGHTIME_RUN"  # tells processes started by Fabric which run to join
_PRECISIONS = {"32": "32-true", "64": "64-true", "bf16": "bf16-true"}
_PATIENCE = timedelta(hours=2)  # the timeout for other processes, one of which may be reading a long text


def require_possible(training: TrainingOptions) -> None:
    """Check that this machine supports the options, before anything is written.

    Raises:
        TrainingError: if it doesn't.
    """
    if training.engine is not None:
        engines.get(training.engine)
    cuda = torch.cuda.is_available()
    if training.device_kind == "cuda" and not cuda:
        raise TrainingError(
            f"{setting('devices', training.devices)}: torch finds no CUDA device; remove {option('devices')}"
        )
    if training.precision == "16-mixed" and (not cuda or training.device_kind == "cpu"):
        raise TrainingError(f"{setting('precision', '16-mixed')} needs a CUDA device; use bf16-mixed instead")
    if training.log == "tensorboard" and find_spec("tensorboard") is None:
        raise TrainingError(f"{setting('log', 'tensorboard')} needs tensorboard: pip install tensorboard")
    if training.batch % training.processes:
        raise TrainingError(
            f"a batch of {training.batch} can't be divided among {training.processes} processes; "
            f"use a multiple of {training.processes}"
        )
    started = int(os.environ.get("WORLD_SIZE", training.processes)) if _started_from_outside() else 1
    if training.nodes > 1 and not _started_from_outside():
        raise TrainingError(f"{training.nodes} machines: start one process per device with torchrun or SLURM (srun)")
    if started > 1 and started != training.processes:
        raise TrainingError(
            f"{started} processes were started, but {setting('devices', training.device_count)} and "
            f"{setting('nodes', training.nodes)} "
            f"require {training.processes}; the numbers must match"
        )


def make_fabric(training: TrainingOptions, loggers: Sequence[Any] = ()) -> Fabric:
    """Create the Fabric object for the options.

    Args:
        training: the options.
        loggers: Fabric's loggers.

    Raises:
        TrainingError: if the devices aren't available.
    """
    try:
        return Fabric(
            accelerator="gpu" if device_for(training).type == "cuda" else "cpu",
            devices=training.device_count,
            num_nodes=training.nodes,
            strategy=DDPStrategy(timeout=_PATIENCE) if training.processes > 1 else "auto",
            precision=_PRECISIONS.get(training.precision, training.precision),  # type: ignore[arg-type]
            loggers=list(loggers),
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise TrainingError(f"{training.device_count} devices on {training.nodes} machines: {error}") from None


def loggers_of(training: TrainingOptions, run: Run) -> list[Any]:
    """Return the loggers requested besides metrics.csv."""
    if training.log != "tensorboard":
        return []
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    return [TensorBoardLogger(run.path, name="", version="tensorboard")]


def path_from_first(training: TrainingOptions, begin: Callable[[], Path]) -> Path:
    """Return the directory of the run, which the first process creates and the others wait for.

    Args:
        training: the training options.
        begin: creates the directory; called in the first process.

    Raises:
        TrainingError: in the other processes, if the first one failed.
    """
    joined = os.environ.pop(_JOINED, None)  # set if Fabric started this process
    if joined is not None and rank() > 0:
        return Path(joined)
    if training.processes == 1 or not _started_from_outside():
        return begin()
    # torchrun and SLURM start all processes at once, so the others wait here for the first.
    make_fabric(training).launch()
    shared_path: list[Path | None] = [None]
    try:
        if rank() == 0:
            shared_path = [begin().resolve()]
    finally:
        torch.distributed.broadcast_object_list(shared_path)
    if shared_path[0] is None:
        raise TrainingError("the first process failed to start; see its error message")
    return shared_path[0]


@contextmanager
def joinable(run: Run) -> Iterator[None]:
    """Within the context, tell the processes that Fabric starts which run to join."""
    os.environ[_JOINED] = str(run.path.resolve())
    try:
        yield
    finally:
        os.environ.pop(_JOINED, None)


def _started_from_outside() -> bool:
    return any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "SLURM_NTASKS"))

"""Context managers for training: log messages, threads, random generators and errors."""

from __future__ import annotations

import fcntl
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning

from throughtime.errors import RunError, TrainingError
from throughtime.files import DISK_FULL
from throughtime.runs import Run
from throughtime.training.building import device_for
from throughtime.training.config import TrainingOptions
from throughtime.training.display import Display
from throughtime.training.processes import rank

_log = logging.getLogger("throughtime")


@contextmanager
def session(training: TrainingOptions, progress: bool) -> Iterator[Display]:
    """Show log messages during training, and restore torch's settings afterwards.

    Raises:
        TrainingError: if the disk is full, or Lightning doesn't support the options.
    """
    display = Display(progress and rank() == 0)
    with settings_kept(training), _listening(display.handler), display:
        try:
            yield display
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise TrainingError(
                f"the disk is full{f' ({error.filename})' if error.filename else ''}; training stopped. Free some space"
            ) from None
        except MisconfigurationException as error:
            raise TrainingError(str(error)) from None


@contextmanager
def settings_kept(training: TrainingOptions) -> Iterator[None]:
    """Restore torch's number of threads and its generators afterwards, and silence Lightning."""
    threads = torch.get_num_threads()
    device = device_for(training)
    # With several processes, each has its own device and must not touch the generators of the others.
    generators = [device] if device.type == "cuda" and training.processes == 1 else []
    with torch.random.fork_rng(devices=generators), _quiet_lightning():
        torch.set_num_threads(training.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's tips and warnings, which don't apply to our loop."""
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
    """Send our log messages to a handler."""
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
def log_file(run: Run) -> Iterator[None]:
    """Send our log messages to the run's log too, which only one process may write at a time.

    Raises:
        RunError: if another process is training this run.
    """
    if rank() > 0:
        yield
        return
    handler = _LogFile(run.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with run.log.open("a") as held, _listening(handler):
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the file is closed or the process ends
        except BlockingIOError:
            raise RunError(f"{run.path} is being trained by another process; wait for it to end, or stop it") from None
        except OSError:
            pass  # the file system doesn't support locks
        yield


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a log that can't be written, for example on a full disk, rather than stop training."""

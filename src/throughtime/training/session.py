"""What is set for the time of training and set back after it: messages, threads, generators, errors in our words."""

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
    """The time of training: what `settings_kept` does, with messages shown.

    Raises:
        TrainingError: the disk is full, or Lightning can't do what is asked.
    """
    display = Display(progress and rank() == 0)
    with settings_kept(training), _listening(display.handler), display:
        try:
            yield display
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise TrainingError(
                f"the disk is full{f' ({error.filename})' if error.filename else ''}: training stopped. Free some space"
            ) from None
        except MisconfigurationException as error:
            raise TrainingError(str(error)) from None


@contextmanager
def settings_kept(training: TrainingOptions) -> Iterator[None]:
    """Torch's threads and generators are set back afterwards, and Lightning is quiet."""
    threads = torch.get_num_threads()
    device = device_for(training)
    # Of several processes each has a device of its own, and no generator on another's.
    generators = [device] if device.type == "cuda" and training.processes == 1 else []
    with torch.random.fork_rng(devices=generators), _quiet_lightning():
        torch.set_num_threads(training.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


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
def log_file(run: Run) -> Iterator[None]:
    """Our messages go to the run's log as well, which one process at a time may write.

    Raises:
        RunError: another process trains this run.
    """
    if rank() > 0:
        yield
        return
    handler = _LogFile(run.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with run.log.open("a") as held, _listening(handler):
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed, or the process gone
        except BlockingIOError:
            raise RunError(f"{run.path} is being trained by another process: wait for its end, or end it") from None
        except OSError:
            pass  # a file system without locks
        yield


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A log that can't be written, on a full disk say, is no reason to stop."""

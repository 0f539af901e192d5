"""Store the optuna study of a search, lock it, and check its settings."""

from __future__ import annotations

import fcntl
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.errors import RunError, UserError
from throughtime.packages import require
from throughtime.paths import display_path
from throughtime.spelling import option
from throughtime.studies.search import Search
from throughtime.studies.storage_url import JOURNAL
from throughtime.training.config import TrainConfig

if TYPE_CHECKING:
    from optuna import Study

STORAGE = "search.db"
_STUDY = "throughtime"
_WARM_UP = 2  # comparisons before a trial can be pruned
_STARTUP = 5  # trials before any can be pruned
_CREATING = 2.0  # seconds to wait while another process creates the database
_HEARTBEAT = 30  # seconds between heartbeats of a process that shares a storage


def load_optuna() -> Any:
    """Import optuna.

    Raises:
        UserError: if it is not installed.
    """
    require("optuna", "tune", "tune")
    import optuna

    return optuna


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Silence optuna, which logs every trial and warns about every experimental function."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


@contextmanager
def locked(folder: Path, storage: str | None) -> Iterator[None]:
    """Lock the folder for this process, unless a storage is shared; its file `lock` also marks the folder as a search.

    Raises:
        RunError: if another process is tuning in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as held:
        try:
            if storage is None:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is tuning in {display_path(folder)}; to tune with several processes, pass all of "
                f"them the URL of one database with {option('storage')}, such as "
                f"sqlite:///{display_path((folder / STORAGE).absolute())}"
            ) from None
        yield


def open_study(optuna: Any, search: Search, storage: str | None, defaults: TrainConfig) -> Study:
    """Create the study of a search, or open it if it exists.

    Args:
        optuna: the package.
        search: the search.
        storage: the URL of a shared database; a file in the search's folder if None.
        defaults: the options of the first trial.

    Raises:
        UserError: if the storage can't be used.
        RunError: if the study's settings differ.
    """
    folder, settings, seed = search.folder, _settings(search, defaults), defaults.training.seed

    def retry(study: Study, trial: Any) -> None:
        study.enqueue_trial(trial.params, user_attrs={k: v for k, v in trial.user_attrs.items() if k == "defaults"})

    url = storage or f"sqlite:///{(folder / STORAGE).absolute()}"

    def created() -> Study:
        if storage is None:
            database = optuna.storages.RDBStorage(url)
        elif url.startswith(JOURNAL):
            file = optuna.storages.journal.JournalFileBackend(url.removeprefix(JOURNAL))
            database = optuna.storages.JournalStorage(file)
        else:
            database = optuna.storages.RDBStorage(
                url, heartbeat_interval=_HEARTBEAT, heartbeat_stale_trial_callback=retry
            )
        study: Study = optuna.create_study(
            storage=database,
            study_name=_STUDY,
            load_if_exists=True,
            direction="maximize" if search.kind.maximize else "minimize",
        )
        return study

    try:
        try:
            study = created()
        except Exception:
            if storage is None:
                raise
            time.sleep(_CREATING)  # another process may be creating the same database's tables
            study = created()
    except Exception as error:  # raised by SQLAlchemy, a driver, or the operating system
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{option('storage')} {url} can't be used: {reason}") from None
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", settings)
    else:
        _require_same(before, json.loads(json.dumps(settings)), folder)
    if storage is None:
        for trial in study.trials:
            if trial.state == optuna.trial.TrialState.RUNNING:  # the process was killed
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                retry(study, trial)
    # A resumed search or another process must not draw the same samples again.
    drawn = seed + len(study.trials) + (os.getpid() if storage else 0)
    study.sampler = optuna.samplers.TPESampler(seed=drawn % 2**32)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARM_UP)
    return study


def _settings(search: Search, defaults: TrainConfig) -> dict[str, Any]:
    """Return the settings that all calls and processes of a search must share."""
    values = defaults.model_dump(mode="json")
    fixed = {name: values[name] for name in search.given if name in values and name not in ("data", "threads")}
    return {"task": defaults.task.task, "data": search.data.digest, **fixed, "space": search.space_in_words}


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for name in [*before, *(name for name in now if name not in before)]:
        if before.get(name) != now.get(name):
            what = "other data" if name == "data" else f"{name} {before.get(name)}, not {now.get(name)}"
            raise RunError(
                f"the search in {display_path(folder)} has {what}; choose another directory with {option('out')}"
            )

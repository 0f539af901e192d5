"""Search for the options that do best on validation data, with optuna."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from throughtime import cells as named_cells
from throughtime import tasks
from throughtime.data.corpus import EncodedText
from throughtime.data.sequences import Sequences
from throughtime.errors import Interrupted, RunError, TrainingError, UserError
from throughtime.files import replacing
from throughtime.model_file import load, save
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.spelling import option, setting
from throughtime.studies.compare import resolved
from throughtime.studies.result import StudyResult
from throughtime.studies.spaces import CELLS, Dimension, defaults_of, space_for
from throughtime.tasks.base import Data, Task
from throughtime.training.callbacks import Callback
from throughtime.training.config import TrainConfig
from throughtime.training.display import Display
from throughtime.training.evaluation import measured
from throughtime.training.fitting import Diverged, fit
from throughtime.training.options import TrainOptions

if TYPE_CHECKING:
    from optuna import Study, Trial

    from throughtime.training.fitting import Fit

RESULT, PAGE, BEST, STORAGE = "search.json", "search.html", "best.json", "search.db"
_STUDY = "throughtime"
_PRUNINGS = 10  # comparisons with the other trials during a trial
_WARM_UP = 2  # comparisons before a trial can be pruned
_STARTUP = 5  # trials before any can be pruned
_JOURNAL = "journal:"  # prefix of a journal file's URL
_CREATING = 2.0  # seconds to wait while another process creates the database
_HEARTBEAT = 30  # seconds between heartbeats of a process that shares a storage
_TERMS = 200_000  # most terms of validation data on which a trial is evaluated
_TEST_SHARE = 0.1


def tune(
    *,
    trials: int = 20,
    cells: Sequence[str | Cell] = CELLS,
    task: str | type[Task[Any]] | None = None,
    storage: str | None = None,
    progress: bool = True,
    **options: Unpack[TrainOptions],
) -> StudyResult:
    """Search for the options that do best on validation data.

    The first trial uses the task's default options. Trials that do worse than the median at the same point of training
    are pruned. The search never sees test data: the task's own test part, or else a tenth of the data or half of the
    validation data, is used once at the end. `out` receives `search.json`, `search.html` and `best.json`, the best
    options as a file for `throughtime train --config`. To resume an interrupted search, call the function again with
    the same `out` or `storage`.

    Args:
        trials: the total number of trials, including those of earlier calls and other processes.
        cells: the cells to choose from.
        task: the task; inferred from the data by default.
        storage: the URL of a database, such as postgresql://HOST/NAME or sqlite:///FILE, or journal:FILE for a journal
            file, which may be on a network file system; several processes and machines can share it. Defaults to a
            file in `out`, which one process at a time can use.
        progress: whether to report progress on standard error.
        **options: options of `throughtime.train`, such as `data`, `epochs` or `steps` (per trial) and `out`. The search
            does not vary options given here. `minutes` limits this call, not each trial.

    Returns:
        A result with `best` (the varied options and their best values), `value` and `defaults` (the validation metrics
        of the best and of the default options; None if that trial isn't finished), `figure`, `maximize`, `test` (the
        best trial's metrics on the test part; None if another process trained it), `trials` (one dictionary per
        finished trial), `space`, `config` (the path of `best.json`), `folder` and `page`.

    Raises:
        UserError: if an option is invalid, a cell is unknown, or optuna is missing.
        RunError: if another process is tuning in the folder, or its search has different settings.
        Interrupted: on Ctrl-C; the search can be resumed.
    """
    optuna = _optuna()
    if trials < 1:
        raise UserError(f"{option('trials')} must be at least 1, got {trials}")
    minutes = options.get("minutes")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(f"{option('minutes')} must be a positive number, got {minutes:g}")
    kind, _ = tasks.chosen(task, options)
    given = {name: value for name, value in options.items() if name not in ("out", "minutes") and value is not None}
    if "init_from" in given:
        raise UserError(f"{option('init_from')} fixes the network's size and cell; it can't be used with tune")
    found = resolved([str(given["cell"])] if given.get("cell") else cells)
    if "test_share" in kind.Options.model_fields and not (given.get("test_share") or given.get("test")):
        given["test_share"] = _TEST_SHARE
    if len(found) == 1:
        given["cell"] = next(iter(found))
    defaults = TrainConfig.of(kind, **given).anywhere()
    if defaults.training.processes > 1:
        raise UserError(f"{option('devices')} can't be used with tune; each trial is trained in one process")
    space = space_for(defaults, given, tuple(found))
    folder = _folder(options.get("out"), defaults)
    with Display(progress) as display, _quiet(optuna), _locked(folder, storage):
        data, test = _split_off_test(kind(defaults.task).prepare(display.progress))
        settings = _settings(defaults, given, space, data)
        study = _study(optuna, folder, storage, settings, kind.maximize, defaults.training.seed)
        if not study.trials:
            values = defaults_of(defaults)
            first = {each.name: values[each.name] for each in space if each.name != "cell"}
            if any(each.name == "cell" for each in space):
                first["cell"] = values["cell"] if values["cell"] in found else next(iter(found))
            study.enqueue_trial(first, user_attrs={"defaults": True})
        display.console.print(f"search in {display_path(folder)}", markup=False)
        search = _Search(optuna, study, kind, data, given, found, space, folder, display)
        search.run(trials, None if minutes is None else time.monotonic() + 60 * minutes)
        result = _result(study, kind, data, test, space, folder)
        return _written(result, study, folder)


class _Search:
    """The trials run by this process."""

    def __init__(
        self,
        optuna: Any,
        study: Study,
        kind: type[Task[Any]],
        data: Data[Any],
        given: Mapping[str, Any],
        cells: Mapping[str, Cell],
        space: Sequence[Dimension],
        folder: Path,
        display: Display,
    ) -> None:
        self._optuna, self._study, self._kind, self._data = optuna, study, kind, data
        self._given, self._cells, self._space = given, cells, space
        self._folder, self._display = folder, display
        self._until: float | None = None

    def run(self, trials: int, until: float | None) -> None:
        """Run trials until the study has the given number or time is up."""
        self._until = until
        while (done := len(finished(self._study))) < trials and (until is None or time.monotonic() < until):
            self._display.progress("searching", done, trials)
            failed = self._failed()
            try:
                self._study.optimize(self._objective, n_trials=1)
            except KeyboardInterrupt:
                for number, trial in self._failed().items():
                    if number not in failed:
                        self._study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
                raise Interrupted(
                    f"search stopped after {len(finished(self._study))} of {trials} trials. Resume with the "
                    f"same command and {setting('out', display_path(self._folder))}"
                ) from None
            self._tell(trials)
        self._display.progress("searching", trials, trials)

    def _failed(self) -> dict[int, Any]:
        return {trial.number: trial for trial in self._study.trials if trial.state.name == "FAIL"}

    def _tell(self, trials: int) -> None:
        done = finished(self._study)
        if not done:
            return
        last, figure = done[-1], self._kind.monitor.replace("_", " ")
        pruned = last.state == self._optuna.trial.TrialState.PRUNED
        state = last.user_attrs.get("ended", "pruned") if pruned else f"{figure} {last.value:.4f}"
        best = _best(self._study)
        mark = " *" if best is not None and best.number == last.number else ""
        values = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                           for name, value in last.params.items())  # fmt: skip
        line = f"trial {last.number} ({len(done)} of {trials}): {state}{mark} ({values})"
        self._display.console.print(line, markup=False)
        if best is not None:
            _write_best(self._folder, self._given, self._kind, best.params, self._cells)

    def _objective(self, trial: Trial) -> float:
        values = {dimension.name: dimension.suggest(trial) for dimension in self._space}
        config = TrainConfig.of(self._kind, **{**self._given, **values}).anywhere()
        task, watch = self._kind(config.task), _Watch(trial, self._kind, self._until)
        try:
            model = fit(task, self._data, config, [watch], cell=self._cells[config.network.cell])
        except Diverged:
            trial.set_user_attr("ended", "diverged")
            raise self._optuna.TrialPruned from None
        if watch.ended:
            trial.set_user_attr("ended", watch.ended)
            raise self._optuna.TrialPruned
        terms = min(_TERMS, task.reading(self._data.valid).terms)
        value = float(measured(model, task, self._data.valid, terms=terms)[self._kind.monitor])
        best = _best(self._study)
        if best is None or (value > best.value if self._kind.maximize else value < best.value):
            path = _model_path(self._folder, trial.number)
            path.parent.mkdir(exist_ok=True)
            save(model, path)
            for other in path.parent.glob("trial-*.safetensors"):
                if other != path and best is not None and other != _model_path(self._folder, best.number):
                    other.unlink(missing_ok=True)
        return value


class _Watch(Callback):
    """Report a trial's validation results to the pruner at fixed points of training.

    Attributes:
        ended: why the trial ended early; "" if it did not.
    """

    def __init__(self, trial: Trial, kind: type[Task[Any]], until: float | None) -> None:
        self.ended = ""
        self._trial, self._kind, self._until = trial, kind, until
        self._best: float | None = None
        self._reported = 0

    def on_step(self, fit: Fit) -> None:
        """End the trial when the search's time is up."""
        left = fit.plan.steps is None or fit.step < fit.plan.steps
        if self._until is not None and time.monotonic() > self._until and left:
            self.ended = "out of time"
            fit.stop()

    def on_validation(self, fit: Fit) -> None:
        """Report the best metric so far, and end the trial if the pruner says so."""
        assert fit.figures is not None
        value, better = fit.figures[self._kind.monitor], max if self._kind.maximize else min
        self._best = value if self._best is None else better(value, self._best)
        point = _PRUNINGS * fit.step // fit.plan.expected_steps
        if point > self._reported:
            self._reported = point
            self._trial.report(self._best, point)
            if point < _PRUNINGS and self._trial.should_prune():
                self.ended = "pruned"
                fit.stop()


def finished(study: Study) -> list[Any]:
    """Return the trials that have completed or been pruned."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _best(study: Study) -> Any:
    """Return the best trial; None if none is complete."""
    return study.best_trial if any(trial.state.name == "COMPLETE" for trial in study.trials) else None


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("tuning requires optuna: pip install 'throughtime[tune]'") from None
    return optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Silence optuna, which logs every trial and warns of every experimental function."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


@contextmanager
def _locked(folder: Path, storage: str | None) -> Iterator[None]:
    """Lock the folder for this process, unless a storage is shared.

    Raises:
        RunError: if another process is tuning in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if storage is not None:
        yield
        return
    with (folder / "lock").open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is tuning in {display_path(folder)}; to tune with several processes, pass all of "
                f"them the URL of one database with {option('storage')}, such as "
                f"sqlite:///{display_path((folder / STORAGE).absolute())}"
            ) from None
        yield


def _study(
    optuna: Any, folder: Path, storage: str | None, settings: Mapping[str, Any], maximize: bool, seed: int
) -> Study:
    def retry(study: Study, trial: Any) -> None:
        study.enqueue_trial(trial.params, user_attrs={k: v for k, v in trial.user_attrs.items() if k == "defaults"})

    url = storage or f"sqlite:///{(folder / STORAGE).absolute()}"

    def created() -> Study:
        if storage is None:
            database = optuna.storages.RDBStorage(url)
        elif url.startswith(_JOURNAL):
            file = optuna.storages.journal.JournalFileBackend(url.removeprefix(_JOURNAL))
            database = optuna.storages.JournalStorage(file)
        else:
            database = optuna.storages.RDBStorage(
                url, heartbeat_interval=_HEARTBEAT, heartbeat_stale_trial_callback=retry
            )
        study: Study = optuna.create_study(
            storage=database, study_name=_STUDY, load_if_exists=True, direction="maximize" if maximize else "minimize"
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
    # A resumed search or another process must not repeat the same samples.
    drawn = seed + len(study.trials) + (os.getpid() if storage else 0)
    study.sampler = optuna.samplers.TPESampler(seed=drawn % 2**32)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARM_UP)
    return study


def _settings(
    defaults: TrainConfig, given: Mapping[str, Any], space: Sequence[Dimension], data: Data[Any]
) -> dict[str, Any]:
    """Return the settings that all parts of a search must share."""
    values = defaults.model_dump(mode="json")
    fixed = {name: values[name] for name in given if name in values and name not in ("data", "threads")}
    return {
        "task": defaults.task.task,
        "data": data.digest,
        **fixed,
        "space": {each.name: str(each) for each in space},
    }


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for name in [*before, *(name for name in now if name not in before)]:
        if before.get(name) != now.get(name):
            what = "other data" if name == "data" else f"{name} {before.get(name)}, not {now.get(name)}"
            raise RunError(
                f"the search in {display_path(folder)} has {what}; choose another directory with {option('out')}"
            )


def _folder(out: Any, defaults: TrainConfig) -> Path:
    if out is not None:
        folder = Path(out)
        known = (STORAGE, "lock", RESULT)
        if folder.exists() and (
            not folder.is_dir() or (any(folder.iterdir()) and not any((folder / name).exists() for name in known))
        ):
            raise UserError(
                f"{display_path(folder)} already exists and is not a search; choose another directory with "
                f"{option('out')}"
            )
        return folder
    first = defaults.task.data[0] if defaults.task.data else defaults.task.task
    name = re.sub(r"[^\w.-]+", "-", Path(first).stem).strip("-.") or defaults.task.task
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-tune-{name}"


def _split_off_test(data: Data[Any]) -> tuple[Data[Any], Any]:
    """Split off the test part that the search must not see."""
    valid, test = data.valid, data.test
    if test is None and isinstance(valid, Sequences) and len(valid) > 1:
        order = np.random.default_rng(0).permutation(len(valid))
        valid, test = valid.take(order[::2]), valid.take(order[1::2])
    elif test is None and isinstance(valid, EncodedText) and valid.token_count >= _MIN_TOKENS:
        half = valid.token_count // 2
        valid, test = (_stretch(valid, start, stop) for start, stop in ((0, half), (half, valid.token_count)))
    return replace(data, valid=valid, test=None), test


_MIN_TOKENS = 8  # in a validation text that is split in half


def _stretch(part: EncodedText, start: int, stop: int) -> EncodedText:
    share = (stop - start) / part.token_count
    return replace(
        part,
        ids=part.ids[start:stop],
        characters=max(1, round(share * part.characters)),
        bytes=max(1, round(share * part.bytes)),
        digest=f"{part.digest}[{start}:{stop}]",
    )


def _model_path(folder: Path, number: int) -> Path:
    return folder / "models" / f"trial-{number}.safetensors"


def _write_best(
    folder: Path,
    given: Mapping[str, Any],
    kind: type[Task[Any]],
    values: Mapping[str, Any],
    cells: Mapping[str, Cell],
) -> None:
    config = TrainConfig.of(kind, **{**given, **values}).anywhere()
    chosen = config.model_dump(mode="json")
    fields = {"task": kind.name, **{name: chosen[name] for name in (*given, *values)}}
    cell = cells[config.network.cell]
    if cell.name not in named_cells.names():
        fields["cell"] = f"{cell.function.__code__.co_filename}:{cell.name}"
    else:
        fields["cell"] = cell.name
    with replacing(folder / BEST) as file:
        file.write((json.dumps(fields, indent=2) + "\n").encode())


def _result(
    study: Study, kind: type[Task[Any]], data: Data[Any], test: Any, space: Sequence[Dimension], folder: Path
) -> dict[str, Any]:
    best = _best(study)
    if best is None:
        raise TrainingError(
            f"no trial has finished. Allow the search more {option('minutes')}, or each trial fewer "
            f"{option('epochs')} or {option('steps')}"
        )
    first = [trial for trial in finished(study) if trial.user_attrs.get("defaults") and trial.value is not None]
    figures = None
    if test is not None and _model_path(folder, best.number).is_file():
        model = load(_model_path(folder, best.number))
        task = kind.of_description(model.task)
        terms = min(_TERMS, task.reading(test).terms)
        figures = dict(measured(model, task, test, terms=terms))
    return {
        "task": kind.name,
        "data": data.name,
        "figure": kind.monitor,
        "maximize": kind.maximize,
        "best": dict(best.params),
        "value": best.value,
        "defaults": first[0].value if first else None,
        "test": figures,
        "trials": [
            {
                "number": trial.number,
                "state": trial.user_attrs.get("ended", trial.state.name.lower()),
                "value": trial.value if trial.state.name == "COMPLETE" else None,
                "seconds": trial.duration.total_seconds() if trial.duration else 0.0,
                "options": dict(trial.params),
            }
            for trial in finished(study)
        ],
        "space": {dimension.name: str(dimension) for dimension in space},
        "config": str(folder / BEST),
        "folder": str(folder),
        "page": str(folder / PAGE),
    }


def _written(result: Mapping[str, Any], study: Study, folder: Path) -> StudyResult:
    from throughtime.studies.search_page import head, rows, search_page, sentences

    with replacing(folder / RESULT) as file:
        file.write((json.dumps(result, indent=2) + "\n").encode())
    with replacing(folder / PAGE) as file:
        file.write(search_page(result, study).encode("utf-8", "replace"))
    return StudyResult(result, head(result), rows(result), sentences(result))

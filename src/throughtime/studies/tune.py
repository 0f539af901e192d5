"""Search for the options that do best on validation data, with optuna."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from throughtime import tasks
from throughtime.errors import Interrupted, UserError
from throughtime.model_file import save
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.spelling import option, setting
from throughtime.studies.compare import resolved
from throughtime.studies.folder import folder_of
from throughtime.studies.result import StudyResult
from throughtime.studies.search import PRUNINGS, RESULT, TERMS, Search, best_trial, finished
from throughtime.studies.search_split import split_off_test
from throughtime.studies.search_storage import STORAGE, load_optuna, locked, open_study, quiet
from throughtime.studies.spaces import CELLS, defaults_of, space_for
from throughtime.studies.storage_url import require_url
from throughtime.tasks.base import Task
from throughtime.training.callbacks import Callback
from throughtime.training.config import TrainConfig
from throughtime.training.display import Display
from throughtime.training.evaluation import measured
from throughtime.training.fitting import Diverged, fit
from throughtime.training.options import Paths, TrainOptions

if TYPE_CHECKING:
    from optuna import Study, Trial

    from throughtime.training.fitting import Fit

_TEST_SHARE = 0.1


def tune(
    data: Paths | None = None,
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
        data: see `throughtime.train`.
        trials: the total number of trials, including those of earlier calls and other processes.
        cells: the cells to choose from.
        task: the task; inferred from the data by default.
        storage: the URL of a database, such as postgresql://HOST/NAME or sqlite:///FILE, or journal:FILE for a journal
            file, which may be on a network file system; several processes and machines can share it. Defaults to a
            file in `out`, which one process at a time can use.
        progress: whether to report progress on standard error.
        **options: options of `throughtime.train`, such as `epochs` or `steps` (per trial) and `out`. The search
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
    optuna = load_optuna()
    if trials < 1:
        raise UserError(f"{option('trials')} must be at least 1, got {trials}")
    minutes = options.get("minutes")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(f"{option('minutes')} must be a positive number, got {minutes:g}")
    require_url(storage)
    given: dict[str, Any] = {
        name: value for name, value in options.items() if name not in ("out", "minutes") and value is not None
    }
    if data is not None:
        given["data"] = data
    kind, why = tasks.chosen(task, given)
    if "init_from" in given:
        raise UserError(f"{option('init_from')} fixes the network's size and cell; it can't be used with tune")
    found = resolved([str(given["cell"])] if given.get("cell") else cells)
    if "test_share" in kind.Options.model_fields and not (given.get("test_share") or given.get("test")):
        given["test_share"] = _TEST_SHARE
    if len(found) == 1:
        given["cell"] = next(iter(found))
    defaults = TrainConfig.of(kind, why=why, **given).anywhere()
    if defaults.training.processes > 1:
        raise UserError(f"{option('devices')} can't be used with tune; each trial is trained in one process")
    space = space_for(defaults, given, tuple(found))
    folder = folder_of(options.get("out"), defaults, ("tune", "search"), (STORAGE, "lock", RESULT))
    with Display(progress) as display, quiet(optuna), locked(folder, storage):
        read, test = split_off_test(kind(defaults.task).prepare(display.progress))
        search = Search(kind, given, found, space, read, test, folder)
        study = open_study(optuna, search, storage, defaults)
        if not study.trials:
            values = defaults_of(defaults)
            first = {each.name: values[each.name] for each in space if each.name != "cell"}
            if any(each.name == "cell" for each in space):
                first["cell"] = values["cell"] if values["cell"] in found else next(iter(found))
            study.enqueue_trial(first, user_attrs={"defaults": True})
        display.console.print(f"search in {display_path(folder)}", markup=False)
        until = None if minutes is None else time.monotonic() + 60 * minutes
        _Trials(optuna, study, search, display).run(trials, until)
        return search.write_result(study)


class _Trials:
    """The trials run by this process."""

    def __init__(self, optuna: Any, study: Study, search: Search, display: Display) -> None:
        self._optuna, self._study, self._search, self._display = optuna, study, search, display
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
                    f"same command and {setting('out', display_path(self._search.folder))}"
                ) from None
            self._tell(trials)
        self._display.progress("searching", trials, trials)

    def _failed(self) -> dict[int, Any]:
        return {trial.number: trial for trial in self._study.trials if trial.state.name == "FAIL"}

    def _tell(self, trials: int) -> None:
        done = finished(self._study)
        if not done:
            return
        last, figure = done[-1], self._search.kind.monitor.replace("_", " ")
        pruned = last.state == self._optuna.trial.TrialState.PRUNED
        state = last.user_attrs.get("ended", "pruned") if pruned else f"{figure} {last.value:.4f}"
        best = best_trial(self._study)
        mark = " *" if best is not None and best.number == last.number else ""
        values = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                           for name, value in last.params.items())  # fmt: skip
        line = f"trial {last.number}: {state}{mark} ({values})"
        self._display.console.print(line, markup=False)
        if best is not None:
            self._search.write_best(best.params)

    def _objective(self, trial: Trial) -> float:
        search, kind, valid = self._search, self._search.kind, self._search.data.valid
        config = search.config({dimension.name: dimension.suggest(trial) for dimension in search.space})
        task, watch = kind(config.task), _Watch(trial, kind, self._until)
        try:
            model = fit(task, search.data, config, [watch], cell=search.cells[config.network.cell])
        except Diverged:
            trial.set_user_attr("ended", "diverged")
            raise self._optuna.TrialPruned from None
        if watch.ended:
            trial.set_user_attr("ended", watch.ended)
            raise self._optuna.TrialPruned
        value = float(measured(model, task, valid, terms=min(TERMS, task.reading(valid).terms))[kind.monitor])
        best = best_trial(self._study)
        if best is None or (value > best.value if kind.maximize else value < best.value):
            path = search.model_path(trial.number)
            path.parent.mkdir(exist_ok=True)
            save(model, path)
            for other in path.parent.glob("trial-*.safetensors"):
                if other != path and best is not None and other != search.model_path(best.number):
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
        point = PRUNINGS * fit.step // fit.plan.expected_steps
        if point > self._reported:
            self._reported = point
            self._trial.report(self._best, point)
            if point < PRUNINGS and self._trial.should_prune():
                self.ended = "pruned"
                fit.stop()

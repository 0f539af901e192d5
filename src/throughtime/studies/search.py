"""A search: the options that it varies, the data that it uses, and its results as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime import cells as named_cells
from throughtime.errors import TrainingError
from throughtime.files import replacing
from throughtime.model_file import load
from throughtime.program.cell import Cell
from throughtime.spelling import option
from throughtime.studies.result import StudyResult
from throughtime.studies.spaces import Dimension
from throughtime.tasks.base import Data, Task
from throughtime.training.config import TrainConfig
from throughtime.training.evaluation import measured

if TYPE_CHECKING:
    from optuna import Study

RESULT, PAGE, BEST = "search.json", "search.html", "best.json"
PRUNINGS = 10
"""The number of times that a trial is compared with the other trials."""
TERMS = 200_000
"""The maximum number of loss terms on which a trial is evaluated."""


@dataclass(frozen=True, eq=False)
class Search:
    """The options that a search varies, the options that it keeps fixed, and its data.

    Attributes:
        kind: the task.
        given: the options that are the same in all trials.
        cells: the cells to choose from, by name.
        space: the options that vary.
        data: the data to train and validate on.
        test: the data for the best trial at the end, if any.
        folder: the directory of the results.
    """

    kind: type[Task[Any]]
    given: Mapping[str, Any]
    cells: Mapping[str, Cell]
    space: Sequence[Dimension]
    data: Data[Any]
    test: Any
    folder: Path

    @property
    def space_in_words(self) -> dict[str, str]:
        """The values to choose each option from, as text."""
        return {dimension.name: str(dimension) for dimension in self.space}

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration of a trial with some values of the varied options."""
        return TrainConfig.of(self.kind, **{**self.given, **values}).anywhere()

    def model_path(self, number: int) -> Path:
        """Return the path of a trial's network, which is kept while it is the best."""
        return self.folder / "models" / f"trial-{number}.safetensors"

    def write_best(self, values: Mapping[str, Any]) -> None:
        """Write the best options so far as a file for `throughtime train --config`."""
        config = self.config(values)
        chosen = config.model_dump(mode="json")
        fields = {"task": self.kind.name, **{name: chosen[name] for name in (*self.given, *values)}}
        cell = self.cells[config.network.cell]
        if cell.name not in named_cells.names():
            fields["cell"] = f"{cell.function.__code__.co_filename}:{cell.name}"
        else:
            fields["cell"] = cell.name
        with replacing(self.folder / BEST) as file:
            file.write((json.dumps(fields, indent=2) + "\n").encode())

    def write_result(self, study: Study) -> StudyResult:
        """Write the result and its page, and return it.

        Raises:
            TrainingError: if no trial has finished.
        """
        from throughtime.studies.search_page import head, rows, search_page, sentences

        result = self._result(study)
        with replacing(self.folder / RESULT) as file:
            file.write((json.dumps(result, indent=2) + "\n").encode())
        with replacing(self.folder / PAGE) as file:
            file.write(search_page(result, study).encode("utf-8", "replace"))
        return StudyResult(result, head(result), rows(result), sentences(result))

    def _result(self, study: Study) -> dict[str, Any]:
        best = best_trial(study)
        if best is None:
            raise TrainingError(
                f"no trial has finished. Allow the search more {option('minutes')}, or each trial fewer "
                f"{option('epochs')} or {option('steps')}"
            )
        first = [trial for trial in finished(study) if trial.user_attrs.get("defaults") and trial.value is not None]
        return {
            "task": self.kind.name,
            "data": self.data.name,
            "figure": self.kind.monitor,
            "maximize": self.kind.maximize,
            "best": dict(best.params),
            "value": best.value,
            "defaults": first[0].value if first else None,
            "test": self._test_figures(best.number),
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
            "space": self.space_in_words,
            "config": str(self.folder / BEST),
            "folder": str(self.folder),
            "page": str(self.folder / PAGE),
        }

    def _test_figures(self, number: int) -> dict[str, Any] | None:
        """Evaluate a trial on the test part; None without one, or if another process trained it."""
        path = self.model_path(number)
        if self.test is None or not path.is_file():
            return None
        model = load(path)
        task = self.kind.of_description(model.task)
        return dict(measured(model, task, self.test, terms=min(TERMS, task.reading(self.test).terms)))


def finished(study: Study) -> list[Any]:
    """Return the trials that were completed or pruned."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def best_trial(study: Study) -> Any:
    """Return the best trial; None if none is complete."""
    return study.best_trial if any(trial.state.name == "COMPLETE" for trial in study.trials) else None

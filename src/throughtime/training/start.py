"""The starting point of a new run: its options, and a cell or the network, codecs and weights of another run.

This module doesn't import torch, so mistakes in options and data are reported before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from throughtime import cells, tasks
from throughtime.codecs import Codecs
from throughtime.errors import DataError, RunError, TrainingError
from throughtime.paths import display_path, require_data
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.runs import Run
from throughtime.spelling import option, setting
from throughtime.stored import WEIGHTS, require_new
from throughtime.tasks.base import Data, Interface, Progress, Task
from throughtime.training.config import TrainConfig

_SHARED = ("cell", "cell_options", "hidden_size", "num_layers", "bidirectional", "embed", "tie")
_OF_WEIGHTS = ("init", "forget_bias", "chrono")


@dataclass(frozen=True)
class Start:
    """The starting point of a new run.

    Attributes:
        config: the options; with `init_from`, network options come from the other run.
        cell: the cell; None if the programs come from another run.
        given: the names of the options that the user set.
        run: the run that provides programs, codecs and weights; None to initialize new ones.
        why: the reason why the task was chosen; "" if the user named it.
    """

    config: TrainConfig
    cell: Cell | None
    given: Collection[str]
    run: Run | None = None
    why: str = ""

    @classmethod
    def of(
        cls, options: Mapping[str, Any], task: str | type[Task[Any]] | None = None, cell: str | Cell | None = None
    ) -> Self:
        """Resolve the starting point of a run.

        Args:
            options: the options that the user set, except `task` and `cell`; None leaves an option unset.
            task: the name or class of the task; inferred from the data by default.
            cell: the cell or its name; the LSTM by default.

        Raises:
            DataError: if data don't exist or are empty.
            RunError: if the other run can't be read or has no weights yet.
            CellError: if the cell lacks a given hyper-parameter.
            TrainingError: if an option conflicts with the other run or doesn't apply to its weights.
        """
        definition = None if cell is None else cells.get(cell)
        named = {} if definition is None else {"cell": definition.name}
        kind, why = tasks.chosen(task, options)
        config = TrainConfig.of(kind, why=why, **named, **options)
        of_task = config.task
        require_data([*(of_task.data or ()), *filter(None, (of_task.valid, of_task.test))])
        kind.require_readable(of_task.data or ())
        config = config.anywhere()
        given = {*named, *(name for name, value in options.items() if value is not None)}
        network = config.network
        if network.init_from is not None:
            return cls._from_run(config, given, Run.open(network.init_from), why)
        definition = definition or cells.get(network.cell)
        if network.cell_options:
            definition = definition.variant(definition.name, definition.meaning, **network.cell_options)
        return cls(config, definition, given, None, why)

    @classmethod
    def _from_run(cls, config: TrainConfig, given: Collection[str], run: Run, why: str) -> Self:
        """Start from the weights of another run."""
        where = display_path(run.path)
        of_codecs = tasks.get(config.task.task).fitting
        for name in (*of_codecs, *_OF_WEIGHTS):
            if name in given:
                source = "vocabulary comes" if name in of_codecs else "weights come"
                raise TrainingError(
                    f"{setting(name, config.given[name])} does not apply: the {source} from {where}; "
                    f"remove {option(name)}"
                )
        if config.task.task != run.config.task.task:
            raise TrainingError(
                f"the task {config.task.task}{why and f' ({why})'} doesn't match {where}, the run to start from, whose "
                f"task is {run.config.task.task}"
            )
        shared = (*_SHARED, *tasks.get(config.task.task).interfacing)
        for name in shared:
            wanted, found = config.given[name], run.config.given[name]
            if name in given and wanted != found:
                raise TrainingError(
                    f"{setting(name, wanted)} doesn't match {where}, the run to start from, "
                    f"with {found}; remove {option(name)}"
                )
        if not config.task.data and tasks.get(config.task.task).default_data:
            raise TrainingError(
                f"{option('init_from')} needs the data to train on; {where} was trained on {run.record.data.name}"
            )
        if not run.has_weights:
            raise RunError(f"{where} has no weights yet, so no run can start from it")
        theirs = {name: run.config.given[name] for name in shared}
        return cls(TrainConfig.of(**{**config.given, **theirs}), None, given, run, why)

    @property
    def task(self) -> Task[Any]:
        """The task."""
        return tasks.get(self.config.task.task)(self.config.task)

    @property
    def task_in_words(self) -> str:
        """The name of the task, with the reason why it was chosen."""
        return f"{self.task.name}{self.why and f' ({self.why})'}"

    def read(self, progress: Progress | None = None) -> Data[Any]:
        """Read the data to train on.

        Args:
            progress: called with the current activity and its progress.

        Raises:
            RunError: if the directory for the new run already exists.
            DataError: if the data can't be read or are unsuitable.
        """
        if self.config.training.out is not None:
            require_new(Path(self.config.training.out))
        try:
            return self.task.prepare(progress, self.codecs)
        except DataError as error:
            if not self.why:
                raise
            raise DataError(f"{error}. Task: {self.task_in_words}") from None

    def programs(self, interface: Interface) -> list[Program]:
        """Return each layer's program."""
        if self.cell is None:
            assert self.run is not None
            return list(self.run.programs)
        from throughtime.training.building import programs_of

        return programs_of(self.config.network, self.cell, interface)

    @property
    def codecs(self) -> Codecs | None:
        """The other run's codecs; None to fit new ones."""
        return self.run.description.codecs if self.run else None

    @property
    def weights(self) -> bytes | None:
        """The bytes of the other run's weight file; None to initialize new weights."""
        return (self.run.path / WEIGHTS).read_bytes() if self.run else None

"""The starting point of a new run: a cell, or the network, codecs and weights of another run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from throughtime import cells, tasks
from throughtime.codecs import Codecs
from throughtime.errors import RunError, TrainingError
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.runs import Run
from throughtime.spelling import option, setting
from throughtime.stored import WEIGHTS
from throughtime.tasks.base import Interface
from throughtime.training.building import programs_of
from throughtime.training.config import TrainConfig

_SHARED = ("cell", "cell_options", "hidden_size", "num_layers", "bidirectional", "embed", "tie")
_OF_WEIGHTS = ("init", "forget_bias", "chrono")


@dataclass(frozen=True)
class Start:
    """The starting point of a new run.

    Attributes:
        config: the options; with `init_from`, network options come from the other run.
        cell: the cell; None if the programs come from another run.
        run: the run that provides programs, codecs and weights; None to initialize new ones.
    """

    config: TrainConfig
    cell: Cell | None
    run: Run | None = None

    @classmethod
    def of(cls, config: TrainConfig, given: Collection[str], cell: Cell | None) -> Self:
        """Resolve the starting point of a configuration.

        Args:
            config: the options.
            given: the names of the options that the user set.
            cell: the cell, if it differs from the cell that `config` names.

        Raises:
            RunError: if the other run can't be read or has no weights yet.
            CellError: if the cell lacks a given hyper-parameter.
            TrainingError: if an option conflicts with the other run or doesn't apply to its weights.
        """
        network = config.network
        if network.init_from is None:
            definition = cells.get(network.cell) if cell is None else cell
            if network.cell_options:
                definition = definition.variant(definition.name, definition.meaning, **network.cell_options)
            return cls(config, definition)
        run = Run.open(network.init_from)
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
                f"{setting('task', config.task.task)} doesn't match {where}, the run to start from, whose task is "
                f"{run.config.task.task}"
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
        run.weights()  # rejects a damaged file
        theirs = {name: run.config.given[name] for name in shared}
        return cls(TrainConfig.of(**{**config.given, **theirs}), None, run)

    def programs(self, interface: Interface) -> list[Program]:
        """Return each layer's program."""
        if self.cell is None:
            assert self.run is not None
            return list(self.run.programs)
        return programs_of(self.config.network, self.cell, interface)

    @property
    def codecs(self) -> Codecs | None:
        """The other run's codecs; None to fit new ones."""
        return self.run.description.codecs if self.run else None

    @property
    def weights(self) -> bytes | None:
        """The bytes of the other run's weight file; None to initialize new weights."""
        return (self.run.path / WEIGHTS).read_bytes() if self.run else None

"""What a new run starts from: a cell, or the network, vocabulary and weights of another run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from throughtime import cells
from throughtime.data import Vocabulary
from throughtime.errors import RunError, TrainingError
from throughtime.paths import display_path
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.runs import Run
from throughtime.spelling import setting
from throughtime.stored import WEIGHTS
from throughtime.training.building import programs_of
from throughtime.training.config import TrainConfig

_SHARED = ("level", "cell", "hidden_size", "num_layers", "embed", "tie")
_OF_VOCABULARY = ("vocab_size", "min_count")
_OF_WEIGHTS = ("init", "forget_bias")


@dataclass(frozen=True)
class Start:
    """What a new run starts from.

    Attributes:
        config: its options, those of the network taken from the other run where there is one.
        programs: each layer's program.
        vocabulary: the other run's vocabulary; None to build one.
        weights: the other run's weights, as safetensors; None to draw them.
    """

    config: TrainConfig
    programs: list[Program]
    vocabulary: Vocabulary | None = None
    weights: bytes | None = None

    @classmethod
    def of(cls, config: TrainConfig, cell: Cell | None) -> Self:
        """Return what a configuration asks for.

        Args:
            config: the options.
            cell: the cell, if it is not the one that `config` names by default.

        Raises:
            RunError: the other run can't be read, or has no weights yet.
            TrainingError: an option differs from the other run's, or does not apply to its weights.
        """
        if config.init_from is None:
            return cls(config, programs_of(config, cells.get(config.cell) if cell is None else cell))
        run = Run.open(config.init_from)
        where = display_path(run.path)
        given = config.model_fields_set
        for name in _OF_VOCABULARY + _OF_WEIGHTS:
            if name in given:
                source = "vocabulary comes" if name in _OF_VOCABULARY else "weights come"
                raise TrainingError(
                    f"{setting(name, getattr(config, name))} does not apply: the {source} from {where}; leave it out"
                )
        for name in _SHARED:
            wanted, found = getattr(config, name), getattr(run.config, name)
            if name in given and wanted != found:
                raise TrainingError(
                    f"{setting(name, wanted)} differs from the run to start from: {where} has {found}; leave it out"
                )
        if not run.has_weights:
            raise RunError(f"{where} has no weights yet, so no run can start from it")
        run.weights()  # refuses a damaged file
        shared = {name: getattr(run.config, name) for name in _SHARED}
        return cls(
            config.model_copy(update=shared),
            list(run.programs),
            run.vocabulary,
            (run.path / WEIGHTS).read_bytes(),
        )

"""The options that a search varies, for each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from throughtime.training.config import TrainConfig

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Dimension:
    """The values that an option is chosen from.

    Attributes:
        name: the option.
        low, high: the bounds of a number; whole numbers are drawn between whole bounds.
        log: whether a number is drawn evenly by its logarithm.
        choices: the values to choose from, instead of bounds.
    """

    name: str
    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Trial) -> Any:
        """The value of a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def including(self, value: Any) -> Dimension:
        """The same with a value among the choices, or within the bounds."""
        if not self.choices:
            return replace(self, low=min(self.low, value), high=max(self.high, value))
        return self if value in self.choices else replace(self, choices=tuple(sorted((*self.choices, value))))

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}{', by its logarithm' if self.log else ''}"


CELLS = ("gru", "lstm", "rnn")

GENERAL = (
    Dimension("cell", choices=CELLS),
    Dimension("hidden_size", 32, 512, log=True),
    Dimension("num_layers", 1, 3),
    Dimension("dropout", 0.0, 0.6),
    Dimension("lr", 3e-4, 3e-2, log=True),
    Dimension("batch", choices=(16, 32, 64, 128)),
)
"""What is varied for every task."""

OF_TASKS: dict[str, tuple[Dimension, ...]] = {
    "text": (Dimension("window", choices=(25, 50, 100, 200)),),
    "notes": (Dimension("batch", choices=(4, 8, 16)), Dimension("recurrent_dropout", 0.0, 0.6)),
}
"""What is varied for a task besides, or differently."""


def space_for(usual: TrainConfig, given: Mapping[str, Any], cells: tuple[str, ...] = CELLS) -> list[Dimension]:
    """What is varied in a search: the task's dimensions, but for the options that were given.

    Args:
        usual: the task's usual options, with those that were given; its values are within the space.
        given: the options that were given.
        cells: the cells to choose from.
    """
    found = {dimension.name: dimension for dimension in (*GENERAL, *OF_TASKS.get(usual.task.task, ()))}
    found["cell"] = Dimension("cell", choices=cells)
    values = defaults_of(usual)
    return [
        dimension if name == "cell" else dimension.including(values[name])
        for name, dimension in found.items()
        if given.get(name) is None and not (name == "cell" and len(cells) == 1)
    ]


def defaults_of(usual: TrainConfig) -> dict[str, Any]:
    """The options of a configuration, with the learning rate that applies."""
    return {**usual.given, "lr": usual.training.learning_rate}

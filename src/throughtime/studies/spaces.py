"""The options that a search varies, by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from throughtime.training.config import TrainConfig

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Dimension:
    """The values to choose an option from.

    Attributes:
        name: the option.
        low, high: the bounds of a number; integers are drawn if the bounds are integers.
        log: whether to draw a number from a logarithmic scale.
        choices: the values to choose from, instead of bounds.
    """

    name: str
    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Trial) -> Any:
        """Draw a value for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def including(self, value: Any) -> Dimension:
        """Return the dimension with its choices or bounds extended to include a value."""
        if not self.choices:
            return replace(self, low=min(self.low, value), high=max(self.high, value))
        return self if value in self.choices else replace(self, choices=tuple(sorted((*self.choices, value))))

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}{', log scale' if self.log else ''}"


CELLS = ("gru", "lstm", "rnn")

GENERAL = (
    Dimension("cell", choices=CELLS),
    Dimension("hidden_size", 32, 512, log=True),
    Dimension("num_layers", 1, 3),
    Dimension("dropout", 0.0, 0.6),
    Dimension("lr", 3e-4, 3e-2, log=True),
    Dimension("batch", choices=(16, 32, 64, 128)),
)
"""The dimensions that apply to every task."""

OF_TASKS: dict[str, tuple[Dimension, ...]] = {
    "text": (Dimension("window", choices=(25, 50, 100, 200)),),
    "notes": (Dimension("batch", choices=(4, 8, 16)), Dimension("recurrent_dropout", 0.0, 0.6)),
}
"""The dimensions that a task adds or overrides."""


def space_for(defaults: TrainConfig, given: Mapping[str, Any], cells: tuple[str, ...] = CELLS) -> list[Dimension]:
    """Return the dimensions of a search: the task's, without the options that were given.

    Args:
        defaults: the task's defaults combined with the given options; the space includes its values.
        given: the options given by the user.
        cells: the cells to choose from.
    """
    found = {dimension.name: dimension for dimension in (*GENERAL, *OF_TASKS.get(defaults.task.task, ()))}
    found["cell"] = Dimension("cell", choices=cells)
    values = defaults_of(defaults)
    return [
        dimension if name == "cell" else dimension.including(values[name])
        for name, dimension in found.items()
        if given.get(name) is None and not (name == "cell" and len(cells) == 1)
    ]


def defaults_of(defaults: TrainConfig) -> dict[str, Any]:
    """Return a configuration's options, with the learning rate that applies."""
    return {**defaults.given, "lr": defaults.training.learning_rate}

"""Classic long time lag tasks, each a generator of unlimited sequences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from throughtime.codecs import Codecs
from throughtime.data.batch import Batch
from throughtime.data.sequences import Sequences
from throughtime.errors import DataError
from throughtime.options import Count
from throughtime.outputs import Categorical, Point
from throughtime.spelling import setting
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress
from throughtime.tasks.options import SequenceOptions
from throughtime.tasks.sequences import SequenceTask, all_raw_outputs

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel

Array = NDArray[Any]

_EPOCH = 50  # batches per epoch; all sequences are new
_VALID = 400  # validation sequences
_SHOWN = 64  # sequences that represent the training data


class LagOptions(SequenceOptions):
    """Options for generated tasks.

    Attributes:
        lag: the number of steps to remember across.
    """

    task: str
    lag: Count = 100


class LagTask(SequenceTask):
    """A task on generated sequences, each of which is used once.

    Attributes:
        figure: the metric that decides whether the task is learned: `loss` or `accuracy`.
        threshold: the value of the metric at which the task counts as learned.
        guess: the value of the metric for a network without memory.
        min_lag: the shortest possible lag.
    """

    Options = LagOptions
    options: LagOptions
    defaults: ClassVar = {
        "batch": 50, "hidden_size": 64, "dropout": 0.0, "optimizer": "adam", "lr": 2e-3, "schedule": "constant",
        "epochs": 100,
    }  # fmt: skip
    figure: ClassVar[str] = "accuracy"
    threshold: ClassVar[float] = 0.99
    guess: ClassVar[float]
    min_lag: ClassVar[int] = 2

    @abstractmethod
    def draw(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Generate sequences.

        Returns:
            Token ids `[T, B]` or values `[T, B, F]`, and their targets `[B]`, `[B, K]` or `[T, B]`.
        """

    def learned(self, figures: Mapping[str, float]) -> bool:
        """Return whether the metric reaches the threshold."""
        value = figures[self.figure]
        return value >= self.threshold if self.figure == "accuracy" else value <= self.threshold

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "step" if self.interface(Codecs()).per_step else "sequence"

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Sequences]:
        """See `Task.prepare`."""
        if self.options.lag < self.min_lag:
            raise DataError(
                f"{self.name} needs a lag of at least {self.min_lag} steps, got {setting('lag', self.options.lag)}"
            )
        train, valid = self._sequences(0, _SHOWN), self._sequences(1, _VALID)
        name = f"{self.name.removeprefix('memory-')}, lag {self.options.lag}"
        return Data(name, codecs or Codecs(), train, valid, None, train.digest + valid.digest, {"valid": _VALID})

    def _sequences(self, part: int, count: int) -> Sequences:
        per_step = self.interface(Codecs()).per_step
        inputs, targets = self.draw(np.random.default_rng((_PARTS, part)), count)
        return Sequences(list(inputs.swapaxes(0, 1)), list(targets.T) if per_step else targets)

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> NoReturn:
        """Raise DataError: the sequences are generated, not read from files."""
        raise DataError(f"{self.name} generates its sequences and can't read files")

    def batches(  # type: ignore[override]
        self, part: Sequences, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> Generated:
        """Return batches of newly generated sequences."""
        return Generated(self, batch // ranks, (_TRAINING, seed, rank))

    def fitting_batch(self, data: Data[Sequences], batch: int, ranks: int) -> int:
        """Return the batch size, rounded down to a multiple of the number of processes."""
        return max(1, batch // ranks) * ranks

    def figures(self, figures: Figures, part: Sequences) -> Figures:
        """See `Task.figures`."""
        return {name: value for name, value in figures.items() if name != "terms"}

    def predict(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> Prediction:
        """Return the prediction for each sequence."""
        output = model.head.output

        def rows() -> Iterator[list[Any]]:
            for name, raw in zip(part.names, all_raw_outputs(model, part), strict=True):
                yield [name, output.predict(raw).tolist()]

        return Prediction(("sequence", "prediction"), rows())


_PARTS, _TRAINING = 7, 8  # different seeds for fixed parts and training data


class Generated:
    """Batches generated on demand; each depends only on its step and the seed.

    Attributes:
        terms: the number of loss terms per epoch.
    """

    def __init__(self, task: LagTask, rows: int, seed: tuple[int, ...]) -> None:
        self._task, self._rows, self._seed = task, rows, seed
        self.terms = _EPOCH * int(self.batch(0).terms)

    def __len__(self) -> int:
        return _EPOCH

    def batch(self, step: int) -> Batch:
        """Return the batch of a step."""
        inputs, targets = self._task.draw(np.random.default_rng((*self._seed, step)), self._rows)
        return Batch(inputs, targets, None, None, False, float(targets.size))


class Adding(LagTask):
    """Add the two marked numbers of a sequence.

    Each step has a number drawn from U(0, 1) and a mark, which is 1 at one step of each half and 0 elsewhere. The
    target is the sum of the marked numbers (Hochreiter & Schmidhuber 1997, experiment 4; with these numbers in
    Arjovsky et al. 2016, arXiv:1511.06464). Always predicting 1 has a mean squared error of 1/6. The lag is the length
    of the sequence.
    """

    name, about = "memory-adding", "add the two marked numbers of a sequence"
    figure, threshold, guess = "loss", 0.01, 1 / 6
    min_lag = 4

    def draw(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """See `LagTask.draw`."""
        steps, half = self.options.lag, self.options.lag // 2
        inputs = np.zeros((steps, count, 2), np.float32)
        inputs[..., 0] = generator.random((steps, count))
        rows = np.arange(count)
        for places in (generator.integers(0, half, count), generator.integers(half, steps, count)):
            inputs[places, rows, 1] = 1
        return inputs, inputs.prod(2).sum(0)[:, None]

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("numeric", 2, Point(1, "mse"), per_step=False)

    def features(self, codecs: Codecs) -> Sequence[str]:
        """See `SequenceTask.features`."""
        return "number", "mark"


class _Counted(LagTask):
    """A task on token ids whose metric is the accuracy at certain steps."""

    counted: ClassVar[tuple[int, int | None] | None] = None  # None if sequences have one target each
    alphabet: ClassVar[int]
    classes: ClassVar[int]
    monitor = "accuracy"
    maximize = True

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        per_step = self.counted is not None
        return Interface("embedding", self.alphabet, Categorical(self.classes), per_step=per_step, causal=per_step)

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """Return the accuracy at the steps that need memory."""
        from torchmetrics.classification import MulticlassAccuracy

        from throughtime.tasks.metrics import StepAccuracy

        if self.counted is None:
            return {"accuracy": MulticlassAccuracy(self.classes, average="micro")}
        return {"accuracy": StepAccuracy(*self.counted)}


class Copy(_Counted):
    """Repeat ten symbols after a delay.

    The input is ten of eight possible symbols, lag - 1 blanks, a delimiter and ten blanks. The target is blank except
    for the last ten steps, where the ten symbols must be repeated (Hochreiter & Schmidhuber 1997; with these settings
    in Arjovsky et al. 2016, arXiv:1511.06464). The accuracy counts only the ten symbols; chance level is 1/8.
    """

    name, about = "memory-copy", "repeat ten symbols after a delay"
    alphabet, classes = 10, 9
    counted, guess = (-10, None), 1 / 8
    min_lag = 1

    def draw(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """See `LagTask.draw`."""
        blank, delimiter = 8, 9
        steps = self.options.lag + 20
        inputs = np.full((steps, count), blank)
        targets = np.full((steps, count), blank)
        inputs[:10] = targets[-10:] = generator.integers(0, 8, (10, count))
        inputs[-11] = delimiter
        return inputs, targets


class TemporalOrder(_Counted):
    """Report the order in which two symbols occurred.

    Among four distractor symbols there are two relevant ones, each X or Y: one between 10% and 20% of the sequence and
    one between 40% and 50%. A sequence starts with E and ends with B. The four orders are the labels (Hochreiter &
    Schmidhuber 1997, experiment 6a; with these positions for any length in Pascanu et al. 2013, arXiv:1211.5063).
    Chance level is 1/4. The lag is the length of the sequence.
    """

    name, about = "memory-temporal-order", "report the order in which two symbols occurred"
    alphabet, classes = 8, 4
    guess = 1 / 4
    min_lag = 10

    def draw(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """See `LagTask.draw`."""
        begin, end, x = 4, 5, 6
        steps = self.options.lag
        inputs = generator.integers(0, 4, (steps, count))
        inputs[0], inputs[-1] = begin, end
        which = generator.integers(0, 2, (2, count))
        for k, (low, high) in enumerate(((0.1, 0.2), (0.4, 0.5))):
            places = generator.integers(round(low * steps), round(high * steps) + 1, count)
            inputs[places, np.arange(count)] = x + which[k]
        return inputs, 2 * which[0] + which[1]


class Parity(_Counted):
    """Report whether a sequence of random bits has an odd number of ones.

    There is one target, at the end of the sequence (Hochreiter & Schmidhuber 1997 discuss it as a benchmark of Bengio
    et al. 1994). Chance level is 1/2. The lag is the length of the sequence.
    """

    name, about = "memory-parity", "report whether a sequence of bits has an odd number of ones"
    alphabet, classes = 2, 2
    guess = 1 / 2

    def draw(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """See `LagTask.draw`."""
        inputs = generator.integers(0, 2, (self.options.lag, count))
        return inputs, inputs.sum(0) % 2


class Reber(_Counted):
    """Predict the next symbol of strings from the embedded Reber grammar.

    The second symbol, T or P, recurs as the second to last, after a string from the Reber grammar (Hochreiter &
    Schmidhuber 1997, experiment 1). Here that string is drawn so that the two symbols are `lag` steps apart. The
    accuracy counts only the second of the two; chance level is 1/2.
    """

    name, about = "memory-reber", "predict the next symbol of the embedded Reber grammar"
    alphabet, classes = 7, 7
    counted, guess = (-2, -1), 1 / 2
    min_lag = 6

    def draw(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """See `LagTask.draw`."""
        lag = self.options.lag
        strings = np.empty((lag + 3, count), np.int64)
        strings[0], strings[-1] = _B, _E
        strings[1] = strings[lag + 1] = generator.choice([_T, _P], count)
        strings[2 : lag + 1] = _reber_strings(generator, lag - 1, count)
        return strings[:-1], strings[1:]


_B, _T, _P, _S, _X, _V, _E = range(7)
# Two equally likely transitions from each node of the grammar: the symbol and the next node. The last node is the end.
_SYMBOLS = np.array([[_B, _B], [_T, _P], [_S, _X], [_T, _V], [_X, _S], [_P, _V], [_E, _E], [0, 0]])
_NEXT = np.array([[1, 1], [2, 3], [2, 4], [3, 5], [3, 6], [4, 6], [7, 7], [7, 7]])


@lru_cache(maxsize=16)
def _chances(length: int) -> Array:
    """Return the probability of reaching the end from each node, `[length + 1, nodes]`, up to a factor per row."""
    table = np.zeros((length + 1, len(_NEXT)))
    table[0, -1] = 1
    for steps in range(1, length + 1):
        table[steps, :-1] = table[steps - 1][_NEXT[:-1]].mean(1)
        table[steps] /= table[steps].max()
    return table


def _reber_strings(generator: np.random.Generator, length: int, count: int) -> Array:
    """Draw strings `[length, count]` from the Reber grammar, conditioned on their length."""
    table = _chances(length)
    found = np.empty((length, count), np.int64)
    nodes = np.zeros(count, np.int64)
    for step in range(length):
        ways = table[length - step - 1][_NEXT[nodes]]
        second = (generator.random(count) * ways.sum(1) >= ways[:, 0]).astype(int)
        found[step], nodes = _SYMBOLS[nodes, second], _NEXT[nodes, second]
    return found


LAG_TASKS: dict[str, type[LagTask]] = {
    kind.name.removeprefix("memory-"): kind for kind in (Adding, Copy, TemporalOrder, Parity, Reber)
}
"""The tasks by short name."""

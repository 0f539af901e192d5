"""Classification and regression of whole sequences in memory, for the scikit-learn estimators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from throughtime.codecs import Codecs
from throughtime.data.scaler import Scaler
from throughtime.data.sequences import Sequences
from throughtime.data.splits import split
from throughtime.errors import DataError
from throughtime.options import Count
from throughtime.outputs import Categorical, Output, Point
from throughtime.tasks.base import Data, Interface, Prediction, Progress
from throughtime.tasks.options import SequenceOptions
from throughtime.tasks.sequences import SequenceTask, all_raw_outputs

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel

Array = NDArray[Any]
Plain = bool | int | float | str
ClassType = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "str", "object",
]  # fmt: skip
"""The NumPy types of class labels, by name."""


class ArrayOptions(SequenceOptions):
    """Options for arrays in memory.

    Attributes:
        estimator: the parameters of the estimator.
        columns: the number of time steps per sequence, if the estimator was fitted to a table `[cases, time]`.
        column_names: the column names of that table or, without one, of the sequences, if they had any.
    """

    estimator: dict[str, Plain | None] = Field(default_factory=dict)
    columns: Count | None = None
    column_names: tuple[str, ...] | None = None


class ArrayTask(SequenceTask):
    """A task whose data are arrays in memory, with one target for each sequence."""

    options: ArrayOptions
    target_codec: ClassVar[type] = type(None)

    def data(self, inputs: Sequence[Array], targets: Array, share: float, seed: int) -> Data[Sequences]:
        """Split arrays into training and validation data, and scale them with statistics of the training part.

        Args:
            inputs: one array `[time, features]` per sequence.
            targets: class ids `[N]`, or values `[N, targets]`.
            share: the fraction of sequences to hold out for validation.
            seed: the seed of the split.

        Returns:
            The data. If the fraction is too small to validate on (fewer than 2 sequences, or fewer sequences than
            classes), nothing is held out and `valid` is `train`.
        """
        rows = held_out = np.arange(len(inputs))
        if round(share * len(inputs)) >= self.min_held_out:
            rows, held_out, _ = split(targets, None, share, seed)
        codecs = self._fit_codecs([inputs[k] for k in rows.tolist()], targets[rows])
        whole = self.sequences(inputs, codecs, targets)
        train = whole.take(rows)
        valid = train if held_out is rows else whole.take(held_out)
        counts = {"train": len(train), "valid": 0 if valid is train else len(valid)}
        return Data("arrays", codecs, train, valid, None, whole.digest, counts)

    def sequences(self, inputs: Sequence[Array], codecs: Codecs, targets: Array | None = None) -> Sequences:
        """Encode arrays `[time, features]`; the targets are zeros if None."""
        if targets is None:
            targets = self.no_targets(len(inputs))
        encoded = targets if codecs.targets is None else codecs.targets.encode(targets)
        return Sequences([codecs.inputs.encode(values) for values in inputs], encoded)

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("numeric", len(codecs.inputs.mean), self.output, per_step=False)

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> NoReturn:
        """Raise DataError: the arrays come from the estimator, not from files.

        Raises:
            DataError: always.
        """
        raise DataError(
            "this model was trained on arrays in memory and can't read files. Load it with "
            "throughtime.SequenceClassifier.load or throughtime.SequenceRegressor.load and call predict"
        )

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> NoReturn:
        """See `prepare`."""
        self.prepare()

    def require_codecs(self, codecs: Codecs) -> None:
        """Check the codecs of a loaded model.

        Raises:
            DataError: if they aren't this task's codecs.
        """
        kinds = (Scaler, self.target_codec)
        if not all(map(isinstance, (codecs.inputs, codecs.targets), kinds)):
            raise DataError(f"the codecs must be {' and '.join(kind.__name__ for kind in kinds)}")

    def fits(self, model: SequenceModel, codecs: Codecs) -> bool:
        """Return whether a network matches this task and its codecs."""
        columns, names = self.options.columns, self.options.column_names
        return (
            (columns is None or len(codecs.inputs.mean) == 1)
            and (names is None or len(names) == (columns or model.input_size))
            and not model.reads_tokens
            and not model.per_step
            and model.head.output == self.output
            and model.input_size == len(codecs.inputs.mean)
            and (codecs.targets is None or len(codecs.targets.mean) == self.output.width)
        )

    @property
    def output(self) -> Output:
        """The type of the network's output."""
        raise NotImplementedError

    @property
    def min_held_out(self) -> int:
        """The smallest number of sequences worth validating on."""
        return 2

    def no_targets(self, count: int) -> Array:
        """Return placeholder targets for sequences without targets."""
        raise NotImplementedError

    def _fit_codecs(self, inputs: Sequence[Array], targets: Array) -> Codecs:
        return Codecs(Scaler.fit(inputs))


class ClassificationOptions(ArrayOptions):
    """Options for arrays in memory with a class per sequence.

    Attributes:
        classes: the class labels, sorted.
        class_type: the NumPy type of the labels.
    """

    task: Literal["array-classification"] = "array-classification"
    classes: tuple[Plain, ...]
    class_type: ClassType


class ArrayClassification(ArrayTask):
    """Predict the class of each sequence."""

    name: ClassVar = "array-classification"
    about: ClassVar = "predict the class of each sequence in an array"
    Options = ClassificationOptions
    options: ClassificationOptions

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "sequence"

    @property
    def output(self) -> Categorical:
        """A distribution over the classes."""
        return Categorical(len(self.options.classes))

    @property
    def min_held_out(self) -> int:
        """One sequence per class, and at least 2."""
        return max(2, len(self.options.classes))

    def no_targets(self, count: int) -> Array:
        """See `ArrayTask.no_targets`."""
        return np.zeros(count, np.int64)

    def predict(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> Prediction:
        """Predict the most likely class of each sequence and its probability."""
        chances = self.output.probabilities(np.stack(all_raw_outputs(model, part)))
        best = chances.argmax(1)
        labels = [self.options.classes[k] for k in best]
        rows = zip(part.names, labels, chances.max(1).tolist(), strict=True)
        return Prediction(("sequence", "class", "probability"), rows)


class RegressionOptions(ArrayOptions):
    """Options for arrays in memory with one or more target values per sequence.

    Attributes:
        values: the number of target values per sequence; None if the target array is one-dimensional.
    """

    task: Literal["array-regression"] = "array-regression"
    values: Count | None = None


class ArrayRegression(ArrayTask):
    """Predict one or more values for each sequence."""

    name: ClassVar = "array-regression"
    about: ClassVar = "predict values for each sequence in an array"
    Options = RegressionOptions
    options: RegressionOptions
    target_codec = Scaler

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "sequence"

    @property
    def output(self) -> Point:
        """A point prediction of the values."""
        return Point(self.options.values or 1, "mse")

    def no_targets(self, count: int) -> Array:
        """See `ArrayTask.no_targets`."""
        return np.zeros((count, self.output.targets))

    def predict(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> Prediction:
        """Predict the values of each sequence."""
        values = codecs.targets.decode(np.stack(all_raw_outputs(model, part)))
        columns = [f"value {k}" for k in range(values.shape[1])]
        rows = ([name, *row] for name, row in zip(part.names, values.tolist(), strict=True))
        return Prediction(("sequence", *columns), rows)

    def _fit_codecs(self, inputs: Sequence[Array], targets: Array) -> Codecs:
        return Codecs(Scaler.fit(inputs), Scaler.fit([targets]))

"""The interface of a task, as used by training, evaluation, prediction and reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from throughtime.codecs import Codecs
from throughtime.data.batch import Batch
from throughtime.errors import DataError, UserError
from throughtime.spelling import option
from throughtime.task_description import TaskDescription
from throughtime.tasks.options import TaskOptions
from throughtime.tasks.registry import registered

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.outputs import Output
    from throughtime.runs import Run
    from throughtime.sight.report.data import Sound
    from throughtime.sight.report.passage import Passage

Figures = dict[str, float]
"""Measured values by name."""

Progress = Callable[[str, int, int], None]
"""A callback that receives the current activity, the amount done, and the total."""

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class Data(Generic[S]):
    """Data ready to train on.

    Attributes:
        name: the name of the data in reports.
        codecs: the codecs, fitted to the training part only.
        train: the training data.
        valid: held-out data used to select the best weights.
        test: data held out until the end, if any.
        digest: a hash of the data; a run can only be resumed on data with the same digest.
        counts: the sizes of "train", "valid" and "test", and any other counts that the task reports.
        notes: remarks on the data for the user.
    """

    name: str
    codecs: Codecs
    train: S
    valid: S
    test: S | None
    digest: str
    counts: Mapping[str, int]
    notes: Sequence[str] = ()

    @property
    def reported(self) -> S:
        """The part whose results are reported: the test part, or the validation part if there is none."""
        return self.valid if self.test is None else self.test


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a task's network.

    Attributes:
        kind: "embedding" if the network reads token ids, "numeric" if it reads numbers.
        size: the vocabulary size, or the number of features per step.
        output: the type of the output.
        per_step: whether there is an output for each step rather than one for each sequence.
        causal: whether an output must not depend on later steps, because it predicts them.
        skip: whether the first input features are added to the output.
        step_inputs: the names of the cell's inputs other than x that the data provide, each with a width of 1. They are
            the last features of a step.
    """

    kind: str
    size: int
    output: Output
    per_step: bool = True
    causal: bool = False
    skip: bool = False
    step_inputs: Sequence[str] = ()


class Batches(Protocol):
    """The batches of a part of the data that one process reads."""

    @property
    def terms(self) -> int:
        """The number of loss terms in all batches of this process."""
        ...

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        ...

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over all epochs; the same step always returns the same batch."""
        ...


@dataclass(frozen=True)
class Prediction:
    """A network's predictions as a table.

    Attributes:
        columns: the column names.
        rows: the rows, computed lazily.
    """

    columns: Sequence[str]
    rows: Iterator[Sequence[Any]]

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"<prediction: rows of {', '.join(self.columns)}, computed while you iterate over it>"


class Task(ABC, Generic[S]):
    """A task and its options. A subclass with a `name` registers itself under that name.

    Attributes:
        name: the name that users type.
        about: a short description of what the task learns.
        Options: the class of its options, with its defaults of network and training options.
        unit: the unit that the loss is averaged over, such as "character".
        monitor: the metric used to select the best weights.
        maximize: whether a larger value of `monitor` is better.
        baseline_rows: the number of rows to print for each baseline.
        max_evaluated: the maximum number of loss terms to measure on held-out data after training.
        fitting: the names of options that affect how codecs are fitted.
        prediction_files: the extensions that predictions can be written to, besides tables.
        interfacing: the names of options that must match for a run to start from another run's weights.
        reads_again: whether the training report reads held-out data after the evaluation.
        reads_standard_input: whether the data can be "-", standard input.
        default_data: a short name of the data to train on if the user names none; None if data are required.
        shows_reach: whether the training report shows how far gradients reach before and after training.
        parts: what each part of the data is for, in words.
        per_data: the names of options that apply only to the data they are passed with.

    Args:
        options: the options.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    Options: ClassVar[type[TaskOptions]]
    monitor: ClassVar[str] = "loss"
    maximize: ClassVar[bool] = False
    baseline_rows: ClassVar[int] = 2
    max_evaluated: ClassVar[int] = 1_000_000
    fitting: ClassVar[Sequence[str]] = ()
    prediction_files: ClassVar[Sequence[str]] = ()
    interfacing: ClassVar[Sequence[str]] = ()
    per_data: ClassVar[Sequence[str]] = ()
    parts: ClassVar[Mapping[str, str]] = {"train": "for training", "valid": "for validation", "test": "for the test"}
    reads_again: ClassVar[bool] = False
    reads_standard_input: ClassVar[bool] = False
    default_data: ClassVar[str | None] = None
    shows_reach: ClassVar[bool] = True

    def __init__(self, options: TaskOptions) -> None:
        self.options = options

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls):
            registered[cls.name] = cls

    @classmethod
    def required_of(cls, run: Run, what: str) -> Self:
        """Return the task of a run, which must be an instance of this class.

        Args:
            run: the run.
            what: the command or function that needs this task, for the message.

        Raises:
            UserError: if the run's task is a different one.
        """
        task = run.task
        if not isinstance(task, cls):
            raise UserError(f"{run.path} is a run of task {task.name}; {what} takes runs of task {cls.name}")
        return task

    @classmethod
    def of_description(cls, description: TaskDescription) -> Task[Any]:
        """Create a task from its description, without data paths."""
        from throughtime import tasks

        kind = tasks.get(description.name)
        return kind(kind.Options.model_validate({"task": description.name, **description.options}))

    @classmethod
    def detect(cls, options: Mapping[str, Any]) -> str:
        """Return a short reason why the options imply this task, or "" if they don't.

        Args:
            options: the options that the user set; `data`, if present, is as the user passed it.
        """
        return ""

    @classmethod
    def require_readable(cls, paths: Sequence[str | Path]) -> None:
        """Check that paths name standard input only if the task can read it.

        Raises:
            DataError: if they do and it can't.
        """
        if "-" in paths and not cls.reads_standard_input:
            raise DataError(f"standard input is only for task text, but the task is {cls.name}; pass files")

    @property
    def unit(self) -> str:
        """The unit that the loss is averaged over, such as "character"."""
        return "step"

    def next_commands(self, codecs: Codecs) -> Sequence[str]:
        """Return commands to suggest after training; {} becomes the run's directory, and DATA the training data."""
        return "inspect {}", "predict {} DATA --out {}/predictions.csv"

    @property
    def loss_in_words(self) -> str:
        """The name of the loss in reports, such as "nats per character"."""
        return f"nats per {self.unit}"

    def describe(self, codecs: Codecs, baselines: Mapping[str, Any] | None = None) -> TaskDescription:
        """Return the task as plain data, with its options except those about data."""
        of_data = {"task", "data", "valid", "test", *self.per_data}
        return TaskDescription(self.name, codecs, self.options.model_dump(exclude=of_data), baselines or {})

    @abstractmethod
    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[S]:
        """Read the data that the options name.

        Args:
            progress: called with the current activity and its progress.
            codecs: the codecs of an earlier run on the same data; fitted to the data if None.

        Raises:
            DataError: if the data can't be read or are unsuitable.
        """

    @abstractmethod
    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> S:
        """Read other data to evaluate on or predict.

        Raises:
            DataError: if the data can't be read or don't match the codecs.
        """

    @classmethod
    def reads_test_part(cls, paths: Sequence[str | Path]) -> bool:
        """Return whether an evaluation on the training data reads only the part that was held out for the test."""
        return False

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> S:
        """Read data to predict; targets may be missing.

        Raises:
            DataError: if the data can't be read or don't match the codecs.
        """
        return self.read(paths, codecs, progress)

    def read_update(
        self, paths: Sequence[str | Path], update: str | Path, codecs: Codecs, progress: Progress | None = None
    ) -> S:
        """Read data to predict from, then append the rows of another file.

        Raises:
            UserError: if the task doesn't support updates.
            DataError: if the data can't be read or don't match the codecs.
        """
        raise UserError(f"{option('update')} is for forecasts; this network was trained for task {self.name}")

    @abstractmethod
    def interface(self, codecs: Codecs) -> Interface:
        """Return the network's interface."""

    @abstractmethod
    def batches(self, part: S, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Batches:
        """Return training batches of a part of the data.

        Args:
            part: the part.
            batch: the batch size, summed over all processes.
            seed: the seed of the order.
            rank: the rank of this process.
            ranks: the number of processes.
        """

    @abstractmethod
    def reading(self, part: S, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1) -> Batches:
        """Return evaluation batches that cover a part of the data exactly once.

        Args:
            part: the part.
            batch: the batch size; a larger one is faster and may be less exact.
            terms: the approximate number of loss terms to measure; all if None.
            rank: the rank of this process.
            ranks: the number of processes.
        """

    def fitting_batch(self, data: Data[S], batch: int, ranks: int) -> int:
        """Return the requested batch size, or a smaller one if there is too little data.

        Raises:
            DataError: if there is too little data for any batch size.
        """
        return batch

    def subset(self, part: S, terms: int | None) -> S:
        """Return the subset of the data on which the metrics and the baselines are measured.

        Args:
            part: the part.
            terms: the approximate number of loss terms; all if None.
        """
        return part

    def rolling(self, part: S, windows: int | None, step: int | None) -> S:
        """Return the windows of a rolling-origin evaluation.

        Args:
            part: the part of the data to take windows from.
            windows: the number of windows per series, counted from the end; all if None.
            step: the number of rows between the origins of consecutive windows; the task's default if None.

        Raises:
            UserError: if the task doesn't forecast.
        """
        raise UserError(
            f"{option('windows')} and {option('step')} are for forecasts; this network was trained for task {self.name}"
        )

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """Return the metrics to measure besides the loss: torchmetrics that take the head's raw outputs and targets."""
        return {}

    def loss(self, figures: Figures) -> float:
        """Return the loss to report for a part of the data.

        Args:
            figures: the mean `loss` of all batches, and the metrics.
        """
        return figures["loss"]

    def figures(self, figures: Figures, part: S) -> Figures:
        """Derive the metrics to report from the measured ones.

        Args:
            figures: `loss`, `terms` and the metrics.
            part: the data they were measured on.
        """
        return figures

    def extra_figures(self, model: SequenceModel, part: S, terms: int | None = None) -> Figures:
        """Measure metrics that are not means over batches.

        Args:
            model: the trained network.
            part: the part of the data to measure on.
            terms: the approximate number of loss terms to measure; all if None.
        """
        return {}

    def calibrate(self, model: SequenceModel, data: Data[S], terms: int | None = None) -> Mapping[str, Any]:
        """Fit corrections to the trained network's predictions and return plain data for `model.task.calibration`.

        Args:
            model: the trained network.
            data: the data.
            terms: the approximate maximum number of loss terms to read; the task's own limit if None.
        """
        return {}

    def baselines(self, data: Data[S]) -> Mapping[str, Any]:
        """Fit baselines to compare the network with, and return them as plain data."""
        return {}

    def baseline_figures(self, fitted: Mapping[str, Any], part: S, codecs: Codecs) -> dict[str, Figures]:
        """Return the baselines' metrics on a part of the data, named like the network's."""
        return {}

    @property
    def compared_metric(self) -> tuple[str, bool]:
        """The metric by which the network is compared with the baselines, and whether larger is better."""
        return self.headline_metric, self.maximize

    @property
    def headline_metric(self) -> str:
        """The metric that represents a finished run in lists."""
        return self.monitor

    def label(self, metric: str) -> str:
        """Return the name of a metric in readable form."""
        return metric.replace("_", " ")

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (label, text) pairs that show the metrics in readable form."""
        return [(self.label(name), f"{value:,.4f}") for name, value in figures.items() if value is not None]

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """Return a readable description of the size of the data."""
        return ", ".join(f"{counts[name]:,} {words}" for name, words in self.parts.items() if counts.get(name))

    @abstractmethod
    def predict(self, model: SequenceModel, part: S, codecs: Codecs) -> Prediction:
        """Predict a part of the data."""

    def example(self, model: SequenceModel, data: Data[S]) -> str:
        """Return an example prediction, shown after each quarter of training; "" for none.

        Args:
            model: the network being trained, in evaluation mode.
            data: the data; use the same held-out example each time, so that users can see progress.

        Returns:
            A line such as a prediction next to the true value, or several lines for a text.
        """
        return ""

    def usage_figures(self, model: SequenceModel, codecs: Codecs) -> Figures:
        """Return additional metrics for `evaluate`, such as the network's speed; they vary from run to run."""
        return {}

    def write_prediction(
        self, model: SequenceModel, paths: Sequence[str | Path], codecs: Codecs, out: Path, progress: Progress | None
    ) -> str:
        """Write predictions to a file with one of the extensions in `prediction_files`.

        Args:
            model: the network.
            paths: the data, as the user passed them.
            codecs: the codecs of the run.
            out: the path of the output file.
            progress: called with the current activity and its progress.

        Returns:
            A short description of the written file.

        Raises:
            UserError: if the task writes its predictions as tables only.
            DataError: if the data can't be read or don't match the codecs.
        """
        raise UserError(f"predictions of task {self.name} are tables; use .csv or .parquet")

    def pictures(self, model: SequenceModel, data: Data[S], terms: int) -> dict[str, Any]:
        """Return the task's part of the training report, besides learning curves, the gradients' reach and samples.

        The results are those of `data.reported`.

        Args:
            model: the trained network.
            data: the data.
            terms: the approximate number of loss terms of a part of the data to use.

        Returns:
            Fields of `throughtime.sight.report.data.ReportData`.
        """
        return {}

    def outcome(self, model: SequenceModel, part: S, codecs: Codecs) -> dict[str, Any]:
        """Return detailed results on a part of the data, as fields of `ReportData`."""
        return {}

    def sounds(self, model: SequenceModel, part: S, codecs: Codecs, names: Sequence[str]) -> Sequence[Sound]:
        """Return excerpts of sound to show and play, for tasks whose steps are audio samples.

        Args:
            model: the network.
            part: a part of the data.
            codecs: the codecs.
            names: the names of recorded network values to show along with the sound.
        """
        return ()

    def passage(self, part: S, codecs: Codecs, length: int, name: str) -> Passage:
        """Return a passage of the data for `inspect` to show.

        Args:
            part: the part.
            codecs: the codecs.
            length: the approximate number of steps to show.
            name: the name of the part in the report.

        Raises:
            UserError: if the task's data can't be shown.
        """
        raise UserError(f"inspect doesn't support task {self.name}")

    def read_passage(
        self, paths: Sequence[str | Path], codecs: Codecs, length: int, progress: Progress | None = None
    ) -> Passage:
        """Return a passage of other data; see `passage`.

        Raises:
            DataError: if the data can't be read or don't match the codecs.
        """
        return self.passage(self.read(paths, codecs, progress), codecs, length, ", ".join(Path(p).name for p in paths))

    def text_passage(self, text: str, codecs: Codecs, length: int) -> Passage:
        """Return a passage of a text that the user typed; see `passage`.

        Raises:
            UserError: if the task doesn't read text.
        """
        raise UserError(f"{option('text')} is for networks that read text; task {self.name} reads data from files")

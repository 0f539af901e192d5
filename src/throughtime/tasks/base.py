"""What a task is: all that training, evaluating, predicting and reporting need to know about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from throughtime.codecs import Codecs
from throughtime.data.batch import Batch
from throughtime.errors import UserError
from throughtime.spelling import option
from throughtime.task_description import TaskDescription
from throughtime.tasks.options import TaskOptions

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.outputs import Output
    from throughtime.runs import Run
    from throughtime.sight.report.data import Sound
    from throughtime.sight.report.passage import Passage

Figures = dict[str, float]
"""What was measured, by name."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is in all."""

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class Data(Generic[S]):
    """Data ready to train on.

    Attributes:
        name: what to call them in a report.
        codecs: fitted on the training part alone.
        train: what to learn from.
        valid: held out, to select the weights by.
        test: held out to the end, if there is such a part.
        digest: tells the data; a run that is resumed on others would not be the same run.
        counts: how much there is of what, for people: of "train", "valid", "test" and whatever else the task counts.
        notes: what the user should know about them.
    """

    name: str
    codecs: Codecs
    train: S
    valid: S
    test: S | None
    digest: str
    counts: Mapping[str, int]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Interface:
    """What a task's network takes and gives.

    Attributes:
        kind: "embedding" where it reads ids of symbols, "numeric" where it reads numbers.
        size: how many symbols there are, or numbers per step.
        output: what its output means.
        per_step: whether there is an output for each step, or one for each sequence.
        causal: whether an output must not see later steps, as it predicts them.
        skip: whether the first numbers of the input are added to the output.
    """

    kind: str
    size: int
    output: Output
    per_step: bool = True
    causal: bool = False
    skip: bool = False


class Batches(Protocol):
    """Batches of a part of the data, as one process reads them."""

    @property
    def terms(self) -> int:
        """How many terms the losses of all batches have, in this process."""
        ...

    def __len__(self) -> int:
        """How many batches go once through the data."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step; steps count on through the epochs. The same step always gives the same batch."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What a network predicts, as a table.

    Attributes:
        columns: their names.
        rows: the values, made as they are read.
    """

    columns: Sequence[str]
    rows: Iterator[Sequence[Any]] = field(repr=False)


_registered: dict[str, type[Task[Any]]] = {}


def registered() -> Mapping[str, type[Task[Any]]]:
    """The tasks whose Python has been run, by name."""
    return _registered


class Task(ABC, Generic[S]):
    """A task, with its options. A subclass that has a name is known by it from then on.

    Attributes:
        name: what the user calls it.
        about: what it learns, in a few words.
        Options: the class of its options.
        defaults: options of network and training whose usual value differs from the general one.
        unit: what the loss is per.
        measure: what the loss is in, as a report calls it.
        monitor: the figure that selects the weights.
        maximize: whether a larger one is better.
        next_commands: what a user may do with a run, with {} for its directory and DATA for the data that trained it.
        baseline_rows: how many rows of a baseline's figures a person is shown.
        most_evaluated: how many terms of held-out data the figures at the end are measured on, at most.
        fitting: the names of options that say how codecs are fitted.
        prediction_files: extensions of files, besides tables, that predictions can be written to.
        interfacing: the names of options that two runs must share for one to start from the other's weights.
        per_data: the names of options that describe the data that they are given with, and no others.

    Args:
        options: the options.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    Options: ClassVar[type[TaskOptions]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    measure: ClassVar[str] = "nats"
    monitor: ClassVar[str] = "loss"
    maximize: ClassVar[bool] = False
    next_commands: ClassVar[Sequence[str]] = ("evaluate {} DATA", "predict {} DATA --out predictions.csv")
    baseline_rows: ClassVar[int] = 2
    most_evaluated: ClassVar[int] = 1_000_000
    fitting: ClassVar[Sequence[str]] = ()
    prediction_files: ClassVar[Sequence[str]] = ()
    interfacing: ClassVar[Sequence[str]] = ()
    per_data: ClassVar[Sequence[str]] = ()

    def __init__(self, options: TaskOptions) -> None:
        self.options = options

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls):
            _registered[cls.name] = cls

    @classmethod
    def required_of(cls, run: Run, what: str) -> Self:
        """The task of a run, if it is this one.

        Args:
            run: the run.
            what: what wants it, for the message.

        Raises:
            UserError: the run is of another task.
        """
        task = run.task
        if not isinstance(task, cls):
            raise UserError(f"{run.path} is a run of task {task.name}; {what} takes runs of task {cls.name}")
        return task

    @classmethod
    def of_description(cls, description: TaskDescription) -> Task[Any]:
        """The task of a description, without the paths of its data."""
        from throughtime import tasks

        kind = tasks.get(description.name)
        return kind(kind.Options.model_validate({"task": description.name, **description.options}))

    @classmethod
    def speaks_for(cls, options: Mapping[str, Any]) -> str:
        """Why data are meant for this task if none is named, in a few words; "" if they aren't.

        Args:
            options: the options that were given; `data` is among them, if at all, as the user gave it.
        """
        return ""

    @property
    def unit(self) -> str:
        """What the loss is per: "character", say."""
        return "step"

    def describe(self, codecs: Codecs, baselines: Mapping[str, Any] | None = None) -> TaskDescription:
        """The task as plain data: with its options, but for those that describe data."""
        of_data = {"task", "data", "valid", "test", *self.per_data}
        return TaskDescription(self.name, codecs, self.options.model_dump(exclude=of_data), baselines or {})

    @abstractmethod
    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[S]:
        """Reads the data that the options name.

        Args:
            progress: told what is being done, and how far.
            codecs: those of an earlier run on the same data; fitted if not given.

        Raises:
            DataError: they can't be read, or don't fit.
        """

    @abstractmethod
    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> S:
        """Reads other data, to evaluate or predict.

        Raises:
            DataError: they can't be read, or don't fit the codecs.
        """

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> S:
        """Reads other data to predict, whose targets may be absent.

        Raises:
            DataError: they can't be read, or don't fit the codecs.
        """
        return self.read(paths, codecs, progress)

    def read_update(
        self, paths: Sequence[str | Path], update: str | Path, codecs: Codecs, progress: Progress | None = None
    ) -> S:
        """Reads data to predict from, continued by those of another file.

        Raises:
            UserError: the task's data are not continued.
            DataError: they can't be read, or don't fit the codecs.
        """
        raise UserError(f"{option('update')} is for forecasts; this network was trained for task {self.name}")

    @abstractmethod
    def interface(self, codecs: Codecs) -> Interface:
        """What the network takes and gives."""

    @abstractmethod
    def batches(self, part: S, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Batches:
        """A part of the data in batches to train on.

        Args:
            part: the part.
            batch: rows of a batch, in all processes together.
            seed: what the order is drawn from.
            rank: which process this is.
            ranks: how many there are.
        """

    @abstractmethod
    def reading(self, part: S, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1) -> Batches:
        """A part of the data in the batches that it is measured by, each once.

        Args:
            part: the part.
            batch: rows of a batch; more are quicker, and may be less exact.
            terms: about how many terms to measure; all if not given.
            rank: which process this is.
            ranks: how many there are.
        """

    def fitting_batch(self, data: Data[S], batch: int, ranks: int) -> int:
        """The batch to train with: the one wanted, or a smaller one where the data are too few for it.

        Raises:
            DataError: they are too few for any.
        """
        return batch

    def subset(self, part: S, terms: int | None) -> S:
        """The part of the data that the figures of so many terms, and those of the baselines beside them, are of.

        Args:
            part: the part.
            terms: about how many terms; all if None.
        """
        return part

    def rolling(self, part: S, windows: int | None, step: int | None) -> S:
        """The windows of a rolling-origin evaluation.

        Args:
            part: the part of the data that windows are taken from.
            windows: how many windows of each series, the last ones; all if None.
            step: how many rows from the origin of a window to the next; the task's usual number if None.

        Raises:
            UserError: the task doesn't forecast.
        """
        raise UserError(
            f"{option('windows')} and {option('step')} are for forecasts; this network was trained for task {self.name}"
        )

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """What is measured besides the loss: torchmetrics that take the head's numbers and the targets."""
        return {}

    def figures(self, figures: Figures, part: S) -> Figures:
        """What was measured and what follows from it.

        Args:
            figures: `loss`, `terms` and the metrics.
            part: what was measured on.
        """
        return figures

    def further_figures(self, model: SequenceModel, part: S, terms: int | None = None) -> Figures:
        """Measure what is not a mean over batches.

        Args:
            model: the trained network.
            part: the part of the data to measure on.
            terms: about how many terms to measure; all if not given.
        """
        return {}

    def calibrate(self, model: SequenceModel, data: Data[S]) -> Mapping[str, Any]:
        """Fit corrections of the trained network's predictions, as plain data for `model.task.calibration`."""
        return {}

    def baselines(self, data: Data[S]) -> Mapping[str, Any]:
        """Fits the baselines that a user should see beside the network, as plain data."""
        return {}

    def baseline_figures(self, fitted: Mapping[str, Any], part: S, codecs: Codecs) -> dict[str, Figures]:
        """The figures of the baselines on a part of the data, under the names that the network's have."""
        return {}

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Figures as a person reads them: labels and texts."""
        return [(name.replace("_", " "), f"{value:,.4f}") for name, value in figures.items() if value is not None]

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """How much data there is, as a person reads it."""
        parts = {"train": "for training", "valid": "for validation", "test": "for the test"}
        return ", ".join(f"{counts[name]:,} {words}" for name, words in parts.items() if counts.get(name))

    @abstractmethod
    def predict(self, model: SequenceModel, part: S, codecs: Codecs) -> Prediction:
        """What a network predicts for a part of the data."""

    def example(self, model: SequenceModel, data: Data[S]) -> str:
        """What the network makes of the data so far, which a training shows after each quarter; "" for nothing.

        Args:
            model: the network in training, in evaluation mode.
            data: the data; the same held-out piece each time lets a person see the progress.

        Returns:
            A line, such as a prediction beside the true value; several lines for a text.
        """
        return ""

    def usage_figures(self, model: SequenceModel, codecs: Codecs) -> Figures:
        """Figures of the network's use that `evaluate` adds, such as its speed; they vary from run to run."""
        return {}

    def write_prediction(
        self, model: SequenceModel, paths: Sequence[str | Path], codecs: Codecs, out: Path, progress: Progress | None
    ) -> str:
        """Writes what a network predicts to a file of one of the kinds in `prediction_files`.

        Args:
            model: the network.
            paths: the data, as the user gave them.
            codecs: those of the run.
            out: the file.
            progress: told what is being done, and how far.

        Returns:
            What was written, in a few words.

        Raises:
            UserError: the task's predictions are tables.
            DataError: the data can't be read, or don't fit the codecs.
        """
        raise UserError(f"predictions of task {self.name} are tables")

    def pictures(self, model: SequenceModel, untrained: SequenceModel, data: Data[S]) -> dict[str, Any]:
        """What the report that training ends with shows besides the learning curves.

        Args:
            model: the trained network.
            untrained: the network as it was before the first step.
            data: the data.

        Returns:
            Fields of `throughtime.sight.report.data.ReportData`.
        """
        return {}

    def outcome(self, model: SequenceModel, part: S, codecs: Codecs) -> dict[str, Any]:
        """How a network does on a part of the data, in more detail than figures, as fields of `ReportData`."""
        return {}

    def sounds(self, model: SequenceModel, part: S, codecs: Codecs, names: Sequence[str]) -> Sequence[Sound]:
        """Stretches of sound to show and to play, of a task whose steps are samples of sound; none for others.

        Args:
            model: the network.
            part: a part of the data.
            codecs: the codecs.
            names: values of the network to show along the sound.
        """
        return ()

    def passage(self, part: S, codecs: Codecs, length: int, name: str) -> Passage:
        """What to show of a part of the data in a look inside the network.

        Args:
            part: the part.
            codecs: the codecs.
            length: about how many steps to show.
            name: what to call the part.

        Raises:
            UserError: the task's data can't be shown.
        """
        raise UserError(f"inspect doesn't show data of task {self.name}")

    def read_passage(
        self, paths: Sequence[str | Path], codecs: Codecs, length: int, progress: Progress | None = None
    ) -> Passage:
        """What to show of other data; see `passage`.

        Raises:
            DataError: they can't be read, or don't fit the codecs.
        """
        return self.passage(self.read(paths, codecs, progress), codecs, length, ", ".join(Path(p).name for p in paths))

    def text_passage(self, text: str, codecs: Codecs, length: int) -> Passage:
        """What to show of a text that the user typed; see `passage`.

        Raises:
            UserError: the task doesn't read text.
        """
        raise UserError(f"{option('text')} is for networks that read text; task {self.name} reads data from files")


class Generative(Task[S]):
    """A task whose network can draw new data.

    Attributes:
        extension: of the file that a sample is written to; None for text, which is printed.
    """

    extension: ClassVar[str | None] = None

    @abstractmethod
    def sample(
        self,
        model: SequenceModel,
        codecs: Codecs,
        prompt: str = "",
        *,
        length: int,
        seed: int = 0,
        temperature: float = 1.0,
        **draw: Any,
    ) -> Iterable[Any]:
        """Draws a sample, in pieces as they are made."""

    @abstractmethod
    def write_sample(self, pieces: Iterable[Any], path: Path, prompt: str, codecs: Codecs | None = None) -> None:
        """Writes a sample to a file, after its prompt."""

    def usual_length(self, codecs: Codecs) -> int:
        """How many symbols or steps a sample has if the user doesn't say."""
        return 500

    def first_samples(self, model: SequenceModel, codecs: Codecs) -> list[str]:
        """The samples that a finished run is shown with, always the same ones; none where they aren't text."""
        return []


def require_known(draw: Mapping[str, Any], *known: str) -> None:
    """Refuses ways of drawing that a task doesn't have.

    Args:
        draw: those that are left over.
        known: the names of those that it has.

    Raises:
        UserError: there are some.
    """
    for name in draw:
        raise UserError(f"{option(name)} isn't a way of drawing here; known are {', '.join(map(option, known))}")

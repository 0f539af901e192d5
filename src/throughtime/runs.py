"""The run directory, which holds the results of training and everything needed to resume it.

config.json         options, data summary and plan; written last, so a directory with it is a complete run
task.json           the task with its codecs, such as the vocabulary
program.json        each layer's program, so a model loads without the Python source of its cell
model.safetensors   the weights with the best validation metric; includes programs and task, so it is a complete model
metrics.csv         step, epoch, time, lr, train_loss, grad_norm, valid_loss and the task's metrics
rates.f64           each step's learning rate
replayed.f64        the learning rates to follow, if the run replays another
checkpoints/        the state to resume from
initial.safetensors the initial weights, if they come from another run
log.txt, result.json
report.html         learning curves, gradients before and after training, samples; the first file to look at
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from throughtime import tasks
from throughtime.errors import ModelError, RunError, UserError, VersionError
from throughtime.files import DISK_FULL, replacing
from throughtime.model_file import ModelFile, encoded
from throughtime.options import explained
from throughtime.paths import display_path, run_path
from throughtime.program.core import Program
from throughtime.program.saving import list_to_json
from throughtime.spelling import command, counted, duration, figure, option
from throughtime.stored import (
    CONFIG,
    INITIAL,
    PROGRAMS,
    REPLAYED,
    RESULT,
    TASK,
    WEIGHTS,
    read_programs,
    read_text,
    require_new,
    require_run,
)
from throughtime.tables import html_table
from throughtime.task_description import TaskDescription
from throughtime.tasks.base import Data, Figures, Prediction, Task
from throughtime.training.config import ENDS, TrainConfig
from throughtime.training.run_config import DataSummary, Plan, Record, read_record, versions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from throughtime.nn.sequence_model import SequenceModel


_RESULT_FIELDS = ("steps", "epochs", "seconds", "best_step", "measured", "valid", "test", "samples")


@dataclass(frozen=True)
class Headline:
    """The metric that represents a run.

    Attributes:
        part: the data it was measured on, "valid" or "test".
        metric: its name.
        label: its name in readable form.
        value: its value; None before the first validation.
        partial: whether the final evaluation read only a fraction of the data, for lack of time.
    """

    part: str
    metric: str
    label: str
    value: float | None
    partial: bool = False

    def __str__(self) -> str:
        if self.value is None:
            return ""
        return f"{self.part} {self.label} {'~' if self.partial else ''}{figure(self.value)}"


class Run:
    """A run directory.

    Attributes:
        path: the directory.
        record: the content of config.json.
    """

    def __init__(self, path: Path, record: Record) -> None:
        self.path = path
        self.record = record

    def __repr__(self) -> str:
        config = self.config
        return f"<run {display_path(self.path)}: {config.task.task}, {config.network.layers_in_words}>"

    def _repr_html_(self) -> str:
        rows = [
            ("task", self.task.name),
            ("data", self.record.data.name),
            ("network", self.config.network.layers_in_words),
            ("state", self.state),
            ("result", str(self.headline()) or "not validated yet"),
        ]
        return html_table(("run", display_path(self.path)), rows)

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: TrainConfig,
        data: Data[Any],
        description: TaskDescription,
        programs: Sequence[Program],
        plan: Plan,
        initial: bytes | None = None,
        rates: bytes | None = None,
    ) -> Self:
        """Create the directory of a new run.

        Args:
            path: the directory; it must be empty or not exist.
            config: the options.
            data: the data.
            description: the task with its codecs.
            programs: each layer's program.
            plan: the training plan.
            initial: the bytes of the initial weight file; weights are initialized at random if None.
            rates: the bytes of the learning rates to follow; the schedule's if None.

        Raises:
            RunError: if the directory isn't empty or can't be created.
        """
        path = Path(path)
        require_new(path)
        record = Record(
            created=datetime.now().astimezone(),
            versions=versions(),
            config=config,
            data=DataSummary.of(data),
            plan=plan,
        )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise RunError(
                f"{display_path(path)} can't be created ({(error.strerror or '').lower()}); "
                f"choose another {option('out')}"
            ) from None
        for name, content in ((INITIAL, initial), (REPLAYED, rates)):
            if content is not None:
                with replacing(path / name) as file:
                    file.write(content)
        _write_description(path, description)
        with replacing(path / PROGRAMS) as file:
            file.write(list_to_json(programs).encode())
        with replacing(path / CONFIG) as file:
            file.write(record.to_json())
        return cls(path, record)

    def extended(self, config: TrainConfig, plan: Plan) -> Self:
        """Write a configuration and plan with a later end, and return the run, which is then unfinished."""
        record = self.record.model_copy(update={"config": config, "plan": plan})
        with replacing(self.path / CONFIG) as file:
            file.write(record.to_json())
        (self.path / RESULT).unlink(missing_ok=True)
        return type(self)(self.path, record)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run directory.

        Args:
            path: the directory; "latest" means the newest one under `runs`.

        Raises:
            RunError: if it is missing, incomplete, damaged, or from a newer version.
        """
        path = run_path(path)
        require_run(path)
        run = cls(path, read_record(path / CONFIG))
        for name in (TASK, PROGRAMS):
            if not (path / name).is_file():
                raise RunError(f"{path} is damaged: {name} is missing")
        return run

    @property
    def config(self) -> TrainConfig:
        """The options of the run."""
        return self.record.config

    @property
    def plan(self) -> Plan:
        """The plan made before the first step."""
        return self.record.plan

    @property
    def about(self) -> dict[str, Any]:
        """A summary for people: the date, versions, data and size of the run."""
        record = self.record.model_dump(exclude={"format", "config"}, mode="json")
        return {**record, "parameters": self.parameters if self.has_weights else None}

    @cached_property
    def description(self) -> TaskDescription:
        """The task with its codecs.

        Raises:
            RunError: if the file is damaged.
        """
        try:
            return TaskDescription.of_data(json.loads(read_text(self.path / TASK)))
        except RunError:
            raise
        except ValueError as error:  # includes DataError
            raise RunError(f"{self.path} is damaged: {TASK}: {error}") from None

    @cached_property
    def task(self) -> Task[Any]:
        """The task with the run's options.

        Raises:
            TrainingError: if it is a custom task whose module hasn't been imported.
        """
        return tasks.get(self.config.task.task)(self.config.task)

    def task_with(self, **options: Any) -> Task[Any]:
        """Return the task with some options changed, to read other data; None leaves an option unchanged.

        Raises:
            UserError: if the task has no such option, or the value is invalid.
        """
        from pydantic import ValidationError

        given = {name: value for name, value in options.items() if value is not None}
        kind = type(self.task)
        own = self.config.task.model_dump(exclude=set(kind.per_data))
        for name in given:
            if name not in kind.Options.model_fields:
                raise UserError(f"{self.path} is a run of task {kind.name}, which has no option {option(name)}")
        try:
            return kind(kind.Options.model_validate({**own, **given}))
        except ValidationError as error:
            raise UserError(explained(error.errors()[0], kind.Options.model_fields)) from None

    def trained_on(self, paths: Sequence[str | Path]) -> list[str]:
        """Return the paths that overlap with the run's training data: equal to it, inside it, or containing it."""
        own = [Path(path) for path in self.config.task.data or () if path != "-"]
        found = [(str(path), Path(os.path.abspath(path))) for path in paths if path != "-"]
        return [name for name, path in found if any(path.is_relative_to(p) or p.is_relative_to(path) for p in own)]

    @property
    def device(self) -> torch.device:
        """The device that the network runs on."""
        from throughtime.training.building import device_for

        return device_for(self.config.training)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Each layer's program.

        Raises:
            RunError: if the file is damaged, or from a newer version.
        """
        programs = read_programs(self.path)
        if len(programs) != self.config.network.num_layers:
            raise RunError(
                f"{self.path} is damaged: {PROGRAMS}: expected {self.config.network.num_layers} programs, "
                f"got {len(programs)}"
            )
        return programs

    @property
    def has_weights(self) -> bool:
        """Whether training has reached its first validation."""
        return (self.path / WEIGHTS).is_file()

    @property
    def finished(self) -> bool:
        """Whether training is complete."""
        return (self.path / RESULT).is_file()

    @property
    def finished_in_words(self) -> str:
        """The message that a run is already finished; it explains how to train the run further."""
        assert self.result is not None
        return (
            f"{display_path(self.path)} is already finished, after {counted(self.result['steps'], 'step')} and "
            f"{duration(self.result['seconds'])}. To train it further, set a later end, counted from its first step, "
            f"with one of {', '.join(map(option, ENDS))}"
        )

    @property
    def result(self) -> dict[str, Any] | None:
        """The results of a finished run; None for an unfinished one.

        Raises:
            RunError: if the file is damaged.
        """
        if not self.finished:
            return None
        try:
            result = json.loads(read_text(self.path / RESULT))
            missing = [name for name in _RESULT_FIELDS if not isinstance(result, dict) or name not in result]
            if missing:
                raise ValueError(f"{', '.join(missing)} missing")
            return cast("dict[str, Any]", result)
        except RunError:
            raise
        except ValueError as error:
            raise RunError(f"{self.path} is damaged: {RESULT}: {error}") from None

    def complete_result(self, figures: Mapping[str, Any]) -> None:
        """Replace metrics measured on part of the reported data, if there are any, by those measured on all of them.

        Args:
            figures: the metrics, with those of the baselines under "baselines".
        """
        result = self.result
        part = "test" if result and result["test"] else "valid"
        if result and result["measured"][part] < 1:
            with suppress(OSError):  # the run may be someone else's, or on a read-only disk
                self.save_result({**result, part: dict(figures), "measured": {**result["measured"], part: 1.0}})

    def headline(self) -> Headline:
        """Return the metric that represents the run.

        Returns:
            The metric's value on the test data, or on the validation data if there are none; for an unfinished run, the
            best validation value so far.

        Raises:
            RunError: if a file is damaged.
        """
        task, result = self.task, self.result
        name = task.monitor if result is None else task.headline_metric
        label = task.label(name)
        if result is None:
            found = [row[f"valid_{name}"] for row in self.metrics() if row.get(f"valid_{name}") is not None]
            return Headline("valid", name, label, (max if task.maximize else min)(found, default=None))  # type: ignore[type-var]
        part = "test" if result["test"] else "valid"
        return Headline(part, name, label, result[part].get(name), partial=result["measured"][part] < 1)

    def evaluate(self, data: str | Path | Sequence[str | Path] | None = None, **options: Any) -> Figures:
        """Evaluate the network, by default on the data that were held out; see `throughtime.evaluate`."""
        from throughtime.training.inference import evaluate

        return evaluate(self, data, **options)

    def predict(self, data: str | Path | Sequence[str | Path], **options: Any) -> Prediction:
        """Apply the network to data of the kind it was trained on; see `throughtime.predict`."""
        from throughtime.training.inference import predict

        return predict(self, data, **options)

    def sample(self, prompt: str = "", **options: Any) -> Any:
        """Generate new data with the network; see `throughtime.sample`, which yields it piece by piece.

        Returns:
            The continuation of the prompt: a text for the text task, a list of steps or blocks for other tasks.
        """
        from throughtime.training.inference import sample

        pieces = list(sample(self, prompt, **options))
        return "".join(pieces) if getattr(self.task, "extension", None) is None else pieces

    @property
    def state(self) -> str:
        """The state in words: "finished", "training" or "not finished"."""
        return "finished" if self.finished else "training" if self.in_training else "not finished"

    @property
    def in_training(self) -> bool:
        """Whether a process is training this run now; it holds a lock on the run's log."""
        try:
            with self.log.open() as log:
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def parameters(self) -> int:
        """The number of trained parameters.

        Raises:
            RunError: if there are no weights yet, or their file is damaged.
        """
        self._require_weights()
        return self._model_file(WEIGHTS).parameters

    def initial_weights(self) -> dict[str, Tensor] | None:
        """Return the weights that the run started from; None if they were initialized at random.

        Raises:
            RunError: if the file is damaged.
        """
        return self._weights_in(INITIAL) if (self.path / INITIAL).is_file() else None

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint to resume from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def log(self) -> Path:
        """The path of the training log."""
        return self.path / "log.txt"

    @property
    def report(self) -> Path:
        """The path of the training report."""
        return self.path / "report.html"

    @property
    def metrics_file(self) -> Path:
        """The path of metrics.csv."""
        return self.path / "metrics.csv"

    @property
    def rates_file(self) -> Path:
        """The path of the file with each step's learning rate (see `rates`)."""
        return self.path / "rates.f64"

    def rates(self) -> NDArray[np.float64]:
        """Return each step's learning rate, `[steps]`, from which a run with a time budget can be replayed exactly."""
        return _numbers(self.rates_file)

    def replayed_rates(self) -> NDArray[np.float64]:
        """Return the learning rates to follow instead of the schedule, `[steps]`; empty unless replaying a run."""
        return _numbers(self.path / REPLAYED)

    def metrics(self) -> list[dict[str, float | None]]:
        """Return the rows of metrics.csv, with None for missing values.

        Raises:
            RunError: if the file is damaged.
        """
        try:
            with self.metrics_file.open(newline="", encoding="utf-8") as file:
                return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, OSError) as error:
            raise RunError(f"{self.path} is damaged: {self.metrics_file.name}: {error}") from None

    def weights(self) -> dict[str, Tensor]:
        """Return the weights with the best validation metric.

        Raises:
            RunError: if there are none yet, or the file is damaged.
        """
        self._require_weights()
        return self._weights_in(WEIGHTS)

    def _require_weights(self) -> None:
        if not self.has_weights:
            if self.finished:
                raise RunError(f"{self.path} is damaged: {WEIGHTS} is missing")
            if self.in_training:
                raise RunError(f"{self.path} has no weights yet: it is training, and its first validation comes later")
            raise RunError(
                f"{self.path} has no weights yet because training stopped before its first validation. "
                f"Resume with: {command(f'train --resume {shlex.quote(display_path(self.path))}')}"
            )

    def _weights_in(self, name: str) -> dict[str, Tensor]:
        with self._damage(name):
            return self._model_file(name).weights("pt")

    def _model_file(self, name: str) -> ModelFile:
        with self._damage(name):
            return ModelFile.open(self.path / name)

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        """Convert an error in reading a model file to a `RunError` that says that the run is damaged."""
        try:
            yield
        except VersionError:
            raise
        except ModelError as error:
            raise RunError(f"{self.path} is damaged: {str(error).replace(str(self.path / name), name)}") from None

    def save_weights(self, model: SequenceModel) -> None:
        """Save the network as the best one so far; the file is a complete model."""
        from throughtime.nn.description import describe

        with replacing(self.path / WEIGHTS) as file:
            file.write(encoded(describe(model), model))

    def save_description(self, description: TaskDescription) -> None:
        """Write the task's description, for example after calibration has changed it."""
        _write_description(self.path, description)
        self.__dict__.pop("description", None)  # the cached property

    def save_result(self, result: Mapping[str, Any]) -> None:
        """Write the results, which marks the run as finished."""
        with replacing(self.path / RESULT) as file:
            file.write((json.dumps(result, indent=2) + "\n").encode())

    def model(self, engine: str | None = None) -> SequenceModel:
        """Load the trained network.

        Args:
            engine: the engine that runs its recurrent layers; the engine used in training if None.

        Raises:
            RunError: if there are no weights yet, or a file is damaged.
        """
        from throughtime.nn.description import build
        from throughtime.nn.sequence_model import SequenceModel

        self._require_weights()
        with self._damage(WEIGHTS):
            model = build(ModelFile.open(self.path / WEIGHTS), engine or self.config.training.engine)
        if not isinstance(model, SequenceModel) or model.recurrent.programs != self.programs:
            raise RunError(f"{self.path} is damaged: {WEIGHTS} belongs to another run")
        return model


def _write_description(path: Path, description: TaskDescription) -> None:
    with replacing(path / TASK) as file:
        file.write(json.dumps(description.to_data(), ensure_ascii=False).encode())


def _numbers(path: Path) -> NDArray[np.float64]:
    """Read a file of little-endian float64 numbers; return an empty array if it doesn't exist."""
    import numpy as np

    return np.fromfile(path, "<f8") if path.is_file() else np.zeros(0)

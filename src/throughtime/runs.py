"""The run directory: all that a training run leaves behind, and what it needs to go on.

config.json         what was asked, on what data, and what was planned; written last, so a run is there or not
task.json           what it learns, with the codecs: the vocabulary, say
program.json        each layer's program: a model is loaded without the Python that wrote its cell
model.safetensors   the weights that were best on validation; with programs and task, a model by itself
metrics.csv         step, epoch, time, lr, train_loss, grad_norm, valid_loss and the task's metrics
rates.f64           each step's learning rate
replayed.f64        the learning rates that the run follows, if it replays another
checkpoints/        what is needed to go on
initial.safetensors the weights it started from, if they are another run's
log.txt, result.json
report.html         learning curves, gradients before and after, samples: what a person looks at first
"""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from throughtime import tasks
from throughtime.errors import ModelError, RunError, UserError
from throughtime.files import DISK_FULL, replacing
from throughtime.model_file import ModelFile, encoded
from throughtime.options import explained
from throughtime.paths import display_path, run_path
from throughtime.program.core import Program
from throughtime.program.saving import list_to_json
from throughtime.spelling import command, option
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
    require_run,
)
from throughtime.tables import html_table
from throughtime.task_description import TaskDescription
from throughtime.tasks.base import Data, Figures, Prediction, Task
from throughtime.training.config import TrainConfig
from throughtime.training.run_config import DataSummary, Plan, Record, read_record, versions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from throughtime.nn.sequence_model import SequenceModel


class Run:
    """A run directory.

    Attributes:
        path: the directory.
        record: what config.json says.
    """

    def __init__(self, path: Path, record: Record) -> None:
        self.path = path
        self.record = record

    def __repr__(self) -> str:
        return f"<run {self.path}>"

    def _repr_html_(self) -> str:
        network = self.config.network
        rows = [
            ("task", self.task.name),
            ("data", self.record.data.name),
            ("network", f"{network.num_layers} x {network.cell}, {network.hidden_size} units each"),
            ("state", "finished" if self.finished else "not finished"),
            ("best", self.best_figure()[2] or "not validated yet"),
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
        """Writes the directory of a run that is about to begin.

        Args:
            path: the directory; it must not exist, or be empty.
            config: the options.
            data: the data.
            description: the task with its codecs.
            programs: each layer's program.
            plan: how long to train.
            initial: the file of the weights to start from; new ones are drawn if not given.
            rates: the file of the learning rates to follow; the schedule's if not given.

        Raises:
            RunError: something is there already.
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
        """Return the run with a later end, written to its directory; it is no longer finished."""
        record = self.record.model_copy(update={"config": config, "plan": plan})
        with replacing(self.path / CONFIG) as file:
            file.write(record.to_json())
        (self.path / RESULT).unlink(missing_ok=True)
        return type(self)(self.path, record)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a run directory.

        Args:
            path: the directory; "latest" is the newest one under `runs`.

        Raises:
            RunError: it is missing, half written, damaged or from a newer version.
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
        """What was asked."""
        return self.record.config

    @property
    def plan(self) -> Plan:
        """What was settled before the first step."""
        return self.record.plan

    @property
    def about(self) -> dict[str, Any]:
        """What a person wants to know of the run: when, with what, on what, how large."""
        record = self.record.model_dump(exclude={"format", "config"}, mode="json")
        return {**record, "parameters": self.parameters if self.has_weights else None}

    @cached_property
    def description(self) -> TaskDescription:
        """The task with its codecs.

        Raises:
            RunError: the file is damaged.
        """
        try:
            return TaskDescription.of_data(json.loads(read_text(self.path / TASK)))
        except ValueError as error:  # a DataError is one
            raise RunError(f"{self.path} is damaged: {TASK}: {error}") from None

    @cached_property
    def task(self) -> Task[Any]:
        """The task, with the options of the run.

        Raises:
            TrainingError: it is a task of somebody's own, whose Python has to be imported first.
        """
        return tasks.get(self.config.task.task)(self.config.task)

    def task_with(self, **options: Any) -> Task[Any]:
        """The task with some options changed, to read other data; an option of None is one not given.

        Raises:
            UserError: the task has no such option, or the value is invalid.
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

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        from throughtime.training.building import device_for

        return device_for(self.config.training)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Each layer's program.

        Raises:
            RunError: the file is damaged, or from a newer version.
        """
        programs = read_programs(self.path)
        if len(programs) != self.config.network.num_layers:
            raise RunError(
                f"{self.path} is damaged: {PROGRAMS}: {self.config.network.num_layers} programs are wanted, "
                f"{len(programs)} are there"
            )
        return programs

    @property
    def has_weights(self) -> bool:
        """Whether training has come as far as the first validation."""
        return (self.path / WEIGHTS).is_file()

    @property
    def finished(self) -> bool:
        """Whether training has come to its end."""
        return (self.path / RESULT).is_file()

    @property
    def result(self) -> dict[str, Any] | None:
        """The figures of a finished run; None before.

        Raises:
            RunError: the file is damaged.
        """
        if not self.finished:
            return None
        try:
            result: dict[str, Any] = json.loads(read_text(self.path / RESULT))
            return result
        except ValueError as error:
            raise RunError(f"{self.path} is damaged: {RESULT}: {error}") from None

    def best_figure(self) -> tuple[str, float | None, str]:
        """The figure on the held-out data that selects the weights.

        Returns:
            Its name; its value for a finished run, and the best so far for another, None before the first validation;
            and both as text.

        Raises:
            RunError: a file is damaged.
        """
        name, task = self.task.monitor, self.task
        result = self.result
        if result and result.get("valid"):
            value = result["valid"].get(name)
        else:
            found = [row[f"valid_{name}"] for row in self.metrics() if row.get(f"valid_{name}") is not None]
            value = (max if task.maximize else min)(found, default=None)  # type: ignore[type-var]
        shown = "" if value is None else f"{name.replace('_', ' ')} {value:.4f}"
        return name, value, shown

    def evaluate(self, data: str | Path | Sequence[str | Path], **options: Any) -> Figures:
        """Measure the network on data of the kind that it was trained on; see `throughtime.evaluate`."""
        from throughtime.training.inference import evaluate

        return evaluate(self, data, **options)

    def predict(self, data: str | Path | Sequence[str | Path], **options: Any) -> Prediction:
        """Apply the network to data of the kind that it was trained on; see `throughtime.predict`."""
        from throughtime.training.inference import predict

        return predict(self, data, **options)

    def sample(self, prompt: str = "", **options: Any) -> Any:
        """Let the network write something new; see `throughtime.sample`, which returns it piece by piece.

        Returns:
            What follows the prompt: a text for networks that write text, a list of steps for others.
        """
        from throughtime.training.inference import sample

        pieces = list(sample(self, prompt, **options))
        return "".join(pieces) if getattr(self.task, "extension", None) is None else pieces

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(tensor.numel() for tensor in self.weights().values())

    def initial_weights(self) -> dict[str, Tensor] | None:
        """The weights that the run started from; None if it drew new ones.

        Raises:
            RunError: the file is damaged.
        """
        return self._weights_in(INITIAL) if (self.path / INITIAL).is_file() else None

    @property
    def checkpoint(self) -> Path:
        """The file that training goes on from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def log(self) -> Path:
        """The file of what was said while training."""
        return self.path / "log.txt"

    @property
    def report(self) -> Path:
        """The page that training ends with."""
        return self.path / "report.html"

    @property
    def metrics_file(self) -> Path:
        """The file of the figures of each step."""
        return self.path / "metrics.csv"

    @property
    def rates_file(self) -> Path:
        """The file of each step's learning rate (see `rates`)."""
        return self.path / "rates.f64"

    def rates(self) -> NDArray[np.float64]:
        """The learning rate of each step, `[steps]`: with it a run that the time ended can be replayed to its bits."""
        return _numbers(self.rates_file)

    def replayed_rates(self) -> NDArray[np.float64]:
        """The learning rates that the run follows instead of its schedule, `[steps]`; empty if it replays no run."""
        return _numbers(self.path / REPLAYED)

    def metrics(self) -> list[dict[str, float | None]]:
        """The rows of metrics.csv; None where a row has no figure.

        Raises:
            RunError: the file is damaged.
        """
        try:
            with self.metrics_file.open(newline="", encoding="utf-8") as file:
                return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, OSError) as error:
            raise RunError(f"{self.path} is damaged: {self.metrics_file.name}: {error}") from None

    def weights(self) -> dict[str, Tensor]:
        """The weights that were best on the held-out data.

        Raises:
            RunError: there are none yet, or the file is damaged.
        """
        self._require_weights()
        return self._weights_in(WEIGHTS)

    def _require_weights(self) -> None:
        if not self.has_weights:
            raise RunError(
                f"{self.path} has no weights yet: training was ended before its first validation; "
                f"resume with: {command(f'train --resume {shlex.quote(display_path(self.path))}')}"
            )

    def _weights_in(self, name: str) -> dict[str, Tensor]:
        try:
            return ModelFile.open(self.path / name).weights("pt")
        except ModelError as error:
            raise RunError(f"{self.path} is damaged: {name}: {error}") from None

    def save_weights(self, model: SequenceModel) -> None:
        """Puts the network's weights in the place of those that were best before: a file that is a model by itself."""
        from throughtime.nn.description import describe

        with replacing(self.path / WEIGHTS) as file:
            file.write(encoded(describe(model), model))

    def save_description(self, description: TaskDescription) -> None:
        """Write the description of the task, which calibration has changed."""
        _write_description(self.path, description)
        self.__dict__.pop("description", None)  # the cached property

    def save_result(self, result: Mapping[str, Any]) -> None:
        """Write the figures, which says that the run is finished."""
        with replacing(self.path / RESULT) as file:
            file.write((json.dumps(result, indent=2) + "\n").encode())

    def model(self, engine: str | None = None) -> SequenceModel:
        """The trained network, ready to use.

        Args:
            engine: what runs its recurrent layers; the one that it was trained with if not given.

        Raises:
            RunError: there are no weights yet, or a file is damaged.
        """
        from throughtime.nn.description import build
        from throughtime.nn.sequence_model import SequenceModel

        self._require_weights()
        try:
            model = build(ModelFile.open(self.path / WEIGHTS), engine or self.config.training.engine)
        except ModelError as error:
            raise RunError(f"{self.path} is damaged: {WEIGHTS}: {error}") from None
        if not isinstance(model, SequenceModel) or model.recurrent.programs != self.programs:
            raise RunError(f"{self.path} is damaged: {WEIGHTS} is not of this run")
        return model


def _write_description(path: Path, description: TaskDescription) -> None:
    with replacing(path / TASK) as file:
        file.write(json.dumps(description.to_data(), ensure_ascii=False).encode())


def remover(path: Path) -> Callable[[], None]:
    """Return a function that removes a directory that is about to be made, with the parents made for it."""
    new = [p for p in (path, *path.parents) if not p.exists()]

    def remove() -> None:
        if path in new:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir():  # it was there, and empty
            for inside in path.iterdir():
                shutil.rmtree(inside, ignore_errors=True) if inside.is_dir() else inside.unlink(missing_ok=True)
        for parent in new[1:]:
            with suppress(OSError):  # another run may be in it by now
                parent.rmdir()

    return remove


def require_new(path: Path) -> None:
    """Refuse a directory for a new run that has something in it.

    Raises:
        RunError: it has.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        hint = f", or resume the run: --resume {display_path(path)}" if (path / CONFIG).is_file() else ""
        raise RunError(f"{display_path(path)} already exists; choose another directory{hint}")


def _numbers(path: Path) -> NDArray[np.float64]:
    """The numbers of a file of float64, little-endian; none if it is absent."""
    import numpy as np

    return np.fromfile(path, "<f8") if path.is_file() else np.zeros(0)

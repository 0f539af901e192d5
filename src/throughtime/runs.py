"""The run directory: all that a training run leaves behind, and what it needs to go on.

config.json         what was asked, on what data, and what was planned; written last, so a run is there or not
vocabulary.json     the symbols
program.json        each layer's program: a model is loaded without the Python that wrote its cell
model.safetensors   the weights that were best on validation; with the programs and the symbols, a model by itself
metrics.csv         step, epoch, time, lr, train_loss, grad_norm, valid_loss
checkpoints/        what is needed to go on
initial.safetensors the weights it started from, if they are another run's
log.txt, result.json
report.html         learning curves, gradients before and after, samples: what a person looks at first
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from throughtime.data import Corpus, Vocabulary, load_vocabulary
from throughtime.errors import DataError, RunError
from throughtime.files import replacing
from throughtime.paths import display_path, missing
from throughtime.program.core import Program
from throughtime.program.saving import list_to_json
from throughtime.stored import CONFIG, INITIAL, PROGRAMS, RESULT, VOCABULARY, WEIGHTS, read_programs, read_text
from throughtime.training.config import TrainConfig
from throughtime.training.record import DataSummary, Plan, Record, read_record, versions

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.nn.language_model import LanguageModel


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

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: TrainConfig,
        corpus: Corpus,
        programs: Sequence[Program],
        plan: Plan,
        initial: bytes | None = None,
    ) -> Self:
        """Write the directory of a run that is about to begin.

        Args:
            path: the directory; it must not exist, or be empty.
            config: the options.
            corpus: the data.
            programs: each layer's program.
            plan: how long to train.
            initial: the weights to start from, as safetensors; new ones are drawn if not given.

        Raises:
            RunError: something is there already.
        """
        path = Path(path)
        require_new(path)
        record = Record(
            created=datetime.now().astimezone(),
            versions=versions(),
            config=config,
            data=DataSummary.of(corpus),
            plan=plan,
        )
        path.mkdir(parents=True, exist_ok=True)
        if initial is not None:
            with replacing(path / INITIAL) as file:
                file.write(initial)
        with replacing(path / VOCABULARY) as file:
            file.write(corpus.vocabulary.to_json().encode())
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

        Raises:
            RunError: it is missing, half written, damaged or from a newer version.
        """
        path = Path(path)
        if not path.exists():
            raise RunError(missing(path, "directory"))
        if not path.is_dir():
            raise RunError(f"{display_path(path)} is a file; expected the directory of a run")
        if not (path / CONFIG).is_file():
            known = [p for p in path.iterdir() if p.name in (VOCABULARY, PROGRAMS) or p.suffix == ".part"]
            raise RunError(
                f"{display_path(path)} is half written: the run ended before its first step; remove it and train again"
                if known
                else f"{display_path(path)} is not a run: {_contents(path)}"
            )
        run = cls(path, read_record(path / CONFIG))
        for name in (VOCABULARY, PROGRAMS):
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
    def vocabulary(self) -> Vocabulary:
        """The symbols.

        Raises:
            RunError: the file is damaged.
        """
        try:
            return load_vocabulary(self.path / VOCABULARY)
        except DataError as error:
            raise RunError(f"{self.path} is damaged: {error}") from None

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Each layer's program.

        Raises:
            RunError: the file is damaged, or from a newer version.
        """
        programs = read_programs(self.path)
        if len(programs) != self.config.num_layers:
            raise RunError(
                f"{self.path} is damaged: {PROGRAMS}: {self.config.num_layers} programs are wanted, "
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

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(tensor.numel() for tensor in self.weights().values())

    def initial_weights(self) -> dict[str, Tensor] | None:
        """The weights that the run started from; None if it drew new ones.

        Raises:
            RunError: the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not (self.path / INITIAL).is_file():
            return None
        try:
            return load((self.path / INITIAL).read_bytes())
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{self.path} is damaged: {INITIAL}: {error}") from None

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
        """The weights that were best on validation.

        Raises:
            RunError: there are none yet, or the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not self.has_weights:
            raise RunError(
                f"{self.path} has no weights yet: training was ended before its first validation; "
                f"resume with: throughtime train --resume {display_path(self.path)}"
            )
        try:
            return load((self.path / WEIGHTS).read_bytes())  # its own reading refuses paths that are not UTF-8
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{self.path} is damaged: {WEIGHTS}: {error}") from None

    def save_weights(self, model: LanguageModel) -> None:
        """Put the model's weights in the place of those that were best before, in a file that is a model by itself."""
        from throughtime.model_file import encoded
        from throughtime.nn.description import describe

        description = replace(describe(model), vocabulary=self.vocabulary.to_json())
        with replacing(self.path / WEIGHTS) as file:
            file.write(encoded(description, model))

    def save_result(self, result: Mapping[str, Any]) -> None:
        """Write the figures, which says that the run is finished."""
        with replacing(self.path / RESULT) as file:
            file.write((json.dumps(result, indent=2) + "\n").encode())

    def model(self, engine: str | None = None) -> LanguageModel:
        """The trained model, ready to use.

        Args:
            engine: what runs its recurrent layers; the one that it was trained with if not given.

        Raises:
            RunError: there are no weights yet, or a file is damaged.
        """
        import torch

        from throughtime.training.building import build_model

        weights = self.weights()
        config = self.config.model_copy(update={"engine": engine or self.config.engine})
        with torch.random.fork_rng(devices=[]):
            model = build_model(config, self.programs, self.vocabulary.size)
        model.to(next(iter(weights.values())).dtype)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"{self.path} is damaged: {WEIGHTS} is not of this run: {error}") from None
        model.vocabulary = self.vocabulary
        return model.eval()


def _contents(path: Path) -> str:
    """What a directory that is not a run has in it."""
    inside = sorted(path.iterdir())
    runs = [display_path(p) for p in inside if (p / CONFIG).is_file()]
    if runs:
        listed = ", ".join(runs[:_LISTED]) + (", ..." if len(runs) > _LISTED else "")
        return f"it is a directory of {len(runs)} run{'s' * (len(runs) > 1)}; choose one: {listed}"
    if not inside:
        return "it is an empty directory"
    listed = ", ".join(display_path(p.name) for p in inside[:_LISTED]) + (", ..." if len(inside) > _LISTED else "")
    return f"it has no {CONFIG}, only {listed}"


_LISTED = 5


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

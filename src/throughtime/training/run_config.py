"""The content of a run's config.json."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from throughtime import tasks
from throughtime.errors import RunError
from throughtime.stored import RUN_FORMAT, read_text, require_format
from throughtime.tasks.base import Data
from throughtime.training.config import TrainConfig


class Plan(BaseModel):
    """The plan made before the first step, which is kept when a run is resumed.

    Attributes:
        steps: the number of steps; None if only the time ends training.
        expected_steps: the expected number of steps: `steps`, or the number that fits into the time at the measured
            speed.
        epoch_steps: the number of steps per epoch.
        batch: the batch size, summed over all processes.
        validate_every: the validation interval in steps; runs that time ends validate by the clock instead.
        validate_terms: the approximate number of loss terms per validation.
        evaluate_terms: the approximate number of held-out loss terms to evaluate at the end.
        losses: the approximate number of losses to follow back through time to measure how far gradients reach.
        seconds: the training time in seconds, summed over sessions; None if only the number of steps ends training.
        reserve: the number of seconds reserved for the final evaluation and the report.
        from_step, from_seconds: the start of the learning rate schedule: 0, or where the run had finished before it was
            trained further.
        peak: the maximum learning rate of the schedule, relative to `lr`.
        validate_at: the steps to validate after, for a run that replays another; otherwise None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None
    expected_steps: int
    epoch_steps: int
    batch: int
    validate_every: int
    validate_terms: int
    evaluate_terms: int
    losses: int
    seconds: float | None = None
    reserve: float = 0.0
    from_step: int = 0
    from_seconds: float = 0.0
    peak: float = 1.0
    validate_at: tuple[int, ...] | None = None

    def share(self, step: int, seconds: float) -> float:
        """Return the completed fraction of the schedule, from 0 to 1.

        Args:
            step: the number of steps taken.
            seconds: the training time in seconds.
        """
        shares = [0.0]
        if self.steps is not None:
            shares.append((step - self.from_step) / (self.steps - self.from_step))
        if self.seconds is not None:
            shares.append((seconds - self.from_seconds) / max(1e-9, self.seconds - self.from_seconds))
        return min(1.0, max(shares))


class DataSummary(BaseModel):
    """A summary of the training data.

    Attributes:
        name: the name of the data.
        digest: the hash of the data and their codecs.
        counts: the sizes of the parts (see `throughtime.tasks.base.Data`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str
    counts: dict[str, int]

    @classmethod
    def of(cls, data: Data[Any]) -> Self:
        """Summarize data."""
        return cls(name=data.name, digest=data.digest, counts=dict(data.counts))


class Record(BaseModel):
    """The content of config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = RUN_FORMAT
    created: datetime
    versions: dict[str, str]
    config: TrainConfig
    data: DataSummary
    plan: Plan

    def to_json(self) -> bytes:
        """Serialize to ASCII JSON; paths that aren't valid UTF-8 are escaped and restored on reading."""
        return (json.dumps(self.model_dump(mode="json"), indent=2) + "\n").encode("ascii")


def read_record(path: Path) -> Record:
    """Read a config.json.

    Raises:
        RunError: if it is damaged, or written by a newer version.
    """
    try:
        content = json.loads(read_text(path))
        require_format(path.parent, content)
        return Record.model_validate(content)
    except ValidationError as error:
        config = content.get("config")
        task = config.get("task") if isinstance(config, dict) else None
        if isinstance(task, str) and not tasks.is_known(task):
            raise RunError(
                f"{path.parent} is a run of the custom task {task!r}; open it in Python, after importing the module of "
                "the task"
            ) from None
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path.parent} is damaged: {path.name}: {where}: {first['msg']}") from None
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"{path.parent} is damaged: {path.name}: {error}") from None


def versions() -> dict[str, str]:
    """Return the versions of the main packages."""
    import throughtime

    found = {"throughtime": throughtime.__version__, "python": platform.python_version()}
    for package in ("torch", "lightning"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found

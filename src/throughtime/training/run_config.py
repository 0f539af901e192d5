"""What a run directory's config.json says."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from throughtime.errors import RunError
from throughtime.stored import RUN_FORMAT, read_text, require_format
from throughtime.tasks.base import Data
from throughtime.training.config import TrainConfig


class Plan(BaseModel):
    """What was settled before the first step, and stays when a run is resumed.

    Attributes:
        steps: the number of steps after which training ends; None where only the time ends it.
        expected_steps: about how many steps there will be: `steps`, or what fits into the time on a machine as fast as
            it was when it was measured.
        epoch_steps: steps that go once through the training data.
        batch: rows of a batch, in all processes together.
        validate_every: steps from a validation to the next; a run that time ends validates by the clock.
        validate_terms: about how many terms of the validation data each takes.
        evaluate_terms: about how many terms of held-out data the figures at the end are of.
        seconds: the time for training, over all sittings; None where only the number of steps ends it.
        reserve: seconds that are kept for what follows training: the final figures and the report.
        from_step, from_seconds: where the learning rate's schedule begins: 0, or where the run had finished before it
            was trained further.
        peak: the largest learning rate of the schedule, as a share of `lr`.
        validate_at: the steps to validate after, of a run that replays another; None where `validate_every` or the
            clock decides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None
    expected_steps: int
    epoch_steps: int
    batch: int
    validate_every: int
    validate_terms: int
    evaluate_terms: int
    seconds: float | None = None
    reserve: float = 0.0
    from_step: int = 0
    from_seconds: float = 0.0
    peak: float = 1.0
    validate_at: tuple[int, ...] | None = None

    def share(self, step: int, seconds: float) -> float:
        """How much of the schedule is over, from 0 to 1.

        Args:
            step: steps taken.
            seconds: training time spent.
        """
        shares = [0.0]
        if self.steps is not None:
            shares.append((step - self.from_step) / (self.steps - self.from_step))
        if self.seconds is not None:
            shares.append((seconds - self.from_seconds) / max(1e-9, self.seconds - self.from_seconds))
        return min(1.0, max(shares))


class DataSummary(BaseModel):
    """What the data were.

    Attributes:
        name: what they are called.
        digest: tells the data and their codecs.
        counts: how much there is of what (see `throughtime.tasks.base.Data`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str
    counts: dict[str, int]

    @classmethod
    def of(cls, data: Data[Any]) -> Self:
        """The summary of data."""
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
        """The content of the file, in ASCII: paths that are not UTF-8 are escaped, and read back as they were."""
        return (json.dumps(self.model_dump(mode="json"), indent=2) + "\n").encode("ascii")


def read_record(path: Path) -> Record:
    """The content of a config.json.

    Raises:
        RunError: it is damaged, or from a newer version.
    """
    try:
        content = json.loads(read_text(path))
        require_format(path.parent, content)
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path.parent} is damaged: {path.name}: {where}: {first['msg']}") from None
    except ValueError as error:
        raise RunError(f"{path.parent} is damaged: {path.name}: {error}") from None


def versions() -> dict[str, str]:
    """What a run is made with."""
    import throughtime

    found = {"throughtime": throughtime.__version__, "python": platform.python_version()}
    for package in ("torch", "lightning"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found

"""Describe a network's task as plain data. Needs only NumPy, so that networks can be used without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from throughtime.codecs import Codecs
from throughtime.errors import DataError


@dataclass(frozen=True)
class TaskDescription:
    """A task and its codecs.

    Attributes:
        name: the name of the task.
        codecs: the codecs, fitted on the training data.
        options: the task's options that affect how data are read, as plain data.
        baselines: the fitted parameters of the task's baselines, as plain data.
        calibration: the corrections to apply to the network's predictions, as plain data.
    """

    name: str
    codecs: Codecs = field(default_factory=Codecs)
    options: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        """Convert to JSON-compatible data (see `of_data`)."""
        return {
            "task": self.name,
            "options": dict(self.options),
            "codecs": self.codecs.to_data(),
            "baselines": dict(self.baselines),
            "calibration": dict(self.calibration),
        }

    @classmethod
    def of_data(cls, data: Any) -> Self:
        """Create a description from the data that `to_data` returned.

        Raises:
            DataError: if the data are damaged.
        """
        wanted = {"task": str, "options": dict, "codecs": dict, "baselines": dict, "calibration": dict}
        if not isinstance(data, dict) or {name: type(value) for name, value in data.items()} != wanted:
            raise DataError(f"a task description must have the fields {', '.join(wanted)}, got {data!r:.200}")
        codecs = Codecs.of_data(data["codecs"])
        return cls(data["task"], codecs, data["options"], data["baselines"], data["calibration"])

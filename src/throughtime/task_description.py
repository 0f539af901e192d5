"""What a network was made for, as plain data. Needs NumPy alone, so that a network can be used without torch."""

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
        name: the task's name.
        codecs: fitted on the training data.
        options: the task's options that have a say in how data are read, as plain data.
        baselines: what the task's baselines were fitted to, as plain data.
        calibration: what the trained network's predictions are corrected with, as plain data.
    """

    name: str
    codecs: Codecs = field(default_factory=Codecs)
    options: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        """The description as what JSON can hold."""
        return {
            "task": self.name,
            "options": dict(self.options),
            "codecs": self.codecs.to_data(),
            "baselines": dict(self.baselines),
            "calibration": dict(self.calibration),
        }

    @classmethod
    def of_data(cls, data: Any) -> Self:
        """The description that `to_data` gave.

        Raises:
            DataError: if the data are damaged.
        """
        wanted = {"task": str, "options": dict, "codecs": dict, "baselines": dict, "calibration": dict}
        if not isinstance(data, dict) or {name: type(value) for name, value in data.items()} != wanted:
            raise DataError(f"a task's description has {', '.join(wanted)}, got {data!r:.200}")
        codecs = Codecs.of_data(data["codecs"])
        return cls(data["task"], codecs, data["options"], data["baselines"], data["calibration"])

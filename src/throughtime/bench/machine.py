"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import throughtime
from throughtime.engines.native import instruction_sets


@dataclass(frozen=True)
class Machine:
    """A machine, and what runs on it.

    Attributes:
        processor: its model.
        processors: how many the process may use.
        instruction_set: what the native engine uses.
        system: the operating system.
        load: how many other processes wanted to run in the minute before; these figures are for 0.
        versions: of the packages that take part.
    """

    processor: str
    processors: int
    instruction_set: str
    system: str
    load: float
    versions: dict[str, str]

    @classmethod
    def this(cls) -> Machine:
        """The one that this runs on."""
        versions = {"throughtime": throughtime.__version__, "Python": platform.python_version()}
        for package in ("numpy", "torch", "onnxruntime", "jax"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                continue
        used = os.environ.get("THROUGHTIME_ISA") or next(iter(instruction_sets()), "none")
        return cls(_processor(), len(os.sched_getaffinity(0)), used, platform.platform(), os.getloadavg()[0], versions)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        where = f"{self.processor}, {self.processors} processors, {self.instruction_set}, {self.system}"
        return f"{where}, load {self.load:.1f} when it began; {versions}"


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    # x86 names its model, though a virtual machine's name may be that of several generations; others have parts of it
    # in several lines.
    name = told.get("model name") or told.get("Model") or platform.processor() or platform.machine()
    return f"{name} (family {told['cpu family']}, model {told['model']})" if "cpu family" in told else name

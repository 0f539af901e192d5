"""The machine that a measurement was made on."""

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
    """A machine and its software.

    Attributes:
        processor: the processor's model.
        processors: the number of processors available to the process.
        instruction_set: the instruction set that the native engine uses.
        system: the operating system.
        load: the load average over the preceding minute; results assume 0.
        versions: the versions of the contestants' packages.
    """

    processor: str
    processors: int
    instruction_set: str
    system: str
    load: float
    versions: dict[str, str]

    @classmethod
    def this(cls) -> Machine:
        """Describe this machine."""
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
        return f"{where}, load {self.load:.1f} at the start; {versions}"


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    cpuinfo = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    # x86 reports a model name, although a virtual machine's may cover several generations; others split it over lines.
    name = cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor() or platform.machine()
    return f"{name} (family {cpuinfo['cpu family']}, model {cpuinfo['model']})" if "cpu family" in cpuinfo else name

"""The interface of a contestant, which turns a case into a call to time and a function that extracts its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import Case

Results = Mapping[str, NDArray[Any]]


class Ready(NamedTuple):
    """A prepared case.

    Attributes:
        call: runs the case once.
        results: converts a call's return value to arrays: `output`, and `gradient.` of `x` and each parameter. None if
            the contestant computes something that can't be compared.
        seconds: extracts the time from a call's return value, if the call does more than what is measured.
    """

    call: Callable[[], Any]
    results: Callable[[Any], Results] | None
    seconds: Callable[[Any], float] | None = None


class Contestant(Protocol):
    """A contestant in the benchmark.

    Attributes:
        name: its name in the tables.
        packages: the packages it requires.
        is_ours: whether it belongs to this package.
    """

    name: str
    is_ours: bool

    @property
    def packages(self) -> tuple[str, ...]: ...

    def takes(self, case: Case) -> bool:
        """Return whether the contestant supports a case."""
        ...

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare a case; this part is not timed."""
        ...


@cache
def missing(packages: tuple[str, ...]) -> str | None:
    """Return the reason why one of the packages can't be imported, or None if all can be."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            absent = getattr(error, "name", None) == package
            return f"{package} is not installed" if absent else f"{package} can't be imported: {error}"
    return None

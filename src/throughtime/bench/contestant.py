"""What it is to take part: to make a case ready, as a call that is timed and a reading of what it returned."""

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
    """A case made ready.

    Attributes:
        call: does it once.
        results: what a call returned, as arrays: `output`, and the `gradient.` of `x` and of each parameter. None if
            it computes something else, which can't be compared.
        seconds: what a call says that it took, where it does more than is measured.
    """

    call: Callable[[], Any]
    results: Callable[[Any], Results] | None
    seconds: Callable[[Any], float] | None = None


class Contestant(Protocol):
    """Someone who takes part.

    Attributes:
        name: what the tables call it.
        packages: what must be installed for it.
        is_ours: whether it is of this package.
    """

    name: str
    is_ours: bool

    @property
    def packages(self) -> tuple[str, ...]: ...

    def takes(self, case: Case) -> bool:
        """Whether it does such a case."""
        ...

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Makes a case ready; what is done here is not timed."""
        ...


@cache
def missing(packages: tuple[str, ...]) -> str | None:
    """Why one of several packages can't be used; None if all can."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            absent = getattr(error, "name", None) == package
            return f"{package} is not installed" if absent else f"{package} can't be imported: {error}"
    return None

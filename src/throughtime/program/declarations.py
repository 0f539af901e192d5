"""The declarations of a cell's arguments: its states, and inputs beside x."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from throughtime.program.words import MATRIX_STATE

Width = int | str | Callable[..., int] | None


class Sizes(NamedTuple):
    """The sizes of a layer.

    Attributes:
        input: the width of x.
        hidden: the number of hidden units.
        bias: whether gates have a bias.
    """

    input: int
    hidden: int
    bias: bool


@dataclass(frozen=True)
class StateDeclaration:
    """What `state(...)` says of an argument of a cell."""

    name: str
    width: Width
    initial: float


@dataclass(frozen=True)
class InputDeclaration:
    """What `inputs(...)` says of an argument of a cell."""

    name: str
    width: Width
    optional: bool


def state(name: str | None = None, *, width: Width = None, initial: float = 0.0) -> Any:
    """Declares a state of a cell, as the default of the argument that receives its old value.

    Args:
        name: what the state is called when it is recorded; the argument's own name if not given.
        width: its number of elements; the name of a hyper-parameter that holds it; or a function of sizes and
            hyper-parameters, by name, such as `lambda hidden_size: hidden_size // 4` (`input_size` is the width of x).
            The cell's hidden size where it is not given or that hyper-parameter is None.
        initial: what each of its elements starts with.
    """
    return StateDeclaration(name or "", width, float(initial))


def inputs(name: str | None = None, *, width: Width = 1, optional: bool = False) -> Any:
    """Declares an input of a cell beside x, as the default of the argument that receives its value at each step.

    A layer takes it by its name, `layer(x, dt=gaps)`, and hands it to the cell of every layer and direction.

    Args:
        name: the input's name; the argument's own name if not given.
        width: its number of elements, as a state's (see `state`).
        optional: whether layers without it can be made: the argument is then None in the equations, unless a layer is
            made to take it, `Recurrent(..., inputs=["dt"])`.
    """
    return InputDeclaration(name or "", width, optional)


def width_of(declaration: StateDeclaration | InputDeclaration, sizes: Sizes, hyper: Mapping[str, Any]) -> int:
    """The number of elements that a declaration says.

    Raises:
        ValueError: if it says none, with the reason.
    """
    what = f"{'state' if isinstance(declaration, StateDeclaration) else 'input'} {declaration.name!r}"
    width = declaration.width
    if isinstance(width, str):
        if width not in hyper:
            raise ValueError(f"{what} takes its width from {width!r}, but there is no such hyper-parameter.")
        width = hyper[width]
    elif callable(width):
        width = _computed(width, what, {"input_size": sizes.input, "hidden_size": sizes.hidden} | dict(hyper))
    width = sizes.hidden if width is None else width
    if isinstance(width, tuple | list):
        raise ValueError(f"{what} has the width {width!r}, but {MATRIX_STATE}.")
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"{what} must have a width of 1 or more; given {width!r}.")
    return width


def _computed(function: Callable[..., int], what: str, known: Mapping[str, Any]) -> Any:
    wanted = list(inspect.signature(function).parameters)
    for name in wanted:
        if name not in known:
            raise ValueError(f"the width of {what} is computed from {name!r}; it can be from {', '.join(known)}.")
    return function(**{name: known[name] for name in wanted})

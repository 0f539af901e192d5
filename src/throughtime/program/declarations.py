"""Declarations of a cell's arguments: states, and inputs other than x."""

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
    """The declaration of a cell's argument by `state(...)`."""

    name: str
    width: Width
    initial: float


@dataclass(frozen=True)
class InputDeclaration:
    """The declaration of a cell's argument by `inputs(...)`."""

    name: str
    width: Width
    optional: bool


def state(name: str | None = None, *, width: Width = None, initial: float = 0.0) -> Any:
    """Declare a state of a cell, as the default of the argument that receives its old value.

    Args:
        name: the state's name for recording and editing; default: the argument's name.
        width: the number of elements; the name of a hyper-parameter that holds it; or a function of sizes and
            hyper-parameters, matched by argument name, such as `lambda hidden_size: hidden_size // 4` (`input_size` is
            the width of x). The default, also used if that hyper-parameter is None, is the cell's hidden size.
        initial: the initial value of each element.
    """
    return StateDeclaration(name or "", width, float(initial))


def inputs(name: str | None = None, *, width: Width = 1, optional: bool = False) -> Any:
    """Declare an input of a cell other than x, as the default of the argument that receives its value at each step.

    A layer takes it as a keyword argument, `layer(x, dt=gaps)`, and passes it to every layer and direction.

    Args:
        name: the input's name; default: the argument's name.
        width: the number of elements, specified as for `state`.
        optional: whether layers may omit it. The argument is then None in the equations, unless the layer is
            created with it, as in `Recurrent(..., inputs=["dt"])`.
    """
    return InputDeclaration(name or "", width, optional)


def width_of(declaration: StateDeclaration | InputDeclaration, sizes: Sizes, hyper: Mapping[str, Any]) -> int:
    """Compute the declared width.

    Raises:
        ValueError: if the declaration is invalid; the message says why.
    """
    what = f"{'state' if isinstance(declaration, StateDeclaration) else 'input'} {declaration.name!r}"
    width = declaration.width
    if isinstance(width, str):
        if width not in hyper:
            raise ValueError(f"{what} takes its width from {width!r}, which is not a hyper-parameter")
        width = hyper[width]
    elif callable(width):
        width = _computed(width, what, {"input_size": sizes.input, "hidden_size": sizes.hidden} | dict(hyper))
    width = sizes.hidden if width is None else width
    if isinstance(width, tuple | list):
        raise ValueError(f"{what} has the width {width!r}, but {MATRIX_STATE}")
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"the width of {what} must be a positive integer, got {width!r}")
    return width


def _computed(function: Callable[..., int], what: str, known: Mapping[str, Any]) -> Any:
    wanted = list(inspect.signature(function).parameters)
    for name in wanted:
        if name not in known:
            raise ValueError(f"the width of {what} depends on {name!r}; it can depend only on {', '.join(known)}")
    return function(**{name: known[name] for name in wanted})

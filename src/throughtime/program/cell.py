"""The `cell` decorator: runs a cell's equations once on symbols and makes a program of them."""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from throughtime.errors import CellError, UserError, nearest
from throughtime.program.builder import Symbol, cell_error_at, is_name, is_own
from throughtime.program.core import Program
from throughtime.program.legality import require_legal
from throughtime.program.trace import Sizes, Trace
from throughtime.tables import html_table, html_text

# What the field calls the states that every paper writes with these letters.
_USUAL_NAMES = {"h": "hidden", "c": "cell"}


@dataclass(frozen=True)
class StateDeclaration:
    """What `state(...)` says of an argument of a cell."""

    name: str
    width: int | str | None
    initial: float


def state(name: str | None = None, *, width: int | str | None = None, initial: float = 0.0) -> Any:
    """Declares a state of a cell, as the default of the argument that receives its old value.

    Args:
        name: what the state is called when it is recorded; the argument's own name if not given.
        width: its number of elements, or the name of a hyper-parameter that holds it; the cell's hidden size where
            it is not given or that hyper-parameter is None.
        initial: what each of its elements starts with.
    """
    return StateDeclaration(name or "", width, float(initial))


class Cell:
    """A recurrent cell: its equations, and the program that they become.

    Attributes:
        name: the function's name.
        hyper: the hyper-parameters (the keyword-only arguments) and their values.
        states: each state's argument and declaration, in order.
    """

    def __init__(self, function: Callable[..., Any], hyper: dict[str, Any] | None = None) -> None:
        if not inspect.isfunction(function):
            raise CellError(f"a cell is made of a function that holds its equations; given {function!r}.")
        self.function = function
        self.name: str = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        arguments = list(inspect.signature(function).parameters.values())
        taken = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
        if any(a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in arguments):
            raise self._error("a cell takes x, its states and keyword-only hyper-parameters; no *args or **kwargs.")
        if len(taken) < 2:
            raise self._error("a cell takes x and at least one state: def name(x, h): ...")
        self.input_name = taken[0].name
        self.states = tuple((a.name, self._declared(a)) for a in taken[1:])
        self.hyper: dict[str, Any] = {}
        for argument in arguments:
            if argument.kind == argument.KEYWORD_ONLY:
                if argument.default is argument.empty:
                    raise self._error(f"the hyper-parameter {argument.name!r} needs a default.")
                self.hyper[argument.name] = argument.default
        self.hyper.update(self._known(hyper or {}))

    def __call__(self, *args: Any, **hyper: Any) -> Any:
        """The equations on given symbols, for use inside another cell."""
        return self.function(*args, **(self.hyper | self._known(hyper)))

    def __repr__(self) -> str:
        given = "".join(f", {k}={v!r}" for k, v in self.hyper.items())
        return f"<cell {self.name}{given}>"

    def _repr_html_(self) -> str:
        states = ", ".join(declaration.name for _, declaration in self.states)
        about = [("meaning", self.meaning), ("states", states), *self.hyper.items()]
        return html_table(("cell", self.name), about) + html_text(self.source)

    @property
    def meaning(self) -> str:
        """The first line of the cell's docstring."""
        return inspect.cleandoc(self.__doc__ or "").split("\n")[0]

    @property
    def source(self) -> str:
        """The cell's equations, as they are written."""
        return inspect.getsource(self.function)

    def variant(self, name: str, meaning: str, **hyper: Any) -> Cell:
        """The same equations under another name, with other hyper-parameters."""
        other = Cell(self.function, self.hyper | hyper)
        other.name, other.__doc__ = name, meaning
        return other

    def program(self, input_size: int, hidden_size: int, *, bias: bool = True, **hyper: Any) -> Program:
        """Runs the equations once on symbols.

        Args:
            input_size: the width of x.
            hidden_size: the number of hidden units.
            bias: whether gates have a bias.
            **hyper: hyper-parameters other than the cell's defaults.

        Returns:
            The program, which has passed the legality check.

        Raises:
            CellError: if the equations are wrong, with the line of the cell's source.
        """
        for what, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or size < 1:
                raise CellError(f"{what} must be a whole number of 1 or more; given {size!r}.")
        values = tuple(sorted((self.hyper | self._known(hyper)).items()))
        for name, value in values:
            if not isinstance(value, Hashable):
                raise CellError(f"the hyper-parameter {name!r} must be a number, a text or None; given {value!r}.")
        try:
            return _program(self, Sizes(input_size, hidden_size, bias), values)
        except UserError as error:
            # Its message has the cell's line; the frames of the tracer would only hide it.
            raise error.with_traceback(None) from error.__cause__

    def _known(self, hyper: dict[str, Any]) -> dict[str, Any]:
        for name in hyper:
            if name not in self.hyper:
                has = f"it has {', '.join(self.hyper)}" if self.hyper else "it has none"
                raise CellError(f"cell {self.name} has no hyper-parameter {name!r}{nearest(name, self.hyper)} ({has}).")
        return hyper

    def _declared(self, argument: inspect.Parameter) -> StateDeclaration:
        given = argument.default
        if given is argument.empty:
            given = StateDeclaration("", None, 0.0)
        if not isinstance(given, StateDeclaration):
            raise self._error(
                f"the argument {argument.name!r} must be a state (a default of throughtime.language.state(...), or "
                f"none); a hyper-parameter is keyword-only: put it after a `*`."
            )
        name = given.name or _USUAL_NAMES.get(argument.name, argument.name)
        if not is_name(name):
            raise self._error(f"a state's name is letters, digits and _, with dots between words; given {name!r}.")
        return StateDeclaration(name, given.width, given.initial)

    def _error(self, message: str) -> CellError:
        code = self.function.__code__
        line = code.co_firstlineno
        while linecache.getline(code.co_filename, line).lstrip().startswith("@"):
            line += 1
        return cell_error_at(code.co_filename, line, self.name, message)

    def _at_its_line(self, error: Exception) -> CellError:
        """Any other error of the equations, at the line of the cell where it came up.

        Its cause is the error itself where it came up in a function that the equations call, without our frames.
        """
        code, line = self.function.__code__, self.function.__code__.co_firstlineno
        calls = error.__traceback__
        while calls is not None and calls.tb_frame.f_code is not code:
            calls = calls.tb_next
        for frame, at in traceback.walk_tb(calls):
            if frame.f_code is code:
                line = at
        found = cell_error_at(code.co_filename, line, self.name, f"{type(error).__name__}: {error}")
        called = [f for f, _ in traceback.walk_tb(calls) if f.f_code is not code and not is_own(f.f_code.co_filename)]
        found.__cause__ = error.with_traceback(calls) if called else None
        return found

    def _state_width(self, declaration: StateDeclaration, hidden: int, hyper: dict[str, Any]) -> int:
        width = declaration.width
        if isinstance(width, str):
            if width not in hyper:
                raise self._error(
                    f"state {declaration.name!r} takes its width from {width!r}, but there is no such hyper-parameter."
                )
            width = hyper[width]
        width = hidden if width is None else width
        if not isinstance(width, int) or width < 1:
            raise self._error(f"state {declaration.name!r} must have a width of 1 or more; given {width!r}.")
        return width

    def _run(self, sizes: Sizes, hyper: dict[str, Any], seen: Trace | None) -> tuple[Trace, Program]:
        letters = [self.input_name, *(argument for argument, _ in self.states)]
        trace = Trace(self.name, sizes, letters, seen)
        x = trace.input(self.input_name, sizes.input)
        names = [declaration.name for _, declaration in self.states]
        old = [trace.state(d.name, self._state_width(d, sizes.hidden, hyper), d.initial) for _, d in self.states]
        with trace.active():
            try:
                result = self.function(x, *old, **hyper)
            except UserError:
                raise
            except Exception as error:
                raise self._at_its_line(error)  # noqa: B904  # which sets the cause
        given = self._returned(result, names, trace)
        labels = list(trace.settle().items())
        for name, before, after in zip(names, old, given[-len(old) :], strict=True):
            if before.width != after.width:
                raise self._error(f"state {name!r} has {before.width} elements, but {after.width} are returned for it.")
            labels += [(name, after.id), (f"{name}.previous", before.id)]
        for label, id in labels:
            if trace.names.setdefault(label, id) != id:
                raise self._error(
                    f"two values are called {label!r}; names within a cell must differ, and what a state becomes has "
                    "the state's name."
                )
        return trace, trace.finish(given[-len(old) :], [("y", given[0])])

    def _returned(self, result: Any, names: list[str], trace: Trace) -> list[Symbol]:
        given = list(result) if isinstance(result, tuple | list) else [result]
        for value in given:
            if not isinstance(value, Symbol):
                raise self._error(f"a cell returns symbols; among what it returned is {value!r}.")
            if value.builder is not trace:
                raise self._error("among what is returned is a symbol that was kept from another run of equations.")
        if len(given) not in (len(names), len(names) + 1):
            raise self._error(
                f"{len(given)} values are returned, but the cell has {len(names)} states ({', '.join(names)}): return "
                "the new value of each, in the order of the arguments; an output that is no state comes first."
            )
        return given


@lru_cache(maxsize=256)
def _program(cell: Cell, sizes: Sizes, hyper: tuple[tuple[str, Any], ...]) -> Program:
    first, _ = cell._run(sizes, dict(hyper), None)
    return require_legal(cell._run(sizes, dict(hyper), first)[1])


def cell(function: Callable[..., Any]) -> Cell:
    """Makes a cell of its equations.

    The function takes `x`, then the old value of each state (named by its argument: `h` is `hidden`, `c` is `cell`,
    others as they are; or as `state(...)` says), then hyper-parameters, keyword-only. It returns the new value of each
    state in the same order; the first is also the cell's output, unless one more value comes before them.

    Raises:
        CellError: if the function's arguments are not of this form.
    """
    return Cell(function)

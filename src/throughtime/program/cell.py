"""The `cell` decorator, which traces a cell's equations into a program."""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from numbers import Real
from typing import Any

from throughtime.errors import CellError, UserError, nearest
from throughtime.program.builder import is_name
from throughtime.program.cell_errors import cell_error_at, is_own
from throughtime.program.core import Program
from throughtime.program.declarations import InputDeclaration, Sizes, StateDeclaration, width_of
from throughtime.program.legality import require_legal
from throughtime.program.symbols import Symbol
from throughtime.program.trace import Trace
from throughtime.program.words import unknown_word
from throughtime.tables import html_table, html_text

# The usual names of states that papers write as these letters.
_USUAL_NAMES = {"h": "hidden", "c": "cell"}


class Cell:
    """A recurrent cell, defined by a function with its equations.

    Attributes:
        name: the cell's name, by default the function's.
        hyper: the hyper-parameters (keyword-only arguments) and their values.
        states: pairs of argument name and declaration, one per state, in order.
        inputs: pairs of argument name and declaration, one per input other than x, in order.
    """

    def __init__(self, function: Callable[..., Any], hyper: dict[str, Any] | None = None) -> None:
        if not inspect.isfunction(function):
            raise CellError(f"a cell must be a function that holds its equations, got {function!r}")
        self.function = function
        self.name: str = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        arguments = list(inspect.signature(function).parameters.values())
        taken = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
        if any(a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in arguments):
            raise self._error("a cell must take x, its states and keyword-only hyper-parameters, not *args or **kwargs")
        if len(taken) < 2:
            raise self._error("a cell must take x and at least one state: def name(x, h): ...")
        self.input_name = taken[0].name
        self.arguments = tuple((a.name, self._declared(a)) for a in taken[1:])
        self.states = tuple((name, d) for name, d in self.arguments if isinstance(d, StateDeclaration))
        self.inputs = tuple((name, d) for name, d in self.arguments if isinstance(d, InputDeclaration))
        if not self.states:
            raise self._error(
                "a cell must take at least one state besides its inputs: def name(x, h, dt=inputs()): ..."
            )
        self.hyper: dict[str, Any] = {}
        for argument in arguments:
            if argument.kind == argument.KEYWORD_ONLY:
                if argument.default is argument.empty:
                    raise self._error(f"the hyper-parameter {argument.name!r} needs a default")
                self.hyper[argument.name] = argument.default
        self.hyper.update(self._known(hyper or {}))

    def __call__(self, *args: Any, **hyper: Any) -> Any:
        """Apply the equations to symbols, for use inside another cell; optional inputs may be omitted."""
        left_out = {
            name: None for name, d in self.arguments[len(args) - 1 :] if isinstance(d, InputDeclaration) and d.optional
        }
        named = {name: value for name, value in hyper.items() if name in dict(self.arguments)}
        hyper = {name: value for name, value in hyper.items() if name not in named}
        return self.function(*args, **(left_out | named | self.hyper | self._known(hyper)))

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
        """The source code of the cell's function."""
        return inspect.getsource(self.function)

    def latex(self, **hyper: Any) -> str:
        """Return the cell's equations in LaTeX; see `throughtime.program.latex`.

        Args:
            **hyper: hyper-parameters other than the cell's defaults.

        Raises:
            CellError: if the equations are wrong.
        """
        # Two different widths, divisible by the numbers of heads and groups; the LaTeX doesn't contain them.
        return self.program(24, 16, **hyper).latex()

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"

    def variant(self, name: str, meaning: str, **hyper: Any) -> Cell:
        """Create a cell with the same equations, another name and other hyper-parameters."""
        other = Cell(self.function, self.hyper | hyper)
        other.name, other.__doc__ = name, meaning
        return other

    def program(
        self, input_size: int, hidden_size: int, *, bias: bool = True, inputs: Sequence[str] = (), **hyper: Any
    ) -> Program:
        """Trace the equations into a program.

        Args:
            input_size: the width of x.
            hidden_size: the number of hidden units.
            bias: whether gates have a bias.
            inputs: the names of the optional inputs that the program takes; it always takes the required ones.
            **hyper: hyper-parameters other than the cell's defaults.

        Returns:
            The program, which has passed the legality check (see `throughtime.program.legality`).

        Raises:
            CellError: if the equations are wrong; the message names the line of the cell's source.
        """
        for what, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or size < 1:
                raise CellError(f"{what} must be a positive integer, got {size!r}")
        values = tuple(sorted((self.hyper | self._known(hyper)).items()))
        for name, value in values:
            if not isinstance(value, Hashable):
                raise CellError(f"the hyper-parameter {name!r} must be a number, a string or None, got {value!r}")
        optional = self._optional_inputs(inputs)
        try:
            return _program(self, Sizes(input_size, hidden_size, bias), values, optional)
        except UserError as error:
            # The message names the cell's line; the tracer's frames would only hide it.
            raise error.with_traceback(None) from error.__cause__

    def _optional_inputs(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Check the names of optional inputs and put them in the order of declaration."""
        names = [declaration.name for _, declaration in self.inputs]
        for name in (inputs := [inputs] if isinstance(inputs, str) else list(inputs)):
            if name not in names:
                has = f"it has {', '.join(names)}" if names else "it has none besides x"
                raise CellError(f"cell {self.name} has no input {name!r}{nearest(str(name), names)}; {has}")
        return tuple(name for name in names if name in inputs)

    def _known(self, hyper: dict[str, Any]) -> dict[str, Any]:
        for name in hyper:
            if name not in self.hyper:
                has = f"it has {', '.join(self.hyper)}" if self.hyper else "it has none"
                hint = nearest(name, self.hyper) or _cells_with(name)
                raise CellError(f"cell {self.name} has no hyper-parameter {name!r}{hint}; {has}")
            usual = self.hyper[name]
            if isinstance(usual, Real) and isinstance(hyper[name], str):
                wanted = f"must be a number, such as {usual}"
                raise CellError(f"the hyper-parameter {name!r} of {self.name} {wanted}, got {hyper[name]!r}")
        return hyper

    def _declared(self, argument: inspect.Parameter) -> StateDeclaration | InputDeclaration:
        given = argument.default
        if given is argument.empty:
            given = StateDeclaration("", None, 0.0)
        if not isinstance(given, StateDeclaration | InputDeclaration):
            raise self._error(
                f"the argument {argument.name!r} must be a state (no default, or throughtime.language.state(...)) or "
                "an input at each step (throughtime.language.inputs(...)); hyper-parameters are keyword-only: move "
                "them after a `*`"
            )
        usual = _USUAL_NAMES if isinstance(given, StateDeclaration) else {}
        name = given.name or usual.get(argument.name, argument.name)
        if not is_name(name):
            raise self._error(
                f"a state's name must consist of letters, digits and _, with dots between words; got {name!r}"
            )
        if isinstance(given, InputDeclaration) and name in _RESERVED_NAMES:
            raise self._error(f"an input can't be named {name!r}: layers have an argument of that name")
        return replace(given, name=name)

    def _error(self, message: str) -> CellError:
        code = self.function.__code__
        line = code.co_firstlineno
        while linecache.getline(code.co_filename, line).lstrip().startswith("@"):
            line += 1
        return cell_error_at(code.co_filename, line, self.name, message)

    def _at_its_line(self, error: Exception) -> CellError:
        """Convert an exception from the equations to a `CellError` at the line of the cell where it was raised.

        If a function that the equations call raised it, the exception is the cause, without this library's frames.
        """
        code, line = self.function.__code__, self.function.__code__.co_firstlineno
        calls = error.__traceback__
        while calls is not None and calls.tb_frame.f_code is not code:
            calls = calls.tb_next
        for frame, at in traceback.walk_tb(calls):
            if frame.f_code is code:
                line = at
        found = cell_error_at(code.co_filename, line, self.name, _explained(error))
        called = [f for f, _ in traceback.walk_tb(calls) if f.f_code is not code and not is_own(f.f_code.co_filename)]
        found.__cause__ = error.with_traceback(calls) if called else None
        return found

    def _width(self, declaration: StateDeclaration | InputDeclaration, sizes: Sizes, hyper: dict[str, Any]) -> int:
        try:
            return width_of(declaration, sizes, hyper)
        except ValueError as error:
            raise self._error(str(error)) from None

    def _run(
        self, sizes: Sizes, hyper: dict[str, Any], optional: tuple[str, ...], seen: Trace | None
    ) -> tuple[Trace, Program]:
        given_inputs = [(argument, d) for argument, d in self.inputs if not d.optional or d.name in optional]
        letters = [self.input_name, *(argument for argument, _ in given_inputs)]
        trace = Trace(self.name, sizes, letters, [argument for argument, _ in self.states], seen)
        x = trace.input(self.input_name, sizes.input)
        further = {a: trace.input(d.name, self._width(d, sizes, hyper)) for a, d in given_inputs}
        names = [declaration.name for _, declaration in self.states]
        own = {a: trace.state(d.name, self._width(d, sizes, hyper), d.initial) for a, d in self.states}
        old = list(own.values())
        values = further | own
        with trace.active():
            try:
                result = self.function(x, *(values.get(argument) for argument, _ in self.arguments), **hyper)
            except UserError:
                raise
            except Exception as error:
                raise self._at_its_line(error)  # noqa: B904  # which sets the cause
        given = self._returned(result, names, trace)
        labels = [*trace.linear_gates().items(), *((d.name, further[a].id) for a, d in given_inputs)]
        for name, before, after in zip(names, old, given[-len(old) :], strict=True):
            if before.width != after.width:
                raise self._error(
                    f"state {name!r} has width {before.width}, but its returned value has width {after.width}"
                )
            labels += [(name, after.id), (f"{name}.previous", before.id)]
        for label, id in labels:
            if trace.names.setdefault(label, id) != id:
                raise self._error(
                    f"two values are named {label!r}; names within a cell must differ, and a state's new value has "
                    "the state's name"
                )
        return trace, trace.finish(given[-len(old) :], [("y", given[0])])

    def _hint_of_inputs(self) -> str:
        """Return a hint on declaring an input, if one of the states was probably meant to be one."""
        plain = [a for a, d in self.states if a not in _USUAL_NAMES and d == StateDeclaration(a, None, 0.0)]
        if not plain:
            return ""
        states = [a for a, _ in self.arguments if a != plain[0]]
        return (
            f". If {plain[0]} is not a state but an input at each step, declare it as one: "
            f"def {self.name}({', '.join([self.input_name, *states, f'{plain[0]}=inputs(width=1)'])})"
        )

    def _returned(self, result: Any, names: list[str], trace: Trace) -> list[Symbol]:
        given = list(result) if isinstance(result, tuple | list) else [result]
        for value in given:
            if not isinstance(value, Symbol):
                raise self._error(f"a cell must return symbols, but it returned {value!r}")
            if value.builder is not trace:
                raise self._error("a returned symbol was kept from another trace of the equations")
        if len(given) not in (len(names), len(names) + 1):
            raise self._error(
                f"the cell has {_count(len(names), 'state')} ({', '.join(names)}) but returned "
                f"{_count(len(given), 'value')}: return the new value of each state in the order of the arguments; an "
                "output that is not a state comes first"
                f"{self._hint_of_inputs() if len(given) < len(names) else ''}"
            )
        return given


_NAMED = 3  # the number of cells to name in a message
# The names of a layer's own arguments.
_RESERVED_NAMES = ("input", "state", "lengths", "reset", "table", "x", "out")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _cells_with(name: str) -> str:
    """Return a note that names built-in cells with a hyper-parameter, to append to a message; "" if there are none."""
    from throughtime import cells  # which are made with this module

    found = [cell for cell in cells.names() if name in cells.get(cell).hyper]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f" ({', '.join(found[:_NAMED])}{more} {'has' if len(found) == 1 else 'have'} it)" if found else ""


def _explained(error: Exception) -> str:
    """Describe a Python exception raised in a cell."""
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError) and error.name:
        return unknown_word(error.name)
    if isinstance(error, AttributeError) and isinstance(error.obj, Symbol) and error.name:
        return unknown_word(error.name, f"a vector has no attribute {error.name!r}")
    return f"{type(error).__name__}: {error}"


@lru_cache(maxsize=256)
def _program(cell: Cell, sizes: Sizes, hyper: tuple[tuple[str, Any], ...], inputs: tuple[str, ...]) -> Program:
    first, _ = cell._run(sizes, dict(hyper), inputs, None)
    return require_legal(cell._run(sizes, dict(hyper), inputs, first)[1])


def cell(function: Callable[..., Any]) -> Cell:
    """Create a cell from a function with its equations; used as a decorator.

    The function takes `x`, then the old value of each state and any further inputs, which are declared by
    `inputs(...)`, then keyword-only hyper-parameters. A state has the name of its argument (`h` is `hidden`, `c` is
    `cell`) unless `state(...)` declares another. The function returns the new value of each state in the same order.
    The first one is also the cell's output, unless one additional value precedes them.

    Raises:
        CellError: if the function's signature is not of this form.
    """
    return Cell(function)

"""The `cell` decorator: runs a cell's equations once on symbols and makes a program of them."""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from throughtime.errors import CellError, UserError, nearest
from throughtime.program.builder import Symbol, cell_error_at, is_name, is_own
from throughtime.program.core import Program
from throughtime.program.declarations import InputDeclaration, Sizes, StateDeclaration, width_of
from throughtime.program.legality import require_legal
from throughtime.program.trace import Trace
from throughtime.program.words import unknown_word
from throughtime.tables import html_table, html_text

# What the field calls the states that every paper writes with these letters.
_USUAL_NAMES = {"h": "hidden", "c": "cell"}


class Cell:
    """A recurrent cell: its equations, and the program that they become.

    Attributes:
        name: the function's name.
        hyper: the hyper-parameters (the keyword-only arguments) and their values.
        states: each state's argument and declaration, in order.
        inputs: each further input's argument and declaration, in order.
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
        self.arguments = tuple((a.name, self._declared(a)) for a in taken[1:])
        self.states = tuple((name, d) for name, d in self.arguments if isinstance(d, StateDeclaration))
        self.inputs = tuple((name, d) for name, d in self.arguments if isinstance(d, InputDeclaration))
        if not self.states:
            raise self._error("a cell takes at least one state besides its inputs: def name(x, h, dt=inputs()): ...")
        self.hyper: dict[str, Any] = {}
        for argument in arguments:
            if argument.kind == argument.KEYWORD_ONLY:
                if argument.default is argument.empty:
                    raise self._error(f"the hyper-parameter {argument.name!r} needs a default.")
                self.hyper[argument.name] = argument.default
        self.hyper.update(self._known(hyper or {}))

    def __call__(self, *args: Any, **hyper: Any) -> Any:
        """The equations on given symbols, for use inside another cell; optional inputs may be left out."""
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
        """The cell's equations, as they are written."""
        return inspect.getsource(self.function)

    def latex(self, **hyper: Any) -> str:
        """The cell's equations in LaTeX; see `throughtime.program.latex`.

        Args:
            **hyper: hyper-parameters other than the cell's defaults.

        Raises:
            CellError: if the equations are wrong.
        """
        # Widths that differ, and that heads and groups divide; none of them shows.
        return self.program(24, 16, **hyper).latex()

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"

    def variant(self, name: str, meaning: str, **hyper: Any) -> Cell:
        """The same equations under another name, with other hyper-parameters."""
        other = Cell(self.function, self.hyper | hyper)
        other.name, other.__doc__ = name, meaning
        return other

    def program(
        self, input_size: int, hidden_size: int, *, bias: bool = True, inputs: Sequence[str] = (), **hyper: Any
    ) -> Program:
        """Runs the equations once on symbols.

        Args:
            input_size: the width of x.
            hidden_size: the number of hidden units.
            bias: whether gates have a bias.
            inputs: the names of the optional inputs that the program takes; it takes the others in any case.
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
        asked_for = self._asked_for(inputs)
        try:
            return _program(self, Sizes(input_size, hidden_size, bias), values, asked_for)
        except UserError as error:
            # Its message has the cell's line; the frames of the tracer would only hide it.
            raise error.with_traceback(None) from error.__cause__

    def _asked_for(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """The names of inputs, checked."""
        names = [declaration.name for _, declaration in self.inputs]
        for name in (inputs := [inputs] if isinstance(inputs, str) else list(inputs)):
            if name not in names:
                has = f"it has {', '.join(names)}" if names else "it has none besides x"
                raise CellError(f"cell {self.name} has no input {name!r}{nearest(str(name), names)} ({has}).")
        return tuple(name for name in names if name in inputs)

    def _known(self, hyper: dict[str, Any]) -> dict[str, Any]:
        for name in hyper:
            if name not in self.hyper:
                has = f"it has {', '.join(self.hyper)}" if self.hyper else "it has none"
                raise CellError(f"cell {self.name} has no hyper-parameter {name!r}{nearest(name, self.hyper)} ({has}).")
        return hyper

    def _declared(self, argument: inspect.Parameter) -> StateDeclaration | InputDeclaration:
        given = argument.default
        if given is argument.empty:
            given = StateDeclaration("", None, 0.0)
        if not isinstance(given, StateDeclaration | InputDeclaration):
            raise self._error(
                f"the argument {argument.name!r} must be a state (a default of throughtime.language.state(...), or "
                "none) or an input of each step (throughtime.language.inputs(...)); a hyper-parameter is keyword-only: "
                "put it after a `*`."
            )
        usual = _USUAL_NAMES if isinstance(given, StateDeclaration) else {}
        name = given.name or usual.get(argument.name, argument.name)
        if not is_name(name):
            raise self._error(f"a state's name is letters, digits and _, with dots between words; given {name!r}.")
        if isinstance(given, InputDeclaration) and name in _TAKEN_NAMES:
            raise self._error(f"an input cannot be called {name!r}: a layer has an argument of that name.")
        return replace(given, name=name)

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
        self, sizes: Sizes, hyper: dict[str, Any], asked_for: tuple[str, ...], seen: Trace | None
    ) -> tuple[Trace, Program]:
        given_inputs = [(argument, d) for argument, d in self.inputs if not d.optional or d.name in asked_for]
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
        labels = [*trace.settle().items(), *((d.name, further[a].id) for a, d in given_inputs)]
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

    def _hint_of_inputs(self) -> str:
        """How to declare an argument that isn't a state, where one may be meant."""
        plain = [a for a, d in self.states if a not in _USUAL_NAMES and d == StateDeclaration(a, None, 0.0)]
        if not plain:
            return ""
        states = [a for a, _ in self.arguments if a != plain[0]]
        return (
            f" If {plain[0]} is not a state but is given at each step, declare it as an input: "
            f"def {self.name}({', '.join([self.input_name, *states, f'{plain[0]}=inputs(width=1)'])})."
        )

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
                f"{self._hint_of_inputs() if len(given) < len(names) else ''}"
            )
        return given


# What a layer's call has arguments for.
_TAKEN_NAMES = ("input", "state", "lengths", "reset", "table", "x", "out")


def _explained(error: Exception) -> str:
    """What is said of an error of Python's in a cell."""
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
    """Makes a cell of its equations.

    The function takes `x`, then the old value of each state (named by its argument: `h` is `hidden`, `c` is `cell`,
    others as they are; or as `state(...)` says), among them inputs beside x that are declared by `inputs(...)`, then
    hyper-parameters, keyword-only. It returns the new value of each
    state in the same order; the first is also the cell's output, unless one more value comes before them.

    Raises:
        CellError: if the function's arguments are not of this form.
    """
    return Cell(function)

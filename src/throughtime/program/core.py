"""What a cell becomes: a program, a short list of operations on vectors, as plain immutable data.

A program describes one time step of one row of a batch; an engine repeats it over steps and rows. Its meaning, in
Python, for inputs `[T, B, width]`, states `[B, width]` and parameters:

    def run(program, inputs, states, parameters):
        reductions = [0 for each reduction]
        for t in (range(T) if not program.reverse else reversed(range(T))):
            values = []
            for instruction in program.body:
                values.append(the instruction's operation on inputs[.][t], states, parameters and earlier values)
            for k, output in enumerate(program.outputs):
                outputs[k][t] = values[output.value]
            for k, reduction in enumerate(program.reductions):
                reductions[k] += sum over rows of outer(u, v) for each term (u, v), of u for each term (u,)
            states = [values[state.next] for state in program.states]
        return outputs, states, reductions

The gradient of a program is a program of the same kind (see `throughtime.program.gradient`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from throughtime.tables import html_text

Attribute = int | float | str

# The leaves of a body: they read what the program is given.
INPUT, PREVIOUS, PARAMETER, CONSTANT = "input", "previous", "parameter", "constant"
LEAVES = (INPUT, PREVIOUS, PARAMETER, CONSTANT)


@dataclass(frozen=True)
class Instruction:
    """One value of a program: an operation on earlier values.

    Attributes:
        op: the operation's name in the operations table, or a leaf.
        args: the earlier values it takes, as their indices in the body.
        width: the number of elements of the result.
        attributes: what else the operation needs, such as where a slice starts.
    """

    op: str
    args: tuple[int, ...]
    width: int
    attributes: tuple[tuple[str, Attribute], ...] = ()

    def __getitem__(self, name: str) -> Any:
        """The attribute of that name."""
        return dict(self.attributes)[name]


@dataclass(frozen=True)
class Input:
    """A vector that is given at each step and row: `[T, B, width]`.

    Attributes:
        name: the input's name.
        width: its number of elements.
        one_hot: whether all but one element are 0, and that one is 1. Given is then its place, `[T, B]` whole numbers,
            and nothing but products with matrices can be done with the vector. An engine may leave out the products
            with 0, whatever they are of.
    """

    name: str
    width: int
    one_hot: bool = False


@dataclass(frozen=True)
class State:
    """A vector that a row carries from step to step: `[B, width]`.

    Attributes:
        name: the state's name; the value before the step is `name.previous`.
        width: its number of elements.
        initial: what each element starts with where nothing else is given.
        next: the value that it takes at the end of the step.
    """

    name: str
    width: int
    initial: float
    next: int


@dataclass(frozen=True)
class GateRows:
    """The rows `start` to `stop` of a parameter, which belong to one gate.

    Attributes:
        gate: the gate's name.
        start, stop: the rows.
        initial: what the rows start with; None leaves it to the initialiser.
    """

    gate: str
    start: int
    stop: int
    initial: float | None = None


@dataclass(frozen=True)
class Parameter:
    """A vector `[n]` or matrix `[n, k]` that is the same at all steps and rows."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[GateRows, ...] = ()


@dataclass(frozen=True)
class Output:
    """A value that is written at each step and row: `[T, B, width]`."""

    name: str
    value: int


@dataclass(frozen=True)
class Reduction:
    """A sum over all steps and rows, of the shape of a parameter.

    Attributes:
        name: what it is the gradient of.
        shape: `[n]` or `[n, k]`.
        terms: each `(u, v)` adds the outer product of two values, each `(u,)` adds a value.
    """

    name: str
    shape: tuple[int, ...]
    terms: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Program:
    """One time step as a list of operations; immutable, compared by content.

    Attributes:
        name: the cell's name.
        inputs, states, parameters: what it is given.
        body: the operations; a value is known by its index here, and takes only earlier ones.
        outputs, reductions: what it gives, besides the states' next values.
        names: the values that can be recorded and edited, each `(name, value)`.
        reverse: whether time runs from the last step to the first.
    """

    name: str
    inputs: tuple[Input, ...] = ()
    states: tuple[State, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: tuple[Instruction, ...] = ()
    outputs: tuple[Output, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    names: tuple[tuple[str, int], ...] = ()
    reverse: bool = False
    _hash: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # An engine looks programs up in caches at each call, so the hash of the whole body is taken once.
        object.__setattr__(self, "_hash", hash(self._content()))

    def _content(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != "_hash")

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Program) or self._hash != other._hash:
            return False
        return self._content() == other._content()

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, self._content()  # the hash of a string differs from process to process

    def __deepcopy__(self, memo: object) -> Program:
        return self  # nothing in it can change

    @cached_property
    def values(self) -> Mapping[str, int]:
        """The named values: name to index in the body."""
        return MappingProxyType(dict(self.names))

    @cached_property
    def flipped(self) -> Program:
        """The same step, with time running the other way."""
        return replace(self, reverse=not self.reverse)

    @cached_property
    def text(self) -> str:
        """The program as JSON; see `throughtime.program.saving`."""
        from throughtime.program.saving import to_json

        return to_json(self)

    def equivalent(self, other: Program) -> bool:
        """Whether both compute the same, whatever they and their values are called."""
        return self._anonymous == other._anonymous

    @cached_property
    def _anonymous(self) -> Program:
        return replace(
            self,
            name="",
            names=(),
            inputs=tuple(replace(i, name="") for i in self.inputs),
            states=tuple(replace(s, name="") for s in self.states),
            parameters=tuple(replace(p, name="", parts=()) for p in self.parameters),
            outputs=tuple(replace(o, name="") for o in self.outputs),
            reductions=tuple(replace(r, name="") for r in self.reductions),
        )

    def latex(self) -> str:
        """The step's equations in LaTeX; see `throughtime.program.latex`."""
        from throughtime.program.latex import latex

        return latex(self)

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"

    def __str__(self) -> str:
        from throughtime.program.printing import printed

        return printed(self)

    def __repr__(self) -> str:
        if not self.__dict__.get("_legal"):  # which may have no readable form
            return f"<program {self.name!r} of {len(self.body)} instructions>"
        return str(self)

    def _repr_html_(self) -> str:
        return html_text(str(self))


@lru_cache(maxsize=512)
def shared(program: Program) -> Program:
    """The first met of all programs equal to this one; what is kept by program is then found without comparing."""
    return program

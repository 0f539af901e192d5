"""Programs: a cell's equations as a short list of operations on vectors, in plain immutable data.

A program describes one time step of one sequence of a batch; an engine repeats it over steps and sequences. Its
semantics, in Python-like pseudocode, for inputs `[T, B, width]`, states `[B, width]` and parameters:

    def run(program, inputs, states, parameters):
        reductions = [0 for each reduction]
        for t in (range(T) if not program.reverse else reversed(range(T))):
            values = []
            for instruction in program.body:
                values.append(result of the operation on inputs[...][t], states, parameters and earlier values)
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

# The leaves of a body, which read the program's operands.
INPUT, PREVIOUS, PARAMETER, CONSTANT = "input", "previous", "parameter", "constant"
LEAVES = (INPUT, PREVIOUS, PARAMETER, CONSTANT)


@dataclass(frozen=True)
class Instruction:
    """One value of a program: an operation on earlier values.

    Attributes:
        op: the operation's name in the operations table, or a leaf.
        args: the indices in the body of the earlier values that it reads.
        width: the number of elements of the result.
        attributes: other arguments of the operation, such as the start of a slice.
    """

    op: str
    args: tuple[int, ...]
    width: int
    attributes: tuple[tuple[str, Attribute], ...] = ()

    def __getitem__(self, name: str) -> Any:
        """Look up an attribute by name."""
        return dict(self.attributes)[name]


@dataclass(frozen=True)
class Input:
    """An input vector at each step and sequence: `[T, B, width]`.

    Attributes:
        name: the input's name.
        width: its number of elements.
        one_hot: whether the vector is one-hot. It is then passed as integer indices `[T, B]`, and only matrix products
            can read it. An engine may skip the multiplications by 0, even of NaN and infinities.
    """

    name: str
    width: int
    one_hot: bool = False


@dataclass(frozen=True)
class State:
    """A vector that a sequence carries from step to step: `[B, width]`.

    Attributes:
        name: the state's name; its value before the step is `name.previous`.
        width: its number of elements.
        initial: the default initial value of each element.
        next: the index in the body of the state's value at the end of the step.
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
        initial: the initial value of the rows; None leaves it to the initializer.
    """

    gate: str
    start: int
    stop: int
    initial: float | None = None


@dataclass(frozen=True)
class Parameter:
    """A vector `[n]` or matrix `[n, k]` shared by all steps and sequences."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[GateRows, ...] = ()


@dataclass(frozen=True)
class Output:
    """A value written at each step and sequence: `[T, B, width]`."""

    name: str
    value: int


@dataclass(frozen=True)
class Reduction:
    """A sum over all steps and sequences, with the shape of a parameter.

    Attributes:
        name: the name of the parameter whose gradient it is.
        shape: `[n]` or `[n, k]`.
        terms: `(u, v)` adds the outer product of two values, `(u,)` adds a value.
    """

    name: str
    shape: tuple[int, ...]
    terms: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Program:
    """One time step as a list of operations; immutable, compared by content.

    Attributes:
        name: the cell's name.
        inputs, states, parameters: its operands.
        body: the operations. A value is identified by its index here, and depends only on earlier values.
        outputs, reductions: its results, in addition to the states' next values.
        names: pairs `(name, value)` of the values that can be recorded and edited.
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
        # Engines look programs up in caches on every call, so the hash is computed once.
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
        return Program, self._content()  # string hashes differ between processes

    def __deepcopy__(self, memo: object) -> Program:
        return self  # immutable

    @cached_property
    def values(self) -> Mapping[str, int]:
        """The index of each named value in the program's body, by name."""
        return MappingProxyType(dict(self.names))

    @cached_property
    def flipped(self) -> Program:
        """The same program with time reversed."""
        return replace(self, reverse=not self.reverse)

    @cached_property
    def text(self) -> str:
        """The program as JSON; see `throughtime.program.saving`."""
        from throughtime.program.saving import to_json

        return to_json(self)

    def equivalent(self, other: Program) -> bool:
        """Return whether both programs are the same up to names."""
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
        """Return the step's equations in LaTeX; see `throughtime.program.latex`."""
        from throughtime.program.latex import latex

        return latex(self)

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"

    def __str__(self) -> str:
        from throughtime.program.printing import printed

        return printed(self)

    def __repr__(self) -> str:
        if not self.__dict__.get("_legal"):  # an illegal program may not be printable
            return f"<program {self.name!r} of {len(self.body)} instructions>"
        return str(self)

    def _repr_html_(self) -> str:
        return html_text(str(self))


@lru_cache(maxsize=512)
def shared(program: Program) -> Program:
    """Return the first of all programs equal to this one, so that cache lookups compare by identity."""
    return program

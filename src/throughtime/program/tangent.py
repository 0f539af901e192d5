"""The tangent of a program, derived as another program: the directional derivative of its results.

A run takes inputs x, initial states s and parameters p, and returns outputs y, final states and reductions r. Its
tangent takes the residuals of the forward run and a direction for each of x, s and p, and returns the tangents of y, of
the final states and of r. This is forward-mode differentiation, a Jacobian-vector product:

    forward program (with residuals as outputs)            tangent program
    inputs      x                                          inputs      x.tangent (and residuals, and x where it is read)
    states      s                                          states      s.tangent
    parameters  p                                          parameters  p.tangent (and p where it is read)
    outputs     y                                          outputs     y.tangent
    reductions  r                                          reductions  r.tangent

The rules follow from the gradient rules. A pointwise operation's Jacobian is diagonal, so it is its own transpose.
Operations that move elements, and products with a matrix, are linear. For a result of width 1, the gradient is the only
row of the Jacobian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from throughtime.errors import ProgramError
from throughtime.program.core import INPUT, PARAMETER, PREVIOUS, Instruction, Parameter, Program
from throughtime.program.derivation import Derivation, Slots
from throughtime.program.operations import OPERATIONS, PRODUCTS
from throughtime.program.symbols import Symbol

_MOVES = ("slice", "concat", "expand")  # move elements without computing anything


@dataclass(frozen=True)
class Tangent:
    """A tangent program and the sources of its arguments.

    Attributes:
        program: the tangent program. Its inputs are the forward program's inputs that it reads, then the outputs that
            it reads (the residuals), then the directions of inputs, then those of the perturbed values. Its parameters
            are the forward program's parameters that it reads, then the directions of parameters.
        inputs, residuals, parameters: the indices of the forward program's inputs, outputs and parameters that it
            reads.
        given: the inputs and parameters that have a direction. Every state of the forward program has a tangent
            state here.
        perturbed: the values of the forward program's body that also get a direction of their own at each step.
    """

    program: Program
    inputs: tuple[int, ...]
    residuals: tuple[int, ...]
    parameters: tuple[int, ...]
    given: Slots
    perturbed: tuple[int, ...]


@lru_cache(maxsize=256)
def tangent(program: Program, given: Slots, perturbed: tuple[int, ...] = ()) -> Tangent:
    """Derive the tangent of a program.

    Args:
        program: a legal program, as `throughtime.program.gradient.with_residuals` returns it with everything wanted.
        given: the inputs and parameters that have a direction (all states do). A one-hot input can't have one.
        perturbed: the indices of values of the body that also get a direction.

    Returns:
        The tangent program, which is legal, and the sources of its arguments.
    """
    return _Forward(program, given, perturbed).derive()


class _Forward(Derivation):
    """Derives one tangent, visiting the body in order. Values whose tangent is zero are skipped."""

    def __init__(self, program: Program, given: Slots, perturbed: tuple[int, ...]) -> None:
        super().__init__(program, f"{program.name}.tangent")
        self.given, self.perturbed = given, perturbed
        self.tangents: dict[int, Symbol] = {}
        self.directions: dict[int, int] = {}  # by parameter index

    def derive(self) -> Tangent:
        program, builder = self.program, self.builder
        states = [builder.state(f"{s.name}.tangent", s.width) for s in program.states]
        inputs = {k: self._direction("given", k, program.inputs[k].name, program.inputs[k].width) for k in self._inputs}
        for k in self.given.arrays:
            self.parameter_sources.append(("given", k))
            parameter = program.parameters[k]
            self.directions[k] = builder.parameter(Parameter(f"{parameter.name}.tangent", parameter.shape))
        added = {
            id: self._direction("perturbed", n, f"value{id}", program.body[id].width)
            for n, id in enumerate(self.perturbed)
        }
        for id, instruction in enumerate(program.body):
            moved = self._tangent(id, instruction, states, inputs)
            if id in added:
                moved = added[id] if moved is None else moved + added[id]
            if moved is not None:
                self.tangents[id] = moved
        result = builder.finish(
            [self._of(state.next) for state in program.states],
            [(f"{output.name}.tangent", self._of(output.value)) for output in program.outputs],
            [(f"{r.name}.tangent", r.shape, self._terms(r.terms)) for r in program.reductions],
            names={f"{name}.tangent": self.tangents[id] for name, id in program.names if id in self.tangents},
            reverse=program.reverse,
        )
        settled, reads = self.settled(result)
        return Tangent(settled, reads.inputs, reads.residuals, reads.parameters, self.given, self.perturbed)

    @property
    def _inputs(self) -> tuple[int, ...]:
        return self.given.vectors

    def _direction(self, kind: str, k: int, name: str, width: int) -> Symbol:
        return self.input(kind, k, f"{name}.tangent", width)

    def _of(self, id: int) -> Symbol:
        """Return a value's tangent; zero if the value depends on no perturbed input."""
        if id in self.tangents:
            return self.tangents[id]
        return self.builder.constant(0.0, self.program.body[id].width)

    def _terms(self, terms: tuple[tuple[int, ...], ...]) -> list[tuple[Symbol, ...]]:
        """Apply the product rule to each term."""
        return [
            tuple(self._of(other) if n == moving else self.value(other) for n, other in enumerate(term))
            for term in terms
            for moving, id in enumerate(term)
            if id in self.tangents
        ]

    def _tangent(
        self, id: int, instruction: Instruction, states: list[Symbol], inputs: dict[int, Symbol]
    ) -> Symbol | None:
        if instruction.op == INPUT:
            return inputs.get(instruction["index"])
        if instruction.op == PREVIOUS:
            return states[int(instruction["index"])]
        if instruction.op == PARAMETER:
            k = instruction["index"]
            return self.builder.vector(self.directions[k]) if k in self.directions else None
        if instruction.op in OPERATIONS:
            return self._operation(id, instruction)
        return None  # a constant

    def _operation(self, id: int, instruction: Instruction) -> Symbol | None:
        if instruction.op in PRODUCTS:
            return self._product(instruction)
        moving = [k for k, arg in enumerate(instruction.args) if arg in self.tangents]
        if not moving:
            return None
        if instruction.op in _MOVES:
            return self.builder.copy(instruction, tuple(self._of(arg) for arg in instruction.args))
        return self._sum([self._part(id, instruction, k) for k in moving])

    def _part(self, id: int, instruction: Instruction, k: int) -> Symbol | None:
        """Return the part of a value's tangent that comes from its k-th argument."""
        row, builder = OPERATIONS[instruction.op], self.builder
        values = [self.value(arg) for arg in instruction.args]
        moved = self.tangents[instruction.args[k]]
        if row.pointwise:
            return _symbol(row.gradient(builder, moved, self.value(id), *values)[k])
        if instruction.width == 1:
            slope = _symbol(row.gradient(builder, builder.constant(1.0, 1), self.value(id), *values)[k])
            return None if slope is None else builder.row_sum(builder.mul(slope, moved))
        raise ProgramError(f"the operation {instruction.op!r} has no rule for its tangent")

    def _product(self, instruction: Instruction) -> Symbol | None:
        (arg,), weight = instruction.args, instruction["weight"]
        parts = []
        if arg in self.tangents:
            parts.append(self.builder.copy(instruction, (self.tangents[arg],), weight=self.weight(weight)))
        if weight in self.directions:
            parts.append(self.builder.copy(instruction, (self.value(arg),), weight=self.directions[weight]))
        return self._sum(parts)

    @staticmethod
    def _sum(parts: Sequence[Symbol | None]) -> Symbol | None:
        total: Symbol | None = None
        for part in parts:
            if part is not None:
                total = part if total is None else total + part
        return total


def _symbol(found: Any) -> Symbol | None:
    if not isinstance(found, Symbol | None):
        raise ProgramError(f"a gradient rule returned {found!r}, not a vector")
    return found

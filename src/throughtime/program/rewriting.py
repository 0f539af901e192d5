"""The base class of program rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from throughtime.errors import ProgramError
from throughtime.program.builder import Builder
from throughtime.program.core import INPUT, PARAMETER, PREVIOUS, Input, Instruction, Parameter, Program
from throughtime.program.legality import require_legal
from throughtime.program.symbols import Symbol


class Rewriting:
    """Base class of rewrites, which copy a program; subclasses override methods to change parts of the copy.

    Attributes:
        program: the program to copy.
        builder: the builder of the copy.
        inputs: the program's original inputs, as symbols of the copy.
        added: the copy's additional inputs, in the order of `adds`.
        values: the symbol in the copy of each value of the program copied so far.

    Raises:
        ProgramError: if an added input has the name of an existing one.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.builder = Builder(program.name)
        self.values: list[Symbol] = []
        for given in (inputs := [*program.inputs, *self.adds()]):
            if sum(given.name == other.name for other in inputs) > 1:
                raise ProgramError(f"the program {program.name!r} already has an input named {given.name!r}")
        symbols = [self.builder.input(i.name, i.width, i.one_hot) for i in inputs]
        self.inputs, self.added = symbols[: len(program.inputs)], symbols[len(program.inputs) :]
        self._old = [self.builder.state(s.name, s.width, s.initial) for s in program.states]
        self._weights: list[int] = []
        for k, parameter in enumerate(program.parameters):
            self._weights.append(len(self.builder.parameters))
            for kept in self.parameter(k, parameter):
                self.builder.parameter(kept)

    # Methods to override.

    def adds(self) -> Sequence[Input]:
        """Return the additional inputs of the copy."""
        return ()

    def parameter(self, k: int, parameter: Parameter) -> Sequence[Parameter]:
        """Return the parameters that replace parameter k."""
        return (parameter,)

    def previous(self, k: int, before: Symbol) -> Symbol:
        """Return the old value of state k that the copied equations read."""
        return before

    def product(self, id: int, instruction: Instruction, weight: int) -> Symbol:
        """Return the replacement of a matrix product; `weight` is the index of its parameter in the copy."""
        return self.builder.copy(instruction, (self.values[instruction.args[0]],), weight=weight)

    def value(self, id: int, given: Symbol) -> Symbol:
        """Return the replacement of any value of the body."""
        return given

    def next(self, k: int, before: Symbol, after: Symbol) -> Symbol:
        """Return the replacement of the new value of state k."""
        return after

    def output(self, k: int, given: Symbol) -> Symbol:
        """Return the replacement of output k."""
        return given

    # The copy.

    def result(self) -> Program:
        """Build the rewritten program."""
        for id, instruction in enumerate(self.program.body):
            self.values.append(self.value(id, self._copied(id, instruction)))
        program, values = self.program, self.values
        nexts = [
            self.next(k, before, values[s.next])
            for k, (s, before) in enumerate(zip(program.states, self._old, strict=True))
        ]
        became = {s.next: n for s, n in zip(program.states, nexts, strict=True)}
        names = {name: values[id] for name, id in program.names}
        names |= {s.name: n for s, n in zip(program.states, nexts, strict=True) if s.name in names}
        return require_legal(
            self.builder.finish(
                nexts,
                [(o.name, self.output(k, self._output_symbol(o.value, became))) for k, o in enumerate(program.outputs)],
                [(r.name, r.shape, [tuple(values[v] for v in term) for term in r.terms]) for r in program.reductions],
                names=names,
                reverse=program.reverse,
                keep_named=True,
            )
        )

    def _copied(self, id: int, instruction: Instruction) -> Symbol:
        attributes: dict[str, Any] = dict(instruction.attributes)
        if instruction.op == INPUT:
            return self.inputs[int(instruction["index"])]
        if instruction.op == PREVIOUS:
            return self.previous(instruction["index"], self._old[instruction["index"]])
        if instruction.op == PARAMETER:
            return self.builder.vector(self._weights[instruction["index"]])
        if "weight" in attributes:
            return self.product(id, instruction, self._weights[instruction["weight"]])
        return self.builder.copy(instruction, tuple(self.values[arg] for arg in instruction.args))

    def _output_symbol(self, id: int, became: dict[int, Symbol]) -> Symbol:
        """Return the symbol of an output; if it contains a state, this is the state's value at the end of the step."""
        if id in became:
            return became[id]
        instruction = self.program.body[id]
        if instruction.op == "concat":
            return self.builder.concat(*(self._output_symbol(arg, became) for arg in instruction.args))
        return self.values[id]

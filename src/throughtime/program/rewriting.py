"""How a program is copied, with something in it that is another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from throughtime.errors import ProgramError
from throughtime.program.builder import Builder, Symbol
from throughtime.program.core import INPUT, PARAMETER, PREVIOUS, Input, Instruction, Parameter, Program
from throughtime.program.legality import require_legal


class Rewriting:
    """Copies a program; a subclass says what becomes another on the way, by the methods that it overrides.

    Attributes:
        program: what is copied.
        builder: what the copy is built with.
        inputs: the program's own inputs.
        added: the inputs that the copy has more, in the order of `adds`.
        values: for each value of the program what has become of it, as far as the copy has come.

    Raises:
        ProgramError: if the program has an input of an added one's name already.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.builder = Builder(program.name)
        self.values: list[Symbol] = []
        for given in (inputs := [*program.inputs, *self.adds()]):
            if sum(given.name == other.name for other in inputs) > 1:
                raise ProgramError(f"the program {program.name!r} has an input called {given.name!r} already.")
        symbols = [self.builder.input(i.name, i.width, i.one_hot) for i in inputs]
        self.inputs, self.added = symbols[: len(program.inputs)], symbols[len(program.inputs) :]
        self._old = [self.builder.state(s.name, s.width, s.initial) for s in program.states]
        self._weights: list[int] = []
        for k, parameter in enumerate(program.parameters):
            self._weights.append(len(self.builder.parameters))
            for kept in self.parameter(k, parameter):
                self.builder.parameter(kept)

    # What a subclass may say otherwise.

    def adds(self) -> Sequence[Input]:
        """The inputs that the copy has more."""
        return ()

    def parameter(self, k: int, parameter: Parameter) -> Sequence[Parameter]:
        """What stands in the place of a parameter."""
        return (parameter,)

    def previous(self, k: int, before: Symbol) -> Symbol:
        """The old value of a state, as the cell sees it."""
        return before

    def product(self, id: int, instruction: Instruction, weight: int) -> Symbol:
        """A product; `weight` is where its parameter is in the copy."""
        return self.builder.copy(instruction, (self.values[instruction.args[0]],), weight=weight)

    def value(self, id: int, given: Symbol) -> Symbol:
        """Any value."""
        return given

    def next(self, k: int, before: Symbol, after: Symbol) -> Symbol:
        """The new value of a state."""
        return after

    def output(self, k: int, given: Symbol) -> Symbol:
        """What is given out."""
        return given

    # The copy.

    def result(self) -> Program:
        """The program as it has become."""
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
                [(o.name, self.output(k, self._given_out(o.value, became))) for k, o in enumerate(program.outputs)],
                [(r.name, r.shape, [tuple(values[v] for v in term) for term in r.terms]) for r in program.reductions],
                names=names,
                reverse=program.reverse,
                keep_named=True,
            )
        )

    def _copied(self, id: int, instruction: Instruction) -> Symbol:
        words: dict[str, Any] = dict(instruction.attributes)
        if instruction.op == INPUT:
            return self.inputs[int(instruction["index"])]
        if instruction.op == PREVIOUS:
            return self.previous(instruction["index"], self._old[instruction["index"]])
        if instruction.op == PARAMETER:
            return self.builder.vector(self._weights[instruction["index"]])
        if "weight" in words:
            return self.product(id, instruction, self._weights[instruction["weight"]])
        return self.builder.copy(instruction, tuple(self.values[arg] for arg in instruction.args))

    def _given_out(self, id: int, became: dict[int, Symbol]) -> Symbol:
        """What a program gives of its states, it gives as they are at the end of the step."""
        if id in became:
            return became[id]
        instruction = self.program.body[id]
        if instruction.op == "concat":
            return self.builder.concat(*(self._given_out(arg, became) for arg in instruction.args))
        return self.values[id]

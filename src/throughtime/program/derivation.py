"""The common base of gradient and tangent derivation: reading residuals and recomputing forward values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from throughtime.errors import ProgramError
from throughtime.program.builder import Builder
from throughtime.program.core import CONSTANT, INPUT, PARAMETER, Input, Instruction, Parameter, Program
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS
from throughtime.program.symbols import Symbol

_Named = TypeVar("_Named", Input, Parameter)
_RANKS = ("missing", "input", "parameter", "residuals", "given", "perturbed")
_ALWAYS = ("given", "perturbed")  # kept even if unused
# For each input or parameter of a derived program, its kind and its index within that kind.
_Sources = list[tuple[str, int]]


@dataclass(frozen=True)
class Slots:
    """Indices of some operands or results of a run."""

    vectors: tuple[int, ...]  # inputs or outputs
    states: tuple[int, ...]
    arrays: tuple[int, ...]  # parameters or reductions


@dataclass(frozen=True)
class Reads:
    """The indices of a program's inputs, outputs (the residuals) and parameters that a derived program reads."""

    inputs: tuple[int, ...]
    residuals: tuple[int, ...]
    parameters: tuple[int, ...]


class Derivation:
    """Derives a program from another program's instructions, reading that program's values.

    Args:
        program: the program to derive from.
        name: the name of the derived program.
        recompute: whether to recompute cheap values that are not among the residuals.
    """

    def __init__(self, program: Program, name: str, *, recompute: bool = True) -> None:
        self.program, self.recompute = program, recompute
        self.builder = Builder(name)
        self.sources: _Sources = []
        self.parameter_sources: _Sources = []
        self.forward: dict[int, Symbol] = {}
        self.weights: dict[int, int] = {}
        self.residuals = {output.value: k for k, output in reversed(list(enumerate(program.outputs)))}

    def value(self, id: int) -> Symbol:
        """Return a value of the original program, as a symbol of the derived one."""
        # Iterative, as a chain of recomputed values may have thousands of links.
        waiting = [id]
        while waiting:
            missing = [arg for arg in self._computed_from(waiting[-1]) if arg not in self.forward]
            if missing:
                waiting += reversed(missing)
            elif (ready := waiting.pop()) not in self.forward:
                self.forward[ready] = self._read(ready)
        return self.forward[id]

    def _computed_from(self, id: int) -> tuple[int, ...]:
        """Return the values from which a value is recomputed; none if it is read."""
        instruction = self.program.body[id]
        again = self.recompute and id not in self.residuals and instruction.op in OPERATIONS
        return instruction.args if again and OPERATIONS[instruction.op].cheap else ()

    def _read(self, id: int) -> Symbol:
        program, instruction = self.program, self.program.body[id]
        if instruction.op == INPUT:
            k = instruction["index"]
            return self.input("input", k, program.inputs[k].name, instruction.width, program.inputs[k].one_hot)
        if instruction.op == PARAMETER:
            return self.builder.vector(self.weight(instruction["index"]))
        if instruction.op == CONSTANT:
            return self.builder.constant(instruction["value"], instruction.width)
        if id in self.residuals:
            k = self.residuals[id]
            return self.input("residuals", k, program.outputs[k].name, instruction.width)
        if args := self._computed_from(id):
            return self.builder.copy(instruction, tuple(self.forward[arg] for arg in args))
        return self.input("missing", id, f"missing.{id}", instruction.width)

    def input(self, kind: str, k: int, name: str, width: int, one_hot: bool = False) -> Symbol:
        """Add an input with its kind and its index within that kind."""
        self.sources.append((kind, k))
        return self.builder.input(name, width, one_hot)

    def weight(self, k: int) -> int:
        """Return the index in the derived program of a parameter of the original program."""
        if k not in self.weights:
            self.parameter_sources.append(("parameter", k))
            self.weights[k] = self.builder.parameter(self.program.parameters[k])
        return self.weights[k]

    def settled(self, result: Program) -> tuple[Program, Reads]:
        """Drop unused inputs and parameters, and sort the others."""
        read: dict[str, set[int]] = {INPUT: set(), PARAMETER: set()}
        for instruction in result.body:
            if instruction.op in read:
                read[instruction.op].add(instruction["index"])
            elif "weight" in (attributes := dict(instruction.attributes)):
                read[PARAMETER].add(int(attributes["weight"]))

        def order(sources: list[tuple[str, int]], used: set[int]) -> list[int]:
            kept = [n for n, (kind, _) in enumerate(sources) if n in used or kind in _ALWAYS]
            return sorted(kept, key=lambda n: (_RANKS.index(sources[n][0]), sources[n][1]))

        inputs = order(self.sources, read[INPUT])
        parameters = order(self.parameter_sources, read[PARAMETER])
        missing = [k for kind, k in (self.sources[n] for n in inputs) if kind == "missing"]
        if missing:
            raise ProgramError(
                f"{result.name} needs values {missing} of {self.program.name}, which are not among its outputs; "
                "apply with_residuals first"
            )
        place = {INPUT: inputs.index, PARAMETER: parameters.index}

        def moved(instruction: Instruction) -> Instruction:
            attributes = dict(instruction.attributes)
            if instruction.op in place:
                return replace(instruction, attributes=(("index", place[instruction.op](instruction["index"])),))
            if "weight" in attributes:
                return replace(instruction, attributes=(("weight", place[PARAMETER](instruction["weight"])),))
            return instruction

        program = replace(
            result,
            inputs=_renamed([result.inputs[n] for n in inputs]),
            parameters=_renamed([result.parameters[n] for n in parameters]),
            body=tuple(map(moved, result.body)),
        )
        chosen = [self.sources[n] for n in inputs]
        reads = Reads(
            inputs=tuple(k for kind, k in chosen if kind == "input"),
            residuals=tuple(k for kind, k in chosen if kind == "residuals"),
            parameters=tuple(k for n in parameters for kind, k in [self.parameter_sources[n]] if kind == "parameter"),
        )
        return require_legal(program), reads


def distinct(names: list[str]) -> list[str]:
    """Make names distinct by appending numbers, as gradients of gradients may repeat names."""
    result: list[str] = []
    for name in names:
        distinct, n = name, 2
        while distinct in result:
            distinct, n = f"{name}.{n}", n + 1
        result.append(distinct)
    return result


def _renamed(of: list[_Named]) -> tuple[_Named, ...]:
    return tuple(replace(o, name=name) for o, name in zip(of, distinct([o.name for o in of]), strict=True))

"""Which programs are legal: engines may trust a program that has passed, and refuse one that has not."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from throughtime.errors import ProgramError
from throughtime.program.core import CONSTANT, INPUT, LEAVES, PARAMETER, PREVIOUS, Instruction, Program
from throughtime.program.operations import OPERATIONS, PRODUCTS

# Bounds far above what anybody trains, so that a hostile file cannot make an engine overflow or exhaust the memory.
MAX_WIDTH = 1 << 24
MAX_INSTRUCTIONS = 1 << 16
MAX_ELEMENTS = 1 << 34

_LEAF_ATTRIBUTES: dict[str, dict[str, type]] = {
    INPUT: {"index": int},
    PREVIOUS: {"index": int},
    PARAMETER: {"index": int},
    CONSTANT: {"value": float},
}


def require_legal(program: Program) -> Program:
    """Checks that a program means something and cannot make an engine read or write where it should not.

    Returns:
        The program.

    Raises:
        ProgramError: naming the first thing that is wrong.
    """
    # Remembered by the object, not by its content: 1.0 and True equal 1, and are no widths.
    if not program.__dict__.get("_legal"):
        _Check(program).run()
        program.__dict__["_legal"] = True
    return program


class _Check:
    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self) -> None:
        program = self.program
        self._want(len(program.body) <= MAX_INSTRUCTIONS, f"it has {len(program.body)} instructions")
        self._want(len(program.states) > 0, "it has no state")
        self._names("input", [i.name for i in program.inputs])
        self._names("state", [s.name for s in program.states])
        self._names("parameter", [p.name for p in program.parameters])
        self._names("output", [o.name for o in program.outputs])
        self._names("reduction", [r.name for r in program.reductions])
        self._names("value", [name for name, _ in program.names])
        self._want(program.name.isprintable(), "its name cannot be printed")
        for width, name in [(v.width, v.name) for v in program.inputs] + [(v.width, v.name) for v in program.states]:
            self._width(width, name)
        for given in program.inputs:
            self._want(type(given.one_hot) is bool, f"input {given.name} is one-hot: {given.one_hot!r}")
        for parameter in program.parameters:
            self._shape(parameter.shape, parameter.name)
            for part in parameter.parts:
                self._want(part.gate.isprintable(), f"{part.gate!r} is no name")
                self._want(
                    0 <= part.start < part.stop <= parameter.shape[0],
                    f"part {part.gate} of parameter {parameter.name} is rows {part.start} to {part.stop}",
                )
                self._want(
                    part.initial is None or math.isfinite(part.initial),
                    f"part {part.gate} of parameter {parameter.name} starts with {part.initial}",
                )
        for id, instruction in enumerate(program.body):
            self._instruction(id, instruction)
        for state in program.states:
            width = self._value(state.next, f"the next value of state {state.name}")
            self._want(width == state.width, f"state {state.name} is {state.width} wide, its next value {width}")
            self._want(math.isfinite(state.initial), f"state {state.name} starts with {state.initial}")
        for output in program.outputs:
            self._value(output.value, f"output {output.name}")
        for name, value in program.names:
            self._value(value, f"the value called {name}")
        for reduction in program.reductions:
            self._shape(reduction.shape, reduction.name)
            for term in reduction.terms:
                widths = tuple(self._value(v, f"reduction {reduction.name}") for v in term)
                self._want(widths == reduction.shape, f"a term {widths} is added to {reduction.name} {reduction.shape}")
        self._one_hot()

    def _instruction(self, id: int, instruction: Instruction) -> None:
        program, op, args = self.program, instruction.op, instruction.args
        self._want(op in LEAVES or op in OPERATIONS, f"instruction {id} ({op!r}) is no operation of the table")
        what = f"instruction {id} ({op})"
        self._width(instruction.width, what)
        for arg in args:
            self._want(type(arg) is int and 0 <= arg < id, f"{what} takes value {arg}, which is not an earlier one")
        wanted = _LEAF_ATTRIBUTES[op] if op in LEAVES else OPERATIONS[op].attributes
        given: dict[str, Any] = dict(instruction.attributes)
        self._want(
            len(instruction.attributes) == len(given)
            and given.keys() == wanted.keys()
            and all(type(given[name]) is kind for name, kind in wanted.items()),
            f"{what} needs the attributes {list(wanted)}, and has {given}",
        )
        widths = [program.body[arg].width for arg in args]
        width = instruction.width
        if op in LEAVES:
            self._want(not args, f"{what} is a leaf and takes no values")
            if op == CONSTANT:
                self._want(not math.isnan(given["value"]), f"{what} is not a number")
            else:
                self._leaf(what, op, given["index"], width)
            return
        operation = OPERATIONS[op]
        arity = operation.arity
        self._want(len(args) == arity if arity is not None else len(args) > 0, f"{what} takes {len(args)} values")
        if "weight" in given:
            weight = given["weight"]
            self._want(0 <= weight < len(program.parameters), f"{what} has no parameter {weight}")
            given["weight"] = program.parameters[weight].shape
        misfit = operation.misfit(width, widths, **given)
        self._want(misfit is None, f"{what} {misfit}")

    def _one_hot(self) -> None:
        """What is given as the place of its only 1 is multiplied by matrices, or summed up with products alone."""
        program = self.program
        one_hot = {id for id, i in enumerate(program.body) if i.op == INPUT and program.inputs[i["index"]].one_hot}
        if not one_hot:
            return
        takes: dict[int, bool] = {}  # of each matrix, whether it multiplies one-hot inputs
        for id, instruction in enumerate(program.body):
            what, given = f"instruction {id} ({instruction.op})", not one_hot.isdisjoint(instruction.args)
            self._want(instruction.op == "linear" or not given, f"{what} takes a one-hot input, which only linear does")
            if instruction.op in PRODUCTS:
                same = takes.setdefault(instruction["weight"], given) == given
                self._want(same, f"{what} has a matrix that multiplies both a one-hot input and others")
        results = [(s.next, f"the next value of state {s.name}") for s in program.states]
        results += [(o.value, f"output {o.name}") for o in program.outputs]
        for value, what in results:
            self._want(value not in one_hot, f"{what} is a one-hot input")
        for reduction in program.reductions:
            right = [len(term) == 2 and term[1] in one_hot for term in reduction.terms]
            left = any(term[0] in one_hot for term in reduction.terms)
            self._want(
                not left and (all(right) or not any(right)),
                f"reduction {reduction.name} takes a one-hot input, which may only be on the right of all its terms",
            )

    def _leaf(self, what: str, op: str, index: int, width: int) -> None:
        if op == PARAMETER:
            count, shapes = len(self.program.parameters), [p.shape for p in self.program.parameters]
        else:
            vectors = self.program.inputs if op == INPUT else self.program.states
            count, shapes = len(vectors), [(v.width,) for v in vectors]
        self._want(0 <= index < count, f"{what} reads number {index} of {count}")
        self._want(shapes[index] == (width,), f"{what} of width {width} reads a {op} of shape {shapes[index]}")

    def _value(self, value: int, what: str) -> int:
        known = type(value) is int and 0 <= value < len(self.program.body)
        self._want(known, f"{what} is value {value} of {len(self.program.body)}")
        return self.program.body[value].width

    def _names(self, what: str, names: list[str]) -> None:
        for name in names:
            self._want(name.isprintable(), f"{name!r} is no name")
        twice = [name for name, count in Counter(names).items() if count > 1]
        self._want(not twice, f"two {what}s are called {', '.join(sorted(twice))}")

    def _width(self, width: int, what: str) -> None:
        self._want(type(width) is int and 1 <= width <= MAX_WIDTH, f"{what} is {width!r} wide")

    def _shape(self, shape: tuple[int, ...], what: str) -> None:
        self._want(len(shape) in (1, 2), f"{what} has the shape {shape}")
        for size in shape:
            self._width(size, what)
        self._want(math.prod(shape) <= MAX_ELEMENTS, f"{what} has the shape {shape}")

    def _want(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise ProgramError(f"the program {self.program.name!r} is not legal: {otherwise}.")

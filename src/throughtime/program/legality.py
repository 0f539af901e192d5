"""The legality check of programs, which protects engines from malformed or hostile input."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from throughtime.errors import ProgramError
from throughtime.program.core import CONSTANT, INPUT, LEAVES, PARAMETER, PREVIOUS, Instruction, Program
from throughtime.program.operations import OPERATIONS, PRODUCTS

# Limits far above real models, so that a hostile file can't make an engine overflow or exhaust memory.
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
    """Check that a program is well-formed and can't make an engine access memory out of bounds.

    Returns:
        The program.

    Raises:
        ProgramError: if it is not; the message names the first problem.
    """
    # Cached per object, not by equality: 1.0 and True equal 1 but are not valid widths.
    if not program.__dict__.get("_legal"):
        _Check(program).run()
        program.__dict__["_legal"] = True
    return program


class _Check:
    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self) -> None:
        program = self.program
        self._want(
            len(program.body) <= MAX_INSTRUCTIONS,
            f"it must have at most {MAX_INSTRUCTIONS:,} instructions, got {len(program.body):,}",
        )
        self._want(len(program.states) > 0, "it must have at least one state")
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
            self._want(
                type(given.one_hot) is bool, f"one_hot of input {given.name} must be a bool, got {given.one_hot!r}"
            )
        for parameter in program.parameters:
            self._shape(parameter.shape, parameter.name)
            for part in parameter.parts:
                self._want(part.gate.isprintable(), f"{part.gate!r} is not a valid name")
                self._want(
                    0 <= part.start < part.stop <= parameter.shape[0],
                    f"part {part.gate} of parameter {parameter.name} has the invalid rows {part.start} to {part.stop}",
                )
                self._want(
                    part.initial is None or math.isfinite(part.initial),
                    f"the initial value of part {part.gate} of parameter {parameter.name} must be finite, "
                    f"got {part.initial}",
                )
        for id, instruction in enumerate(program.body):
            self._instruction(id, instruction)
        for state in program.states:
            width = self._value(state.next, f"the next value of state {state.name}")
            self._want(
                width == state.width,
                f"state {state.name} has width {state.width}, but its next value has width {width}",
            )
            self._want(
                math.isfinite(state.initial),
                f"the initial value of state {state.name} must be finite, got {state.initial}",
            )
        for output in program.outputs:
            self._value(output.value, f"output {output.name}")
        for name, value in program.names:
            self._value(value, f"the value named {name}")
        for reduction in program.reductions:
            self._shape(reduction.shape, reduction.name)
            for term in reduction.terms:
                widths = tuple(self._value(v, f"reduction {reduction.name}") for v in term)
                self._want(
                    widths == reduction.shape,
                    f"reduction {reduction.name} of shape {reduction.shape} has a term of shape {widths}",
                )
        self._one_hot()

    def _instruction(self, id: int, instruction: Instruction) -> None:
        program, op, args = self.program, instruction.op, instruction.args
        self._want(op in LEAVES or op in OPERATIONS, f"instruction {id} has the unknown operation {op!r}")
        what = f"instruction {id} ({op})"
        self._width(instruction.width, what)
        for arg in args:
            self._want(type(arg) is int and 0 <= arg < id, f"{what} takes value {arg}, which is not an earlier value")
        wanted = _LEAF_ATTRIBUTES[op] if op in LEAVES else OPERATIONS[op].attributes
        given: dict[str, Any] = dict(instruction.attributes)
        self._want(
            len(instruction.attributes) == len(given)
            and given.keys() == wanted.keys()
            and all(type(given[name]) is kind for name, kind in wanted.items()),
            f"{what} needs the attributes {list(wanted)}, got {given}",
        )
        widths = [program.body[arg].width for arg in args]
        width = instruction.width
        if op in LEAVES:
            self._want(not args, f"{what} is a leaf and can't take values")
            if op == CONSTANT:
                self._want(not math.isnan(given["value"]), f"{what} is not a number")
            else:
                self._leaf(what, op, given["index"], width)
            return
        operation = OPERATIONS[op]
        arity = operation.arity
        self._want(
            len(args) == arity if arity is not None else len(args) > 0,
            f"{what} has the wrong number of arguments, {len(args)}",
        )
        if "weight" in given:
            weight = given["weight"]
            self._want(0 <= weight < len(program.parameters), f"{what} reads parameter {weight}, which does not exist")
            given["weight"] = program.parameters[weight].shape
        misfit = operation.misfit(width, widths, **given)
        self._want(misfit is None, f"{what} {misfit}")

    def _one_hot(self) -> None:
        """Check that one-hot inputs are used only in matrix products and as the right factor of reductions."""
        program = self.program
        one_hot = {id for id, i in enumerate(program.body) if i.op == INPUT and program.inputs[i["index"]].one_hot}
        if not one_hot:
            return
        takes: dict[int, bool] = {}  # for each matrix, whether it multiplies one-hot inputs
        for id, instruction in enumerate(program.body):
            what, given = f"instruction {id} ({instruction.op})", not one_hot.isdisjoint(instruction.args)
            self._want(
                instruction.op == "linear" or not given, f"{what} takes a one-hot input, which only linear can take"
            )
            if instruction.op in PRODUCTS:
                same = takes.setdefault(instruction["weight"], given) == given
                self._want(same, f"{what} uses a matrix that multiplies both a one-hot input and other values")
        results = [(s.next, f"the next value of state {s.name}") for s in program.states]
        results += [(o.value, f"output {o.name}") for o in program.outputs]
        for value, what in results:
            self._want(value not in one_hot, f"{what} is a one-hot input")
        for reduction in program.reductions:
            right = [len(term) == 2 and term[1] in one_hot for term in reduction.terms]
            left = any(term[0] in one_hot for term in reduction.terms)
            self._want(
                not left and (all(right) or not any(right)),
                f"reduction {reduction.name} may take a one-hot input only on the right of all its terms",
            )

    def _leaf(self, what: str, op: str, index: int, width: int) -> None:
        if op == PARAMETER:
            count, shapes = len(self.program.parameters), [p.shape for p in self.program.parameters]
        else:
            vectors = self.program.inputs if op == INPUT else self.program.states
            count, shapes = len(vectors), [(v.width,) for v in vectors]
        self._want(0 <= index < count, f"{what} has index {index}, which is out of range for {count}")
        self._want(shapes[index] == (width,), f"{what} of width {width} reads a {op} of shape {shapes[index]}")

    def _value(self, value: int, what: str) -> int:
        known = type(value) is int and 0 <= value < len(self.program.body)
        self._want(
            known, f"{what} has the value {value}, which is out of range for {len(self.program.body)} instructions"
        )
        return self.program.body[value].width

    def _names(self, what: str, names: list[str]) -> None:
        for name in names:
            self._want(name.isprintable(), f"{name!r} is not a valid name")
        twice = [name for name, count in Counter(names).items() if count > 1]
        self._want(not twice, f"two {what}s are named {', '.join(sorted(twice))}")

    def _width(self, width: int, what: str) -> None:
        self._want(type(width) is int and 1 <= width <= MAX_WIDTH, f"{what} has the invalid width {width!r}")

    def _shape(self, shape: tuple[int, ...], what: str) -> None:
        self._want(len(shape) in (1, 2), f"{what} has the invalid shape {shape}")
        for size in shape:
            self._width(size, what)
        self._want(math.prod(shape) <= MAX_ELEMENTS, f"{what} has the invalid shape {shape}")

    def _want(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise ProgramError(f"the program {self.program.name!r} is not legal: {otherwise}")

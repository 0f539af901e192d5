"""Derive from a cell's equations which values are gates, and which of those retain a state."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from throughtime.program.core import CONSTANT, LEAVES, PREVIOUS, Instruction, Program
from throughtime.program.operations import ANY, OPERATIONS, Range


def gates(program: Program) -> list[str]:
    """Return the names of the values that are between 0 and 1 for any parameters, such as `forget`.

    They are found by interval arithmetic on the equations, so this works for any cell. States and constants are
    excluded.
    """
    ranges = _ranges(program)
    states = {state.next for state in program.states}
    return [
        name
        for name, id in program.names
        if 0 <= ranges[id][0] < ranges[id][1] <= 1 and program.body[id].op != PREVIOUS and id not in states
    ]


class RetentionGate(NamedTuple):
    """A gate that determines how much of a state is kept.

    Attributes:
        state: the state's name.
        gate: the gate's name.
        keeps: `"gate"` if the old state is multiplied by the gate, `"complement"` if by one minus the gate.
    """

    state: str
    gate: str
    keeps: str


@lru_cache(maxsize=512)
def retention_gates(program: Program) -> tuple[RetentionGate, ...]:
    """Derive the gates that retain states from the equations: f in c' = f c + i g, 1 - z in h' = h + z (n - h).

    A state has a retention gate only if it is a sum of products, one of which multiplies its old value by a named gate.
    """
    found = []
    names = {id: name for name, id in reversed(program.names)}
    known = gates(program)
    for state, declared in enumerate(program.states):
        kept = _Factor(program, state).of(declared.next)
        if kept is None:
            continue
        constant, terms = kept
        named = {names.get(id): factor for id, factor in terms.items() if factor != 0}
        if len(named) == 1:
            ((name, factor),) = named.items()
            if name in known and (constant, factor) in _KEEPS:
                found.append(RetentionGate(declared.name, name, _KEEPS[constant, factor]))
    return tuple(found)


_KEEPS = {(0.0, 1.0): "gate", (1.0, -1.0): "complement"}
_Linear = tuple[float, dict[int, float]]  # a constant, and coefficients by value id


class _Factor:
    """The elementwise factor of a state's old value, where it can be derived."""

    def __init__(self, program: Program, state: int) -> None:
        self.program = program
        self.old = {id for id, i in enumerate(program.body) if i.op == PREVIOUS and i["index"] == state}
        self.reached: dict[int, bool] = {}

    def of(self, id: int) -> _Linear | None:
        """Return the factor by which a value contains the old value; None if there is no single factor."""
        if id in self.old:
            return 1.0, {}
        instruction = self.program.body[id]
        if not self._direct(id):
            return 0.0, {}
        args = instruction.args
        if instruction.op in ("add", "sub"):
            a, b = self.of(args[0]), self.of(args[1])
            return None if a is None or b is None else _sum(a, b, 1.0 if instruction.op == "add" else -1.0)
        if instruction.op == "neg":
            a = self.of(args[0])
            return None if a is None else _sum((0.0, {}), a, -1.0)
        if instruction.op == "mul":
            inside = [self._direct(arg) for arg in args]
            if inside[0] and inside[1]:
                return None
            value, by = (args[0], args[1]) if inside[0] else (args[1], args[0])
            factor = self.of(value)
            if factor is None:
                return None
            constant, terms = factor
            if not terms:
                return _sum((0.0, {}), self._linear(by), constant)
            return None
        return None

    def _direct(self, id: int) -> bool:
        """Return whether a value contains the old value through sums and products, not through a gate or a matrix."""
        if id not in self.reached:
            i = self.program.body[id]
            self.reached[id] = id in self.old or (
                i.op in ("add", "sub", "neg", "mul") and any(self._direct(arg) for arg in i.args)
            )
        return self.reached[id]

    def _linear(self, id: int) -> _Linear:
        """Express a value as a constant plus a linear combination of values that are named or not sums."""
        i = self.program.body[id]
        named = any(value == id for _, value in self.program.names)
        if i.op == CONSTANT:
            return i["value"], {}
        if named or i.op not in ("add", "sub", "neg"):
            return 0.0, {id: 1.0}
        if i.op == "neg":
            return _sum((0.0, {}), self._linear(i.args[0]), -1.0)
        return _sum(self._linear(i.args[0]), self._linear(i.args[1]), 1.0 if i.op == "add" else -1.0)


def _sum(a: _Linear, b: _Linear, factor: float) -> _Linear:
    terms = dict(a[1])
    for id, number in b[1].items():
        terms[id] = terms.get(id, 0.0) + factor * number
    return a[0] + factor * b[0], terms


@lru_cache(maxsize=512)
def _ranges(program: Program) -> tuple[Range, ...]:
    """Return the bounds of each value for any inputs."""
    ranges: list[Range] = []
    for instruction in program.body:
        ranges.append(_range(instruction, ranges, program))
    return tuple(ranges)


def _range(i: Instruction, ranges: list[Range], program: Program) -> Range:
    if i.op == CONSTANT:
        return i["value"], i["value"]
    if i.op in LEAVES:
        return ANY
    of = [ranges[arg] for arg in i.args]
    if i.op == "div" and _is_share(i, program) and min(of[0][0], of[1][0]) >= 0:
        return 0.0, 1.0
    return OPERATIONS[i.op].bounds(*of)


def _is_share(i: Instruction, program: Program) -> bool:
    """Return whether an instruction computes a / (a + b)."""
    below = program.body[i.args[1]]
    return below.op == "add" and i.args[0] in below.args

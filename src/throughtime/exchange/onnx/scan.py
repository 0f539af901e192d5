"""Write a program as ONNX nodes: a Scan over steps, with nodes before and after it for work that needs no state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from throughtime.exchange.onnx.graph import Array, Graph
from throughtime.program.core import CONSTANT, INPUT, PARAMETER, PREVIOUS, Instruction, Program
from throughtime.program.operations import OPERATIONS
from throughtime.program.phases import Phase, phases


class At(NamedTuple):
    """An instruction and its context in the graph.

    Attributes:
        graph: the graph.
        instruction: the instruction to write.
        values: the names of its arguments.
        parameters: the program's parameters.
        dtype: the dtype of all numbers.
    """

    graph: Graph
    instruction: Instruction
    values: Sequence[str]
    parameters: Sequence[Array]
    dtype: Any

    def add(self, operator: str, *values: str, **attributes: Any) -> str:
        """Add a node and return its result."""
        return self.graph.add(operator, *values, **attributes)

    def number(self, value: float) -> str:
        """Add a scalar constant."""
        return self.graph.constant(np.array([value], self.dtype))


def _same(operator: str) -> Callable[[At], str]:
    return lambda at: at.add(operator, *at.values)


def _greater(at: At) -> str:
    return at.add("CastLike", at.add("Greater", *at.values), at.values[0])


def _select(at: At) -> str:
    mask, there, otherwise = at.values
    return at.add("Where", at.add("Equal", mask, at.number(0)), otherwise, there)


def _softplus(at: At) -> str:
    (a,) = at.values
    if at.dtype == np.float32:
        return at.add("Softplus", a)
    # ONNX Runtime supports Softplus only for float32: max(a, 0) + log(1 + exp(-|a|))
    small = at.add("Exp", at.add("Neg", at.add("Abs", a)))
    return at.add("Add", at.add("Relu", a), at.add("Log", at.add("Add", small, at.number(1))))


def _product(at: At, *, transposed: bool) -> str:
    weight = at.parameters[at.instruction["weight"]]
    return at.add("MatMul", at.values[0], at.graph.constant(weight if transposed else weight.T, "weight"))


def _slice(at: At) -> str:
    start, whole = at.instruction["start"], at.graph.whole
    return at.add("Slice", at.values[0], whole(start), whole(start + at.instruction.width), whole(-1))


# The ONNX operator of each operation: as named by the table of operations, or composed here.
EMIT: dict[str, Callable[[At], str]] = {
    **{name: _same(row.onnx) for name, row in OPERATIONS.items() if row.onnx},
    "greater": _greater,
    "select": _select,
    "softplus": _softplus,
    "linear": partial(_product, transposed=False),
    "linear_transposed": partial(_product, transposed=True),
    "slice": _slice,
    "concat": lambda at: at.add("Concat", *at.values, axis=-1),
    "expand": lambda at: at.add("Expand", at.values[0], at.graph.whole(at.instruction.width)),
    "row_sum": lambda at: at.add("ReduceSum", at.values[0], at.graph.whole(-1), keepdims=1),
    "row_max": lambda at: at.add("ReduceMax", at.values[0], axes=[-1], keepdims=1),
}


def add_program(
    graph: Graph,
    program: Program,
    inputs: Sequence[str],
    states: Sequence[str],
    parameters: Sequence[Array],
    dtype: Any,
) -> tuple[list[str], list[str]]:
    """Add a run of a program to a graph.

    Args:
        graph: the graph.
        program: the program.
        inputs: the value of each input of the program, `[T, B, width]`.
        states: the initial value of each state, `[B, width]`.
        parameters: the program's parameters, as arrays.
        dtype: the dtype of all numbers.

    Returns:
        The values of the outputs, `[T, B, width]`, and the final values of the states, `[B, width]`.
    """
    return _Writer(graph, program, inputs, parameters, dtype).written(states)


class _Writer:
    def __init__(
        self, graph: Graph, program: Program, inputs: Sequence[str], parameters: Sequence[Array], dtype: Any
    ) -> None:
        self.graph, self.program, self.inputs, self.parameters = graph, program, inputs, parameters
        self.dtype = dtype
        self.phases = phases(program)
        self.values: dict[int, str] = {}  # outside the loop: [width] if static, else [T, B, width]

    def written(self, states: Sequence[str]) -> tuple[list[str], list[str]]:
        self._compute((Phase.STATIC, Phase.BEFORE))
        final = self._loop(states)
        self._compute((Phase.AFTER,))
        outputs = [o.value for o in self.program.outputs]
        return [self._with_rows(self.graph, id, self.values[id], self.inputs[0]) for id in outputs], final

    def _compute(self, wanted: Sequence[Phase]) -> None:
        for id, instruction in enumerate(self.program.body):
            if self.phases[id] in wanted:
                self.values[id] = self._emitted(self.graph, instruction, self.values, self.inputs[0])

    def _emitted(self, graph: Graph, instruction: Instruction, values: dict[int, str], rows: str) -> str:
        if instruction.op == INPUT:
            return self.inputs[int(instruction["index"])]
        if instruction.op == PARAMETER:
            return graph.constant(self.parameters[instruction["index"]], "parameter")
        if instruction.op == CONSTANT:
            return graph.constant(np.array([instruction["value"]], self.dtype))
        args = [values[a] for a in instruction.args]
        if not OPERATIONS[instruction.op].pointwise:
            # A constant is written as one element, which pointwise operations broadcast; others need all elements.
            args = [self._whole(graph, id, value) for id, value in zip(instruction.args, args, strict=True)]
        if instruction.op == "concat" and any(self.phases[a] is not Phase.STATIC for a in instruction.args):
            args = [self._with_rows(graph, id, v, rows) for id, v in zip(instruction.args, args, strict=True)]
        return EMIT[instruction.op](At(graph, instruction, args, self.parameters, self.dtype))

    def _whole(self, graph: Graph, id: int, value: str) -> str:
        if self.phases[id] is not Phase.STATIC:
            return value
        return graph.add("Expand", value, graph.whole(self.program.body[id].width))

    def _with_rows(self, graph: Graph, id: int, value: str, rows: str) -> str:
        """Repeat a static value for each row (and step) of another; others are returned unchanged."""
        if self.phases[id] is not Phase.STATIC:
            return value
        shape = graph.add("Concat", graph.add("Shape", rows, end=-1), graph.whole(self.program.body[id].width), axis=0)
        return graph.add("Expand", value, shape)

    def _loop(self, states: Sequence[str]) -> list[str]:
        program, phases = self.program, self.phases
        in_step = [id for id, phase in enumerate(phases) if phase is Phase.STEP]
        ends = [s.next for s in program.states]
        given = sorted({a for id in in_step for a in program.body[id].args} | set(ends))
        given = [id for id in given if phases[id] is Phase.BEFORE]
        kept = self._kept()

        body = Graph(program.name, self.graph)
        inner: dict[int, str] = {id: v for id, v in self.values.items() if phases[id] is Phase.STATIC}
        old = [body.input(f"{s.name}.previous", self.dtype, ("B", s.width)) for s in program.states]
        # A Scan needs an input to determine the number of steps.
        widths = [program.body[id].width for id in given] or [program.inputs[0].width]
        scanned = [self.values[id] for id in given] or self.inputs[:1]
        steps = [body.input("step", self.dtype, ("B", width)) for width in widths]
        inner |= dict(zip(given, steps, strict=False))
        for id in in_step:
            instruction = program.body[id]
            if instruction.op == PREVIOUS:
                inner[id] = old[instruction["index"]]
            else:
                inner[id] = self._emitted(body, instruction, inner, old[0])
        for state, end in zip(program.states, ends, strict=True):
            body.output(state.name, self._with_rows(body, end, inner[end], old[0]), self.dtype, ("B", state.width))
        for id in kept:
            body.output("kept", inner[id], self.dtype, ("B", program.body[id].width))

        reverse: dict[str, Any] = {}
        if program.reverse:
            reverse = {"scan_input_directions": [1] * len(scanned), "scan_output_directions": [1] * len(kept)}
        results = self.graph.node(
            "Scan",
            [*states, *scanned],
            len(states) + len(kept),
            num_scan_inputs=len(scanned),
            body=body.proto(),
            **{k: v for k, v in reverse.items() if v},
        )
        self.values |= dict(zip(kept, results[len(states) :], strict=True))
        return results[: len(states)]

    def _kept(self) -> list[int]:
        """Return the values of the loop that are needed for all steps."""
        after = {output.value for output in self.program.outputs}
        after |= {a for id, i in enumerate(self.program.body) if self.phases[id] is Phase.AFTER for a in i.args}
        return sorted(id for id in after if self.phases[id] is Phase.STEP)

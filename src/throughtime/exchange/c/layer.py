"""Generate the C function that runs a layer's step, from the layer's program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from throughtime.exchange.c.memory import Address, Memory
from throughtime.exchange.c.schedule import Item, schedule
from throughtime.exchange.c.spelling import labels, number
from throughtime.exchange.c.weights import Matrix, Weights
from throughtime.program.core import INPUT, Program
from throughtime.program.operations import OPERATIONS, PRODUCTS

Array = NDArray[Any]

_REDUCTIONS = {"row_sum": ("0.0f", "add"), "row_max": ("-INFINITY", "max")}


class Layer:
    """The C function of a layer's step.

    Args:
        name: the name of the function.
        program: the program that the function runs.
        parameters: the program's parameters.
        states: the fields of the state struct that hold the program's states.
        weights: the file's arrays, to which the parameters are added.

    Attributes:
        code: the body of the function. Its arguments are `state`, `x`, `inputs` (the inputs other than x, concatenated)
            if there are any, and `y` if the output is not a field of the state.
        output: the field of the state that holds the output; None if the output is written to `y`.
        scratch: the size of the function's buffers in bytes.
    """

    def __init__(
        self, name: str, program: Program, parameters: Sequence[Array], states: Sequence[str], weights: Weights
    ) -> None:
        self.name, self.program = name, program
        self._parameters, self._weights = parameters, weights
        self._fields = [f"state->{field}" for field in states]
        self._labels = labels(program)
        self._vectors: dict[int, str] = {}
        self._matrices: dict[tuple[int, bool], Matrix] = {}
        output = program.outputs[0].value
        self._schedule = schedule(program, {output, *(state.next for state in program.states)})
        self._memory = Memory(program, self._schedule, self._fields)
        home = self._memory.homes.get(output)
        self.output = home if home in self._fields else None
        self.code = [line for item in self._schedule.items for line in self._item(item)] + self._final_copies()
        self.scratch = 4 * sum(self._memory.buffers.values())

    @property
    def definition(self) -> str:
        """The definition of the function."""
        given = "" if self.output is not None else ", float *restrict y"
        read = [min(i["index"], 1) for i in self._schedule.body.values() if i.op == INPUT]
        further = ", const float *restrict inputs" if len(self.program.inputs) > 1 else ""
        struct = f"@_state *restrict state, const float *restrict x{further}"
        lines = [f"static void {self.name}({struct}{given})", "{"]
        lines += [f"    float {name}[{size}];" for name, size in self._memory.buffers.items()]
        code = [f"    {line}" for line in self.code]
        lines += ["    int i;"] if any("i++" in line for line in code) else []
        lines += [] if 0 in read else ["    (void)x;"]
        lines += [] if 1 in read or not further else ["    (void)inputs;"]
        lines += [] if any("state->" in line for line in code) else ["    (void)state;"]
        lines += code
        return "\n".join([*lines, "}", ""])

    def _address(self, id: int) -> Address:
        instruction = self._schedule.body[id]
        match instruction.op:
            case "slice":
                whole = self._address(instruction.args[0])
                return Address(whole.base, whole.first + (instruction["start"] if whole.step else 0), whole.step)
            case "expand":
                one = self._address(instruction.args[0])
                return one if one.step is None else Address(one.base, one.first, 0)
            case "input":
                index = instruction["index"]
                return Address("inputs", sum(i.width for i in self.program.inputs[1:index])) if index else Address("x")
            case "previous":
                return Address(self._fields[instruction["index"]])
            case "parameter":
                return Address(self._vector(instruction["index"]))
            case "constant":
                return Address(number(instruction["value"]), 0, None)
        holder, first = self._memory.held(id)
        return Address(self._memory.homes[holder], first)

    def _vector(self, index: int) -> str:
        if index not in self._vectors:
            name = self.program.parameters[index].name
            self._vectors[index] = self._weights.vector(f"weights_{self.name}", name, self._parameters[index])
        return self._vectors[index]

    def _matrix(self, index: int, *, transposed: bool) -> Matrix:
        if (index, transposed) not in self._matrices:
            values, name = self._parameters[index], self.program.parameters[index].name
            self._matrices[index, transposed] = self._weights.matrix(
                f"weights_{self.name}",
                f"{name}_transposed" if transposed else name,
                values.T if transposed else values,
                exact=index in transposed_matrices(self.program),
            )
        return self._matrices[index, transposed]

    def _item(self, item: Item) -> list[str]:
        (id, *_) = item.values
        instruction = self._schedule.body[id]
        if item.loop:
            return self._loop(item)
        if instruction.op in PRODUCTS:
            return self._product(id)
        target = self._address(id)
        if instruction.op in _REDUCTIONS:
            (arg,) = instruction.args
            start, operation = _REDUCTIONS[instruction.op]
            result = target.base + f"[{target.first}]"
            step = OPERATIONS[operation].c.format(result, self._address(arg).element)
            return [f"{result} = {start};", *_for(self._schedule.body[arg].width, [f"{result} = {step};"])]
        if instruction.op != "concat":
            raise NotImplementedError(instruction.op)
        lines: list[str] = []
        first = target.first
        for arg in instruction.args:
            width = self._schedule.body[arg].width
            lines += _copied(Address(target.base, first), self._address(arg), width)
            first += width
        return lines

    def _product(self, id: int) -> list[str]:
        instruction = self._schedule.body[id]
        target, value = self._address(id), instruction.args[0]
        source, columns = self._address(value), self._schedule.body[value].width
        begin = self._address(instruction.args[1]) if len(instruction.args) == 2 else Address("0.0f", 0, None)
        matrix = self._matrix(instruction["weight"], transposed=instruction.op == "linear_transposed")
        first = dict(instruction.attributes).get("first", 0)
        lines = _copied(target, begin, instruction.width)
        if source.step != 1:  # a matrix product reads an array
            buffer = f"filled{id}"
            self._memory.buffers[buffer] = columns
            lines += _copied(Address(buffer), source, columns)
            source = Address(buffer)
        return [*lines, matrix.multiply_add(target.pointer, source.pointer, instruction.width, columns, int(first))]

    def _loop(self, item: Item) -> list[str]:
        body = self._schedule.body
        lines: list[str] = []
        stores: list[str] = []  # at the end: they may overwrite a state that the loop reads
        for id in item.values:
            names = [self._local(arg) if arg in item.values else self._address(arg).element for arg in body[id].args]
            lines.append(f"const float {self._local(id)} = {OPERATIONS[body[id].op].c.format(*names)};")
            if self._memory.stored(id):
                stores.append(f"{self._address(id).element} = {self._local(id)};")
        return _for(item.width, lines + stores)

    def _local(self, id: int) -> str:
        return self._labels.get(id, f"v{id}")

    def _final_copies(self) -> list[str]:
        """Return the statements that copy the output and the states to their final locations."""
        lines: list[str] = []
        output = self.program.outputs[0].value
        if self.output is None:
            lines += _copied(Address("y"), self._address(output), self._schedule.body[output].width)
        last: list[str] = []
        for k, state in enumerate(self.program.states):
            source, target = self._address(state.next), Address(self._fields[k])
            if source.base in self._fields and source != target:  # a copy to another state may overwrite it
                buffer = f"next{k}"
                self._memory.buffers[buffer] = state.width
                lines += _copied(Address(buffer), source, state.width)
                source = Address(buffer)
            last += _copied(target, source, state.width)
        return lines + last


def transposed_matrices(program: Program) -> set[int]:
    """Return the matrices of a program that are used transposed; their rows can't share an int8 scale."""
    return {int(i["weight"]) for i in program.body if i.op == "linear_transposed"}


def _copied(target: Address, source: Address, width: int) -> list[str]:
    return [] if source == target else _for(width, [f"{target.element} = {source.element};"])


def _for(width: int, lines: Sequence[str]) -> list[str]:
    return [f"for (i = 0; i < {width}; i++) {{", *(f"    {line}" for line in lines), "}"]

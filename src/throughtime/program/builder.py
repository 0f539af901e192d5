"""The builder, which records the operations on symbols as the body of a program."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

from throughtime.program.cell_errors import cell_error
from throughtime.program.core import (
    CONSTANT,
    INPUT,
    PARAMETER,
    PREVIOUS,
    Attribute,
    Input,
    Instruction,
    Output,
    Parameter,
    Program,
    Reduction,
    State,
)
from throughtime.program.operations import OPERATIONS, REDUCTIONS
from throughtime.program.symbols import Number, Symbol


def is_name(name: object) -> bool:
    """Return whether an object is a valid name for a value, a state or a parameter."""
    return isinstance(name, str) and all(word.isidentifier() for word in name.split("."))


class Builder:
    """Collects a program's instructions, merging equal ones and simplifying where the result is exact."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Input] = []
        self.states: list[State] = []  # `finish` fills in `next`
        self.parameters: list[Parameter] = []
        self.body: list[Instruction] = []
        self.names: dict[str, int] = {}
        self._known: dict[Instruction, int] = {}

    # Leaves.

    def input(self, name: str, width: int, one_hot: bool = False) -> Symbol:
        """Declare an input; see `throughtime.program.core.Input`."""
        self.inputs.append(Input(name, width, one_hot))
        return self._emit(INPUT, (), width, index=len(self.inputs) - 1)

    def state(self, name: str, width: int, initial: float = 0.0) -> Symbol:
        """Declare a state and return its value before the step."""
        self.states.append(State(name, width, initial, -1))
        return self._emit(PREVIOUS, (), width, index=len(self.states) - 1)

    def parameter(self, parameter: Parameter) -> int:
        """Declare a parameter and return its index."""
        self.parameters.append(parameter)
        return len(self.parameters) - 1

    def vector(self, index: int) -> Symbol:
        """Read a vector parameter."""
        return self._emit(PARAMETER, (), self.parameters[index].shape[0], index=index)

    def constant(self, value: Number, width: int) -> Symbol:
        """Return a vector whose elements are all `value`."""
        return self._emit(CONSTANT, (), width, value=float(value))

    # Operations.

    def pointwise(self, op: str, *values: Symbol | Number) -> Symbol:
        """Apply a pointwise operation; numbers and vectors of width 1 are broadcast."""
        for value in values:
            if not isinstance(value, Symbol | Real) or isinstance(value, bool):
                raise cell_error(f"{op} takes symbols and numbers, got {type(value).__name__} {value!r}")
            if not isinstance(value, Symbol) and math.isnan(value):
                raise cell_error(f"{op} doesn't take NaN")
        widths = {value.width for value in values if isinstance(value, Symbol)} or {1}
        width = max(widths)
        if not widths <= {1, width}:
            shown = " and ".join(f"{self.label(v.id)} has {v.width}" for v in values if isinstance(v, Symbol))
            raise cell_error(f"{op} takes vectors of equal width; {shown} elements")
        symbols = [
            self.expand(self._own(value), width) if isinstance(value, Symbol) else self.constant(value, width)
            for value in values
        ]
        simpler = self._simpler(op, symbols)
        return self._emit(op, tuple(s.id for s in symbols), width) if simpler is None else simpler

    def __getattr__(self, op: str) -> Callable[..., Symbol]:
        """Provide each pointwise operation of the table as a method."""
        if op in OPERATIONS and OPERATIONS[op].pointwise:
            return lambda *values: self.pointwise(op, *values)
        raise AttributeError(op)

    def linear(self, value: Symbol, weight: int) -> Symbol:
        """Multiply a matrix parameter by a vector."""
        return self._emit("linear", (self._own(value).id,), self.parameters[weight].shape[0], weight=weight)

    def linear_transposed(self, value: Symbol, weight: int) -> Symbol:
        """Multiply a transposed matrix parameter by a vector."""
        return self._emit("linear_transposed", (self._own(value).id,), self.parameters[weight].shape[1], weight=weight)

    def slice(self, value: Symbol, start: int, width: int) -> Symbol:
        """Return the elements `start` to `start + width`."""
        source = self.body[self._own(value).id]
        if width == source.width:
            return value
        if source.op == "slice":
            return self.slice(Symbol(self, source.args[0]), source["start"] + start, width)
        if source.op == CONSTANT:
            return self.constant(source["value"], width)
        if source.op == "concat":
            first = 0
            for part in source.args:
                if first <= start and start + width <= first + self.body[part].width:
                    return self.slice(Symbol(self, part), start - first, width)
                first += self.body[part].width
        return self._emit("slice", (value.id,), width, start=start)

    def concat(self, *values: Symbol) -> Symbol:
        """Concatenate vectors."""
        for value in values:
            if not isinstance(value, Symbol):
                raise cell_error(f"concat takes vectors, got {type(value).__name__} {value!r}")
        flat: list[int] = []
        for value in values:
            instruction = self.body[self._own(value).id]
            for part in instruction.args if instruction.op == "concat" else (value.id,):
                if not (flat and self._join(flat, part)):
                    flat.append(part)
        if len(flat) == 1:
            return Symbol(self, flat[0])
        return self._emit("concat", tuple(flat), sum(self.body[part].width for part in flat))

    def expand(self, value: Symbol, width: int) -> Symbol:
        """Repeat a vector of width 1 to `width` elements."""
        instruction = self.body[value.id]
        if instruction.width == width:
            return value
        if instruction.op == CONSTANT:
            return self.constant(instruction["value"], width)
        return self._emit("expand", (value.id,), width)

    def row_sum(self, value: Symbol) -> Symbol:
        """Return the sum of a vector's elements, as a vector of width 1."""
        return self._reduced("row_sum", value)

    def row_max(self, value: Symbol) -> Symbol:
        """Return the largest of a vector's elements, as a vector of width 1."""
        return self._reduced("row_max", value)

    def _reduced(self, op: str, value: Symbol) -> Symbol:
        if not isinstance(value, Symbol):
            raise cell_error(f"{op} takes a vector, got {type(value).__name__} {value!r}")
        return self._emit(op, (self._own(value).id,), 1)

    def copy(self, instruction: Instruction, args: tuple[Symbol, ...], weight: int | None = None) -> Symbol:
        """Repeat an instruction with other arguments; `weight` is its parameter's index in this builder."""
        if weight is not None:
            return self._emit(instruction.op, (args[0].id,), instruction.width, weight=weight)
        if instruction.op == "slice":
            return self.slice(args[0], instruction["start"], instruction.width)
        if instruction.op == "concat":
            return self.concat(*args)
        if instruction.op == "expand":
            return self.expand(args[0], instruction.width)
        if instruction.op in REDUCTIONS:
            return self._reduced(instruction.op, args[0])
        if instruction.op == CONSTANT:
            return self.constant(instruction["value"], instruction.width)
        return self.pointwise(instruction.op, *args)

    # Names and the finished program.

    def name_value(self, name: str, value: Symbol) -> None:
        """Name a value; one name can't refer to two values."""
        if not is_name(name):
            raise cell_error(f"a name must consist of letters, digits and _, with dots between words; got {name!r}")
        if self.names.setdefault(name, value.id) != value.id:
            raise cell_error(f"two values are named {name!r}; names within a cell must differ")

    def label(self, id: int) -> str:
        """Return a readable name for a value, for use in messages."""
        for name, value in self.names.items():
            if value == id:
                return name
        instruction = self.body[id]
        if instruction.op == INPUT:
            return self.inputs[int(instruction["index"])].name
        if instruction.op == PREVIOUS:
            return f"{self.states[instruction['index']].name}.previous"
        if instruction.op == CONSTANT:
            return str(instruction["value"])
        return f"the {instruction.op}"

    def finish(
        self,
        next_states: list[Symbol],
        outputs: list[tuple[str, Symbol]],
        reductions: list[tuple[str, tuple[int, ...], list[tuple[Symbol, ...]]]] | None = None,
        *,
        names: dict[str, Symbol] | None = None,
        reverse: bool = False,
        keep_named: bool = False,
    ) -> Program:
        """Return the program that computes these results, without unused values (unless named, with `keep_named`)."""
        named = {n: Symbol(self, v) for n, v in self.names.items()} | (names or {})
        roots = [s.id for s in next_states] + [s.id for _, s in outputs]
        roots += [s.id for s in named.values()] if keep_named else []
        roots += [s.id for _, _, terms in reductions or [] for term in terms for s in term]
        needed = set(roots)
        for id in range(len(self.body) - 1, -1, -1):
            if id in needed:
                needed.update(self.body[id].args)
        place = {id: k for k, id in enumerate(sorted(needed))}
        body = tuple(
            Instruction(i.op, tuple(place[a] for a in i.args), i.width, i.attributes)
            for i in (self.body[id] for id in place)
        )
        return Program(
            name=self.name,
            inputs=tuple(self.inputs),
            states=tuple(
                State(s.name, s.width, s.initial, place[n.id]) for s, n in zip(self.states, next_states, strict=True)
            ),
            parameters=tuple(self.parameters),
            body=body,
            outputs=tuple(Output(name, place[s.id]) for name, s in outputs),
            reductions=tuple(
                Reduction(name, shape, tuple(tuple(place[s.id] for s in term) for term in terms))
                for name, shape, terms in reductions or []
            ),
            names=tuple((name, place[s.id]) for name, s in named.items() if s.id in place),
            reverse=reverse,
        )

    def _own(self, value: Symbol) -> Symbol:
        if value.builder is not self:
            raise cell_error("this symbol belongs to the trace of another cell; call that cell as a function instead")
        return value

    def _emit(self, op: str, args: tuple[int, ...], width: int, **attributes: Attribute) -> Symbol:
        instruction = Instruction(op, args, width, tuple(attributes.items()))
        id = self._known.get(instruction)
        if id is None:
            id = self._known[instruction] = len(self.body)
            self.body.append(instruction)
        return Symbol(self, id)

    def _constant_value(self, value: Symbol) -> float | None:
        instruction = self.body[value.id]
        return instruction["value"] if instruction.op == CONSTANT else None

    def _simpler(self, op: str, values: list[Symbol]) -> Symbol | None:
        # Only identities that hold for every number, including NaN and infinities.
        known = [self._constant_value(v) for v in values]
        match op, known:
            case (("add" | "sub" | "mul"), [x, y]) if x is not None and y is not None:
                folded = {"add": x + y, "sub": x - y, "mul": x * y}[op]
                return None if math.isnan(folded) else self.constant(folded, values[0].width)
            case ("neg", [x]) if x is not None:
                return self.constant(-x, values[0].width)
            case ("mul", [1.0, _]):
                return values[1]
            case (("mul" | "div"), [_, 1.0]):
                return values[0]
            case ("select", _) if values[1].id == values[2].id:
                return values[1]
            case ("neg", _) if self.body[values[0].id].op == "neg":
                return Symbol(self, self.body[values[0].id].args[0])
        return None

    def _join(self, flat: list[int], part: int) -> bool:
        """Merge `part` into the last of `flat` if it continues that slice or constant; return whether it did."""
        last, new = self.body[flat[-1]], self.body[part]
        if last.op == new.op == CONSTANT and last["value"] == new["value"]:
            flat[-1] = self.constant(last["value"], last.width + new.width).id
            return True
        if last.op == new.op == "slice" and last.args == new.args and last["start"] + last.width == new["start"]:
            flat[-1] = self.slice(Symbol(self, last.args[0]), last["start"], last.width + new.width).id
            return True
        return False

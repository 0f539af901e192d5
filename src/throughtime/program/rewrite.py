"""Layer features (resets, zoneout, dropout, heads, clipping, skips) as program rewrites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from throughtime.errors import UserError, nearest
from throughtime.program.core import INPUT, PREVIOUS, GateRows, Input, Instruction, Output, Parameter, Program
from throughtime.program.legality import require_legal
from throughtime.program.rewriting import Rewriting
from throughtime.program.symbols import Symbol

RESET, RESET_LEARNED, STATES = "reset", "reset_learned", "states"


# Resets.


@lru_cache(maxsize=256)
def with_reset(program: Program, learned: bool = False) -> Program:
    """Add an input `reset` `[T, B, 1]` that resets a sequence's states where it is nonzero.

    At such a step the cell reads each state's initial value instead of its old value, and no gradient flows back.

    Args:
        program: the program.
        learned: whether to add an input `initial.STATE` for each state, after `reset`, that holds its initial value.

    Raises:
        ProgramError: if the program already has an input of that name.
    """

    class Reset(Rewriting):
        def adds(self) -> Sequence[Input]:
            initial = [Input(f"initial.{s.name}", s.width) for s in program.states] if learned else []
            return [Input(RESET, 1), *initial]

        def previous(self, k: int, before: Symbol) -> Symbol:
            afresh = self.added[1 + k] if learned else program.states[k].initial
            return self.builder.select(self.added[0], afresh, before)

    return Reset(program).result()


# Zoneout.


@lru_cache(maxsize=256)
def with_zoneout(program: Program, states: tuple[int, ...]) -> Program:
    """Add an input `zoneout.STATE` for each of these states; where it is nonzero, a unit keeps its old value.

    Krueger et al. 2017, arXiv:1606.01305. As in the paper, values that the cell computes from a new state use the state
    before zoneout; outputs and the next step use the state after it.

    Args:
        program: the program.
        states: the indices of the states.
    """

    class Zoneout(Rewriting):
        def adds(self) -> Sequence[Input]:
            return [Input(f"zoneout.{program.states[k].name}", program.states[k].width) for k in states]

        def next(self, k: int, before: Symbol, after: Symbol) -> Symbol:
            return self.builder.select(self.added[states.index(k)], before, after) if k in states else after

    return Zoneout(program).result()


@lru_cache(maxsize=256)
def with_mean_zoneout(program: Program, rates: tuple[float, ...]) -> Program:
    """Replace each state by its mean over zoneout masks, `rate * old + (1 - rate) * new`, as used for evaluation.

    Args:
        program: the program.
        rates: the zoneout probability of each state.
    """

    class MeanZoneout(Rewriting):
        def next(self, k: int, before: Symbol, after: Symbol) -> Symbol:
            return rates[k] * before + (1.0 - rates[k]) * after if rates[k] else after

    return MeanZoneout(program).result()


# Inputs.


@lru_cache(maxsize=256)
def with_projection(program: Program, size: int) -> Program:
    """Embed the program's first input: read `size` elements and apply an affine map and a ReLU to them.

    The map's parameters `embedding.weight` and `embedding.bias` follow the program's own.
    """
    width = program.inputs[0].width

    class Projection(Rewriting):
        def __init__(self) -> None:
            super().__init__(replace(program, inputs=(replace(program.inputs[0], width=size), *program.inputs[1:])))
            build = self.builder
            weight = build.parameter(Parameter("embedding.weight", (width, size)))
            bias = build.parameter(Parameter("embedding.bias", (width,)))
            self.inputs[0] = build.relu(build.linear(self.inputs[0], weight) + build.vector(bias))

    return Projection().result()


# Products of matrices and states.


def entering(program: Program, id: int) -> tuple[int, ...]:
    """Return the states whose old values, possibly gated, form this argument of a matrix product."""
    instruction = program.body[id]
    if instruction.op == PREVIOUS:
        return (instruction["index"],)
    if instruction.op == "concat":
        return tuple(k for arg in instruction.args for k in entering(program, arg))
    if instruction.op in ("slice", "mul"):
        return next((found for arg in instruction.args if (found := entering(program, arg))), ())
    return ()


@lru_cache(maxsize=256)
def recurrent_weights(program: Program) -> dict[int, tuple[int, ...]]:
    """Return the indices of matrix parameters that multiply old states, each with the indices of those states."""
    return {
        instruction["weight"]: states
        for instruction in program.body
        if instruction.op == "linear" and (states := entering(program, instruction.args[0]))
    }


@lru_cache(maxsize=256)
def input_weights(program: Program) -> frozenset[int]:
    """Return the indices of matrix parameters that multiply an input."""
    body = program.body
    return frozenset(i["weight"] for i in body if i.op == "linear" and body[i.args[0]].op == INPUT)


@lru_cache(maxsize=256)
def with_one_hot_input(program: Program, count: int) -> Program | None:
    """Make the program's first input one-hot with `count` elements.

    A matrix times a one-hot vector is one of the matrix's columns, so with `weight @ table.T` as its weight the program
    computes the same as with the row of an embedding table as input.

    Returns:
        The program, or None if the input is used outside matrix products or its matrices multiply anything else.
    """
    body, weights = program.body, input_weights(program)
    given = {id for id, i in enumerate(body) if i.op == INPUT and i["index"] == 0}
    for instruction in body:
        takes = not given.isdisjoint(instruction.args)
        if takes != (dict(instruction.attributes).get("weight") in weights) or (takes and instruction.op != "linear"):
            return None
    if not given.isdisjoint([o.value for o in program.outputs] + [s.next for s in program.states]):
        return None
    return require_legal(
        replace(
            program,
            inputs=(replace(program.inputs[0], width=count, one_hot=True), *program.inputs[1:]),
            parameters=tuple(
                replace(p, shape=(p.shape[0], count)) if k in weights else p for k, p in enumerate(program.parameters)
            ),
            body=tuple(replace(i, width=count) if id in given else i for id, i in enumerate(body)),
        )
    )


@lru_cache(maxsize=256)
def with_recurrent_dropout(program: Program) -> Program:
    """Add an input `dropout.STATE` for each state that a matrix multiplies; it scales the state in that product.

    Gal & Ghahramani 2016, arXiv:1512.05287, with one mask for all gates.
    """
    masked = masked_states(program)

    class RecurrentDropout(Rewriting):
        def adds(self) -> Sequence[Input]:
            return [Input(f"dropout.{program.states[k].name}", program.states[k].width) for k in masked]

        def product(self, id: int, instruction: Instruction, weight: int) -> Symbol:
            return self.builder.copy(instruction, (self._scaled(instruction.args[0]),), weight=weight)

        def _scaled(self, id: int) -> Symbol:
            instruction = program.body[id]
            if not entering(program, id):
                return self.values[id]
            if instruction.op == PREVIOUS:
                return self.values[id] * self.added[masked.index(instruction["index"])]
            if instruction.op == "mul":
                gated = next(arg for arg in instruction.args if entering(program, arg))
                gates = [self.values[arg] for arg in instruction.args if arg != gated] or [self.values[gated]]
                return gates[0] * self._scaled(gated)
            return self.builder.copy(instruction, tuple(map(self._scaled, instruction.args)))

    return RecurrentDropout(program).result()


def masked_states(program: Program) -> list[int]:
    """Return the indices of the states that a matrix multiplies."""
    return sorted({k for states in recurrent_weights(program).values() for k in states})


@lru_cache(maxsize=256)
def with_gate_dropout(program: Program, weights: tuple[int, ...]) -> Program:
    """Add an input `dropout.NAME.GATE` for each gate of these matrices; it scales the input of the gate's rows.

    In contrast to `with_recurrent_dropout`, each gate has a mask of its own, as in Keras. Each parameter `NAME` becomes
    one parameter `NAME.GATE` per gate.

    Args:
        program: the program.
        weights: the indices of the matrices, in ascending order.
    """
    gates = {k: _whole(program.parameters[k]) for k in weights}

    class GateDropout(Rewriting):
        def adds(self) -> Sequence[Input]:
            named = [(program.parameters[k], part.gate) for k, parts in gates.items() for part in parts]
            return [Input(f"dropout.{parameter.name}.{gate}", parameter.shape[1]) for parameter, gate in named]

        def parameter(self, k: int, parameter: Parameter) -> Sequence[Parameter]:
            if k not in gates:
                return (parameter,)
            return [
                Parameter(
                    f"{parameter.name}.{part.gate}",
                    (part.stop - part.start, parameter.shape[1]),
                    (GateRows(part.gate, 0, part.stop - part.start, part.initial),),
                )
                for part in gates[k]
            ]

        def product(self, id: int, instruction: Instruction, weight: int) -> Symbol:
            k = instruction["weight"]
            if k not in gates:
                return super().product(id, instruction, weight)
            first = sum(len(gates[before]) for before in weights[: weights.index(k)])
            masks = self.added[first : first + len(gates[k])]
            build, source = self.builder, self.values[instruction.args[0]]
            return build.concat(*(build.linear(source * mask, weight + n) for n, mask in enumerate(masks)))

    return GateDropout(program).result()


@lru_cache(maxsize=256)
def with_heads(program: Program, heads: int) -> Program:
    """Make the recurrent matrices block-diagonal, so that the gates of each head see only that head's units.

    A head is a contiguous, equal share of the units of a state and of the rows of each gate. Each parameter `NAME`
    becomes one parameter `NAME.headK` per head.

    Raises:
        UserError: if a state or gate can't be divided equally, or no matrix multiplies a state.
    """
    weights = recurrent_weights(program)
    if not weights:
        raise UserError(f"cell {program.name!r} can't have heads: no matrix multiplies its state")
    for weight, states in weights.items():
        parameter = program.parameters[weight]
        if len(states) > 1:
            raise UserError(
                f"cell {program.name!r} can't have heads: {parameter.name} multiplies several states at once"
            )
        widths = {f"state {program.states[states[0]].name!r}": parameter.shape[1]}
        widths |= {f"gate {part.gate!r}": part.stop - part.start for part in parameter.parts}
        for what, width in widths.items():
            if width % heads:
                raise UserError(
                    f"{what} of cell {program.name!r} has {width} units, which can't be divided into {heads} heads"
                )

    class Heads(Rewriting):
        def parameter(self, k: int, parameter: Parameter) -> Sequence[Parameter]:
            if k not in weights:
                return (parameter,)
            rows, columns = parameter.shape
            parts = tuple(GateRows(p.gate, p.start // heads, p.stop // heads, p.initial) for p in _whole(parameter))
            return [
                Parameter(f"{parameter.name}.head{n}", (rows // heads, columns // heads), parts) for n in range(heads)
            ]

        def product(self, id: int, instruction: Instruction, weight: int) -> Symbol:
            if instruction["weight"] not in weights:
                return super().product(id, instruction, weight)
            build, source = self.builder, self.values[instruction.args[0]]
            width = source.width // heads
            of_heads = [build.linear(build.slice(source, n * width, width), weight + n) for n in range(heads)]
            return build.concat(
                *(
                    build.slice(of_head, part.start // heads, (part.stop - part.start) // heads)
                    for part in _whole(program.parameters[instruction["weight"]])
                    for of_head in of_heads
                )
            )

    return Heads(program).result()


def _whole(parameter: Parameter) -> tuple[GateRows, ...]:
    """Return the parts of a parameter; if it has none, one part that covers all rows."""
    return parameter.parts or (GateRows(parameter.name, 0, parameter.shape[0]),)


# Gate activations.


def activated(program: Program) -> dict[str, int]:
    """Map the name of each gate with an activation function to the value of its pre-activation."""
    return {
        name: before for name, after in program.names if (before := program.values.get(f"{name}.pre", after)) != after
    }


@lru_cache(maxsize=256)
def with_clip(program: Program, bound: float) -> Program:
    """Clip the pre-activation of each gate to between `-bound` and `bound`.

    The gradient is 0 outside these bounds.

    Raises:
        UserError: if the cell has no gate with an activation function.
    """
    sums = set(activated(program).values())
    if not sums:
        raise UserError(
            f"clip applies to pre-activations of gates, but cell {program.name!r} has no gate with an activation"
        )

    class Clip(Rewriting):
        def value(self, id: int, given: Symbol) -> Symbol:
            if id not in sums:
                return given
            build = self.builder
            held = build.select(build.greater(-bound, given), -bound, given)
            return build.select(build.greater(given, bound), bound, held)

    return Clip(program).result()


@lru_cache(maxsize=256)
def with_activations(program: Program, functions: tuple[tuple[str, Callable[[Symbol], Symbol]], ...]) -> Program:
    """Replace the activation functions of some gates.

    Args:
        program: the program.
        functions: pairs of a gate's name and its new function.

    Raises:
        UserError: if there is no such gate, or it does more than apply a function to a pre-activation.
    """
    gates = {
        name: before
        for name, before in activated(program).items()
        if program.body[program.values[name]].args == (before,)
    }
    chosen = dict(functions)
    for name in chosen:
        if name not in gates:
            has = f"it has {', '.join(gates)}" if gates else "it has none"
            raise UserError(
                f"cell {program.name!r} has no gate named {name!r} that applies a function to a pre-activation"
                f"{nearest(name, gates)}; {has}"
            )
    places = {program.values[name]: name for name in chosen}

    class Activations(Rewriting):
        def value(self, id: int, given: Symbol) -> Symbol:
            return chosen[places[id]](self.values[gates[places[id]]]) if id in places else given

    return Activations(program).result()


# Outputs.


@lru_cache(maxsize=256)
def with_skip(program: Program, skip: str) -> Program:
    """Add a skip connection from the input to the output.

    Args:
        program: the program.
        skip: `residual` adds the input to the output if the widths are equal; `dense` concatenates input and output.
    """

    class Skip(Rewriting):
        def output(self, k: int, given: Symbol) -> Symbol:
            if k > 0:
                return given
            if skip == "dense":
                return self.builder.concat(self.inputs[0], given)
            return given + self.inputs[0] if given.width == self.inputs[0].width else given

    return Skip(program).result()


@lru_cache(maxsize=256)
def with_states(program: Program) -> Program:
    """Add an output for each state that holds its value at the end of each step."""
    added = tuple(Output(f"state.{s.name}", s.next) for s in program.states)
    return require_legal(replace(program, outputs=program.outputs + added))


REWRITES: dict[str, Callable[[Program], Program]] = {
    RESET: with_reset,
    RESET_LEARNED: lambda program: with_reset(program, True),
    STATES: with_states,
}


def rewritten(program: Program, rewrites: Iterable[str]) -> Program:
    """Apply rewrites by name, in order."""
    for name in rewrites:
        program = REWRITES[name](program)
    return program

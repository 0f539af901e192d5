"""Features as rewrites: a program with something more in it, and inputs per step that say where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from throughtime.errors import UserError, nearest
from throughtime.program.builder import Symbol
from throughtime.program.core import INPUT, PREVIOUS, GateRows, Input, Instruction, Output, Parameter, Program
from throughtime.program.legality import require_legal
from throughtime.program.rewriting import Rewriting

RESET, RESET_LEARNED, STATES = "reset", "reset_learned", "states"


# States that start afresh.


@lru_cache(maxsize=256)
def with_reset(program: Program, learned: bool = False) -> Program:
    """The program with one more input, `reset` `[T, B, 1]`: where it is not 0, a row's states start afresh.

    At such a step the cell sees each state's initial value in place of the old one, and no gradient passes.

    Args:
        program: the program.
        learned: whether the initial values are inputs too, `initial.STATE` for each state, after `reset`.

    Raises:
        ProgramError: if the program has an input of that name already.
    """

    class Reset(Rewriting):
        def adds(self) -> Sequence[Input]:
            initial = [Input(f"initial.{s.name}", s.width) for s in program.states] if learned else []
            return [Input(RESET, 1), *initial]

        def previous(self, k: int, before: Symbol) -> Symbol:
            afresh = self.added[1 + k] if learned else program.states[k].initial
            return self.builder.select(self.added[0], afresh, before)

    return Reset(program).result()


# States that are kept.


@lru_cache(maxsize=256)
def with_zoneout(program: Program, states: tuple[int, ...]) -> Program:
    """The program with an input `zoneout.STATE` for each of these states: where it is not 0, a unit keeps its value.

    Krueger et al. 2017, arXiv:1606.01305. As there, what the cell computes from a new state it computes from the value
    that the state would have had; what it gives out, and the next step, see what the state has.

    Args:
        program: the program.
        states: their indices.
    """

    class Zoneout(Rewriting):
        def adds(self) -> Sequence[Input]:
            return [Input(f"zoneout.{program.states[k].name}", program.states[k].width) for k in states]

        def next(self, k: int, before: Symbol, after: Symbol) -> Symbol:
            return self.builder.select(self.added[states.index(k)], before, after) if k in states else after

    return Zoneout(program).result()


@lru_cache(maxsize=256)
def with_mean_zoneout(program: Program, rates: tuple[float, ...]) -> Program:
    """The program in which each state is the mean over zoneout's masks: `rate * old + (1 - rate) * new`.

    Args:
        program: the program.
        rates: for each state the probability with which a unit keeps its value.
    """

    class MeanZoneout(Rewriting):
        def next(self, k: int, before: Symbol, after: Symbol) -> Symbol:
            return rates[k] * before + (1.0 - rates[k]) * after if rates[k] else after

    return MeanZoneout(program).result()


# What enters the products over the states.


def entering(program: Program, id: int) -> tuple[int, ...]:
    """The states that are meant when this value is multiplied by a matrix: it is of their old values, gated or not."""
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
    """The matrix parameters that multiply old states, by their indices, and the states."""
    return {
        instruction["weight"]: states
        for instruction in program.body
        if instruction.op == "linear" and (states := entering(program, instruction.args[0]))
    }


@lru_cache(maxsize=256)
def input_weights(program: Program) -> frozenset[int]:
    """The matrix parameters that multiply an input, by their indices."""
    body = program.body
    return frozenset(i["weight"] for i in body if i.op == "linear" and body[i.args[0]].op == INPUT)


@lru_cache(maxsize=256)
def with_symbols(program: Program, count: int) -> Program | None:
    """The program whose first input is one-hot, of `count` elements.

    Its product with a matrix is one of the matrix's columns: with `weight @ table.T` in the place of a weight, that is
    what the program computes from a row of a table.

    Returns:
        None if anything but products takes the input, or their matrices multiply anything else.
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
    """The program with an input `dropout.STATE` for each state that a matrix multiplies: there it is scaled by it.

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
    """The states that a matrix multiplies, by their indices."""
    return sorted({k for states in recurrent_weights(program).values() for k in states})


@lru_cache(maxsize=256)
def with_heads(program: Program, heads: int) -> Program:
    """The program with block-diagonal matrices over its states: each head's gates see that head's units alone.

    A head is an equal share of the units of a state, one after the other, and of the rows of each gate. In place of a
    parameter `NAME` there is a `NAME.headK` for each head.

    Raises:
        UserError: if a state or a gate cannot be shared out equally, or no matrix multiplies a state.
    """
    weights = recurrent_weights(program)
    if not weights:
        raise UserError(f"heads are blocks of a matrix over a state, and cell {program.name!r} has none.")
    for weight, states in weights.items():
        parameter = program.parameters[weight]
        if len(states) > 1:
            raise UserError(f"{parameter.name} of cell {program.name!r} multiplies several states at once: no heads.")
        widths = {f"state {program.states[states[0]].name!r}": parameter.shape[1]}
        widths |= {f"gate {part.gate!r}": part.stop - part.start for part in parameter.parts}
        for what, width in widths.items():
            if width % heads:
                raise UserError(
                    f"{heads} heads cannot share the {width} units of the {what} of cell {program.name!r} equally."
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
    """The parts of a parameter; it is one if it has none."""
    return parameter.parts or (GateRows(parameter.name, 0, parameter.shape[0]),)


# The functions of gates.


def activated(program: Program) -> dict[str, int]:
    """The gates to whose sum a function is applied, by name: the value of the sum."""
    return {
        name: before for name, after in program.names if (before := program.values.get(f"{name}.pre", after)) != after
    }


@lru_cache(maxsize=256)
def with_clip(program: Program, bound: float) -> Program:
    """The program in which what the function of a gate is applied to is held between `-bound` and `bound`.

    Outside no gradient passes.

    Raises:
        UserError: if the cell has no such gate.
    """
    sums = set(activated(program).values())
    if not sums:
        raise UserError(f"clip is of what a gate's function is applied to, and cell {program.name!r} has no such gate.")

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
    """The program with other functions in some of its gates.

    Args:
        program: the program.
        functions: gates by name, and the function of each.

    Raises:
        UserError: if there is no such gate, or what it does is more than apply a function to a sum.
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
                f"no gate of cell {program.name!r} that applies a function to a sum is called "
                f"{name!r}{nearest(name, gates)} ({has})."
            )
    places = {program.values[name]: name for name in chosen}

    class Activations(Rewriting):
        def value(self, id: int, given: Symbol) -> Symbol:
            return chosen[places[id]](self.values[gates[places[id]]]) if id in places else given

    return Activations(program).result()


# What a program gives out.


@lru_cache(maxsize=256)
def with_skip(program: Program, skip: str) -> Program:
    """The program whose output takes its input along.

    Args:
        program: the program.
        skip: `residual`: the input is added, if it is of the output's width; `dense`: it stands before the output.
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
    """The program with one more output for each state: what it is at the end of each step."""
    added = tuple(Output(f"state.{s.name}", s.next) for s in program.states)
    return require_legal(replace(program, outputs=program.outputs + added))


REWRITES: dict[str, Callable[[Program], Program]] = {
    RESET: with_reset,
    RESET_LEARNED: lambda program: with_reset(program, True),
    STATES: with_states,
}


def rewritten(program: Program, rewrites: Iterable[str]) -> Program:
    """The program after the rewrites of these names, one after the other."""
    for name in rewrites:
        program = REWRITES[name](program)
    return program

"""Features as rewrites: a program with something more in it, and inputs per step that say where."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from throughtime.errors import ProgramError
from throughtime.program.builder import Builder, Symbol
from throughtime.program.core import INPUT, PARAMETER, PREVIOUS, Program
from throughtime.program.legality import require_legal

RESET = "reset"


@lru_cache(maxsize=256)
def with_reset(program: Program) -> Program:
    """The program with one more input, `reset` `[T, B, 1]`: where it is not 0, a row's states start afresh.

    At such a step the cell sees each state's initial value in place of the old one, and no gradient passes.

    Raises:
        ProgramError: if the program has an input of that name already.
    """
    if any(given.name == RESET for given in program.inputs):
        raise ProgramError(f"the program {program.name!r} has an input called {RESET!r} already.")
    builder = Builder(program.name)
    inputs = [builder.input(i.name, i.width) for i in program.inputs]
    reset = builder.input(RESET, 1)
    old = [builder.state(s.name, s.width, s.initial) for s in program.states]
    afresh = [builder.select(reset, s.initial, before) for s, before in zip(program.states, old, strict=True)]
    for parameter in program.parameters:
        builder.parameter(parameter)
    values: list[Symbol] = []
    for instruction in program.body:
        words: dict[str, Any] = dict(instruction.attributes)
        if instruction.op == INPUT:
            values.append(inputs[instruction["index"]])
        elif instruction.op == PREVIOUS:
            values.append(afresh[instruction["index"]])
        elif instruction.op == PARAMETER:
            values.append(builder.vector(instruction["index"]))
        else:
            args = tuple(values[arg] for arg in instruction.args)
            values.append(builder.copy(instruction, args, weight=words.get("weight")))
    return require_legal(
        builder.finish(
            [values[s.next] for s in program.states],
            [(o.name, values[o.value]) for o in program.outputs],
            [(r.name, r.shape, [tuple(values[v] for v in term) for term in r.terms]) for r in program.reductions],
            names={name: values[id] for name, id in program.names},
            reverse=program.reverse,
        )
    )


REWRITES: dict[str, Callable[[Program], Program]] = {RESET: with_reset}


def rewritten(program: Program, rewrites: tuple[str, ...]) -> Program:
    """The program after the rewrites of these names, one after the other."""
    for name in rewrites:
        program = REWRITES[name](program)
    return program

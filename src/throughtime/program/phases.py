"""The phase in which each value of a program can be computed: before, during or after the loop over time.

A value that depends on no state can be computed for all steps before the loop, and a value on which no state depends,
after it. Only the others must be computed step by step. Dependencies alone determine the phase.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from throughtime.program.core import CONSTANT, PARAMETER, PREVIOUS, Program


class Phase(Enum):
    """The phase in which a value can be computed."""

    STATIC = "static"  # once, as it is the same at all steps and rows
    BEFORE = "before"
    STEP = "step"
    AFTER = "after"


@lru_cache(maxsize=512)
def phases(program: Program) -> tuple[Phase, ...]:
    """Return the phase of each value of a program's body."""
    body = program.body
    feeds_state = {state.next for state in program.states}
    for id in reversed(range(len(body))):
        if id in feeds_state:
            feeds_state.update(body[id].args)
    result: list[Phase] = []
    for id, instruction in enumerate(body):
        of_args = {result[arg] for arg in instruction.args}
        if instruction.op in (CONSTANT, PARAMETER):
            result.append(Phase.STATIC)
        elif instruction.op == PREVIOUS or of_args & {Phase.STEP, Phase.AFTER}:
            in_step = instruction.op == PREVIOUS or id in feeds_state
            result.append(Phase.STEP if in_step else Phase.AFTER)
        elif of_args == {Phase.STATIC}:
            result.append(Phase.STATIC)
        else:
            result.append(Phase.BEFORE)
    return tuple(result)

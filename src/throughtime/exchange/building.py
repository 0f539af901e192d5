"""Build recurrent layers from given parameters, and replace functions in programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from throughtime.nn.recurrent import Recurrent
from throughtime.program.core import Instruction, Program
from throughtime.program.rewriting import Rewriting
from throughtime.program.symbols import Symbol

Function = Callable[[Symbol], Symbol]


def recurrent_of(
    programs: Sequence[Program],
    hidden_size: int,
    parameters: Sequence[Sequence[Tensor]],
    *,
    engine: str | None = None,
    **options: Any,
) -> Recurrent:
    """Create recurrent layers with copies of the given parameters.

    Args:
        programs: each layer's program, forward in time.
        hidden_size: the number of hidden units.
        parameters: the parameters of each layer's directions.
        engine: the engine's name; chosen by device by default.
        **options: see `throughtime.nn.options.Options`.

    Raises:
        UserError: if an option is invalid.
    """
    like = parameters[0][0]
    made = Recurrent.from_programs(
        programs, hidden_size, engine=engine, device=like.device, dtype=like.dtype, **options
    )
    stored = [own for directions in made.layers() for _, own in directions]
    with torch.no_grad():
        for own, values in zip(stored, parameters, strict=True):
            for tensor, value in zip(own, values, strict=True):
                tensor.copy_(value)
    return made


def is_function(instruction: Instruction) -> bool:
    """Return whether an instruction is an activation that another function can replace."""
    return instruction.op in ("sigmoid", "tanh")


@lru_cache(maxsize=256)
def with_functions(program: Program, functions: tuple[tuple[str, Function], ...]) -> Program:
    """Replace the functions that are applied to some named values of a program.

    Args:
        program: the program.
        functions: pairs of a value's name and the function that replaces its sigmoid or tanh.
    """
    places = {program.values[name]: function for name, function in functions}

    class Activated(Rewriting):
        def value(self, id: int, given: Symbol) -> Symbol:
            instruction = program.body[id]
            if not is_function(instruction) or instruction.args[0] not in places:
                return given
            return places[instruction.args[0]](self.values[instruction.args[0]])

    return Activated(program).result()

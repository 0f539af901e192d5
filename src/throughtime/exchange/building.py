"""Recurrent layers of given parameters, and programs with given functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from throughtime.nn.recurrent import Recurrent
from throughtime.program.builder import Symbol
from throughtime.program.core import Instruction, Program
from throughtime.program.rewriting import Rewriting

Function = Callable[[Symbol], Symbol]


def recurrent_of(
    programs: Sequence[Program],
    hidden_size: int,
    parameters: Sequence[Sequence[Tensor]],
    *,
    engine: str | None = None,
    **options: Any,
) -> Recurrent:
    """Layers of copies of these parameters.

    Args:
        programs: each layer's program, forward in time.
        hidden_size: the number of hidden units.
        parameters: those of each layer's directions.
        engine: the engine's name; chosen by device if not given.
        **options: see `throughtime.nn.options.Options`.

    Raises:
        UserError: if an option is not right.
    """
    like = parameters[0][0]
    made = Recurrent.from_programs(
        programs, hidden_size, engine=engine, device=like.device, dtype=like.dtype, **options
    )
    stored = [own for ways in made.layers() for _, own in ways]
    with torch.no_grad():
        for own, values in zip(stored, parameters, strict=True):
            for tensor, value in zip(own, values, strict=True):
                tensor.copy_(value)
    return made


def is_function(instruction: Instruction) -> bool:
    """Whether an instruction is where a foreign layer's activation can stand."""
    return instruction.op in ("sigmoid", "tanh")


@lru_cache(maxsize=256)
def with_functions(program: Program, functions: tuple[tuple[str, Function], ...]) -> Program:
    """The program in which other functions are applied to some named values.

    Args:
        program: the program.
        functions: values by name, and the function that takes the place of the sigmoid or tanh of each.
    """
    places = {program.values[name]: function for name, function in functions}

    class Activated(Rewriting):
        def value(self, id: int, given: Symbol) -> Symbol:
            instruction = program.body[id]
            if not is_function(instruction) or instruction.args[0] not in places:
                return given
            return places[instruction.args[0]](self.values[instruction.args[0]])

    return Activated(program).result()

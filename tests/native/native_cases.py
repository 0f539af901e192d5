"""Helpers for the native engine's tests."""

from __future__ import annotations

import numpy as np
from helpers import run_on
from numpy.typing import NDArray

from throughtime.engines.native import NativeEngine
from throughtime.program.core import Input, Instruction, Output, Program, State
from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals
from throughtime.program.operations import OPERATIONS


def family(program: Program) -> list[Program]:
    """Return a program, the program with residuals, and its gradient program."""
    wanted = everything_wanted(program)
    augmented = with_residuals(program, wanted)
    return [program, augmented, gradient(augmented, everything_given(program), wanted).program]


def one_operation(name: str, width: int) -> Program:
    """Return a program that outputs a pointwise operation on its inputs."""
    arity = OPERATIONS[name].arity or 1
    body = [Instruction("input", (), width, (("index", k),)) for k in range(arity)]
    body.append(Instruction("previous", (), 1, (("index", 0),)))
    body.append(Instruction(name, tuple(range(arity)), width))
    return Program(
        name=name,
        inputs=tuple(Input(f"x{k}", width) for k in range(arity)),
        states=(State("s", 1, 0.0, arity),),
        body=tuple(body),
        outputs=(Output("y", arity + 1),),
    )


def apply(engine: NativeEngine, name: str, *values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Apply a pointwise operation to 1-D arrays as one row."""
    program = one_operation(name, values[0].size)
    inputs = [v.reshape(1, 1, -1) for v in values]
    state = np.zeros((1, 1), values[0].dtype)
    outputs, _, _ = run_on(engine, program, 1, inputs, [state], [])
    return np.asarray(outputs[0]).reshape(-1)


def row_max(engine: NativeEngine, x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the largest element of each row `[B, width]`, as `[B, 1]`."""
    program = Program(
        name="row_max",
        inputs=(Input("x", x.shape[1]),),
        states=(State("s", 1, 0.0, 1),),
        body=(
            Instruction("input", (), x.shape[1], (("index", 0),)),
            Instruction("previous", (), 1, (("index", 0),)),
            Instruction("row_max", (0,), 1),
        ),
        outputs=(Output("y", 2),),
    )
    outputs, _, _ = run_on(engine, program, 1, [x[None]], [np.zeros((len(x), 1), x.dtype)], [])
    return np.asarray(outputs[0])[0]

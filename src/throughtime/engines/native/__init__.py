"""The native engine: programs on the CPU, near the limit of its arithmetic, without a compiler and without torch.

It takes NumPy arrays and torch tensors alike, and gives back what it was given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from throughtime.engines.base import Result
from throughtime.errors import ProgramError
from throughtime.program.core import Program

try:
    from throughtime import _native
except ImportError:  # not built, as in a bare checkout
    _native = None  # type: ignore[assignment]


class NativeEngine:
    """Runs programs by the C++ machine.

    Args:
        threads: how many threads it may use; as many as torch where torch is loaded, else all that the process has.
        instruction_set: one of `instruction_sets()`; the best that the machine has, or what the environment variable
            THROUGHTIME_ISA says, if not given. Results are the same bits for one instruction set, not across them.
    """

    name = "native"
    transparent = False

    def __init__(self, threads: int | None = None, instruction_set: str = "") -> None:
        self.threads = threads
        self.instruction_set = instruction_set

    def refuses(self, program: Program, like: Any) -> str | None:
        """Why it cannot run a program on arrays like this one; None if it can."""
        if _native is None:
            return "the native engine's extension module is not built"
        if getattr(getattr(like, "device", "cpu"), "type", "cpu") != "cpu":
            return f"the native engine runs on the CPU, not on {like.device}"
        if _dtype_name(like) not in ("float32", "float64"):
            return f"the native engine computes in float32 and float64, not in {_dtype_name(like)}"
        return None

    def run(
        self,
        program: Program,
        steps: int,
        inputs: Sequence[Any],
        states: Sequence[Any],
        parameters: Sequence[Any],
        batch_sizes: Sequence[int] | None = None,
        *,
        packed: bool = False,
        onto: Sequence[Any] | None = None,
    ) -> Result:
        """See `throughtime.engines.base.Engine.run`."""
        from throughtime.engines.native.plan import lower

        plan = lower(program)
        like = next(iter((*states, *inputs, *parameters)))
        if packed:
            sequence: tuple[int, ...] = (sum(batch_sizes or ()),)
            rows = states[0].shape[0] if states else (batch_sizes or (0,))[0]
        else:
            rows = states[0].shape[0] if states else inputs[0].shape[1]
            sequence = (steps, rows)
        arrays = _Arrays(like)
        result = Result(
            [_empty(like, *sequence, program.body[output.value].width) for output in program.outputs],
            [_empty(like, rows, state.width) for state in program.states],
            [_empty(like, *reduction.shape) for reduction in program.reductions] if onto is None else list(onto),
        )
        run = _native.run32 if _dtype_name(like) == "float32" else _native.run64
        run(
            plan,
            steps,
            rows,
            [arrays.address(a, *sequence, i.width) for a, i in zip(inputs, program.inputs, strict=True)],
            [arrays.address(a, rows, s.width) for a, s in zip(states, program.states, strict=True)],
            [arrays.address(a, *p.shape) for a, p in zip(parameters, program.parameters, strict=True)],
            [_address(a) for a in result.outputs],
            [_address(a) for a in result.states],
            [arrays.own_address(a, *r.shape) for a, r in zip(result.reductions, program.reductions, strict=True)],
            None if batch_sizes is None else list(batch_sizes),
            self.threads or _default_threads(),
            self.instruction_set,
            packed=packed,
            reductions_begun=onto is not None,
        )
        return result

    def steps_together(self, rows: int) -> int:
        """See `throughtime.engines.base.Engine.steps_together`."""
        return int(_native.steps_together(rows))


def instruction_sets() -> list[str]:
    """The instruction sets of this machine that the engine can use, best first."""
    return [] if _native is None else _native.instruction_sets()


class _Arrays:
    """Arrays whose addresses are given to C++: of one type, contiguous, and alive as long as this is."""

    def __init__(self, like: Any) -> None:
        self.dtype = like.dtype
        self.device = getattr(like, "device", "cpu")
        self.alive: list[Any] = []

    def address(self, array: Any, *shape: int) -> int:
        """The address of an array's elements, which are copied if they don't lie one after the other."""
        device = getattr(array, "device", "cpu")
        if array.dtype != self.dtype or array.shape != shape or device != self.device:
            raise ProgramError(
                f"an array of shape {tuple(array.shape)}, {array.dtype}, on {device} was given where the program "
                f"takes {shape}, and the others are {self.dtype}, on {self.device}."
            )
        if isinstance(array, np.ndarray):
            array = np.require(array, requirements=("C", "A"))
        elif not array.is_contiguous() or array.is_neg():
            array = array.detach().contiguous().resolve_neg()
        self.alive.append(array)
        return _address(array)

    def own_address(self, array: Any, *shape: int) -> int:
        """The address of an array's elements, to be written to."""
        if self.address(array, *shape) != _address(array):
            raise ProgramError("an array that is added to must be contiguous.")
        return _address(array)


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data_ptr())


def _default_threads() -> int:
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _dtype_name(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _empty(like: Any, *shape: int) -> Any:
    return np.empty(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_empty(shape)

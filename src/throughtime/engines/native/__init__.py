"""The native engine, which runs programs on the CPU near peak throughput, without a compiler and without torch.

It takes NumPy arrays or torch tensors and returns the same kind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from throughtime.engines import kind_of
from throughtime.engines.base import Constants, Layout, Operands, Result
from throughtime.errors import ProgramError
from throughtime.program.core import Program

try:
    from throughtime import _native
except ImportError:  # not built, as in a source checkout
    _native = None  # type: ignore[assignment]
else:
    from throughtime.engines.native.plan import lower

BUILT = _native is not None


class NativeEngine:
    """An engine that runs programs with the C++ extension module.

    Args:
        threads: the number of threads. Default: torch's number of threads if torch is loaded, otherwise all CPUs of the
            process.
        instruction_set: one of `instruction_sets()`. Default: the environment variable THROUGHTIME_ISA, or the best set
            that the machine supports. Results are bitwise identical within an instruction set, but not across sets.
    """

    name = "native"
    traceable = False
    supports_one_hot = True

    def __init__(self, threads: int | None = None, instruction_set: str = "") -> None:
        self.threads = threads
        self.instruction_set = instruction_set

    def refuses(self, program: Program, like: Any) -> str | None:
        """Return the reason why the engine can't run a program on arrays like this one, or None if it can."""
        if _native is None:
            return "the native engine's extension module is not built"
        if kind_of(getattr(like, "device", "cpu")) != "cpu":
            return f"the native engine runs on the CPU, not on {like.device}"
        if (name := _name_of(like.dtype)) not in ("float32", "float64"):
            return f"the native engine computes in float32 and float64, not in {name}"
        return None

    def run(
        self,
        program: Program,
        operands: Operands,
        layout: Layout,
        *,
        accumulate_into: Sequence[Any] | None = None,
    ) -> Result:
        """See `throughtime.engines.base.Engine.run`."""
        return Result(*self._run(program, operands, layout, accumulate_into))

    def run_layer(
        self,
        program: Program,
        steps: int,
        inputs: Sequence[Any],
        states: Sequence[Any] | None,
        parameters: Sequence[Any],
    ) -> Result:
        """Run one layer on arrays with the shapes that torch's layers use.

        Args:
            program: a legal program.
            steps: the number of time steps T.
            inputs: `[T, B, width]` for each input of the program.
            states: the initial value `[1, B, width]` of each state; None or empty for the values that the program
                declares.
            parameters: a tensor of each parameter's shape, or for a vector its pieces; see
                `throughtime.engines.weight_layouts.WeightLayout.in_pieces`.

        Returns:
            The outputs `[T, B, width]`, the final value `[1, B, width]` of each state, and the reductions.
        """
        return Result(*self._run(program, (inputs, states or None, parameters), Layout(steps, 0), None, True))

    def _run(
        self,
        program: Program,
        operands: tuple[Sequence[Any], Sequence[Any] | None, Sequence[Any]],
        layout: Layout,
        accumulate_into: Sequence[Any] | None = None,
        layer_axis: bool = False,
    ) -> Any:
        inputs, states, parameters = operands
        steps, threads = layout.steps, self.threads or _default_threads()
        of = layout.batch_sizes, layout.packed, accumulate_into, threads
        try:
            if parameters and isinstance(parameters, Constants):
                return self._frozen(program, parameters).run(steps, inputs, states, *of, layer_axis)
            isa = self.instruction_set
            return _native.run(lower(program), steps, inputs, states, parameters, *of, isa, layer_axis)
        except _native.ShapeMismatch as error:
            raise ProgramError(f"{error}") from None

    def _frozen(self, program: Program, parameters: Constants) -> _native.FrozenPlan:
        key = program, self.instruction_set
        made: _native.FrozenPlan | None = parameters.cache.get(key)
        if made is None:
            made = parameters.cache[key] = _native.FrozenPlan(lower(program), parameters, self.instruction_set)
        return made

    def chunk_steps(self, rows: int) -> int:
        """See `throughtime.engines.base.Engine.chunk_steps`."""
        return int(_native.chunk_steps(rows))


def dropout(x: Any, kept: float, scale: float, seed: int) -> Any:
    """Apply dropout: scale some elements of an array and set the others to 0.

    Args:
        x: a float32 or float64 array on the CPU.
        kept: the probability with which each element is kept, rounded to 1/65,536.
        scale: the factor for kept elements.
        seed: determines the kept elements, independently of the number of threads; from 0 to 2^63.
    """
    found: Any = _native.dropout(x.reshape(-1), seed, kept, scale, _default_threads())
    return found.reshape(x.shape)


def release_memory() -> int:
    """Free the native engine's pooled memory.

    The engine keeps up to 256 MiB of freed memory for later runs, because fresh pages from the system are slow. Memory
    of existing tensors and arrays isn't affected.

    Returns:
        The number of bytes freed; 0 if the native engine isn't built.
    """
    return 0 if _native is None else _native.release_memory()


def instruction_sets() -> list[str]:
    """Return the instruction sets of this machine that the engine can use, best first."""
    return [] if _native is None else _native.instruction_sets()


def _default_threads() -> int:
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=64)  # formatting a dtype is slow
def _name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")

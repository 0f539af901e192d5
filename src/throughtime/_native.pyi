"""The native engine: runs compiled programs on the CPU."""

from collections.abc import Sequence


class Plan:
    """
    A program compiled for the native engine. Every method checks its arguments.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], states: Sequence[int], parameters: Sequence[Sequence[int]], reductions: Sequence[Sequence[int]], reverse: bool, one_hot: Sequence[int], initial: Sequence[float]) -> None: ...

    def add_buffer(self, storage: str, index: int, width: int, value: float) -> int: ...

    def add_stage(self, phase: str) -> None: ...

    def add_gemm(self, parameter: int, transposed: bool, to: tuple[int, int], source: tuple[int, int], start: tuple[int, int] | None, rows: Sequence[int] | None = None) -> None: ...

    def add_operation(self, name: str, width: int, to: tuple[int, int], sources: Sequence[tuple[int, int]]) -> None: ...

    def add_term(self, reduction: int, values: Sequence[tuple[int, int]]) -> None: ...

class ShapeMismatch(ValueError):
    pass

def run(plan: Plan, steps: int, inputs: Sequence[object], states: Sequence[object] | None, parameters: Sequence[object], batch_sizes: Sequence[int] | None = None, packed: bool = False, accumulate_into: Sequence[object] | None = None, threads: int = 1, isa: str = '', layer_axis: bool = False) -> tuple:
    """
    Run a plan on arrays of one library. Returns outputs, final states and reductions.

    A vector parameter may be given in pieces: a tuple of pieces, each a count and the terms of its sum, and of arrays. A term is the position of an array and its first element. With `layer_axis`, states are [1, rows, width].
    """

class FrozenPlan:
    """A plan with constant parameters, packed once for many runs."""

    def __init__(self, plan: Plan, parameters: Sequence[object], isa: str = '') -> None: ...

    def run(self, steps: int, inputs: Sequence[object], states: Sequence[object] | None, batch_sizes: Sequence[int] | None = None, packed: bool = False, accumulate_into: Sequence[object] | None = None, threads: int = 1, layer_axis: bool = False) -> tuple:
        """Run the plan; see `run`."""

def dropout(x: object, seed: int, keep_probability: float, scale: float, threads: int = 1, isa: str = '') -> object:
    """
    Apply dropout to a vector: keep each element with a probability and scale it, or zero it.
    """

class Stream32:
    """A stack of plans that runs one step at a time and keeps its state."""

    def __init__(self, layers: Sequence[tuple[Plan, Sequence[object]]], rows: int, embedding: object | None, isa: str, skip: bool = False) -> None: ...

    def step(self, x: object | None, out: object | None) -> object:
        """Run one step and return the last layer's output."""

    def process(self, x: object | None) -> object:
        """Run the steps of a block and return the output of each."""

    def state(self, k: int) -> object:
        """A copy of state `k`, counted over all layers: [rows, width]."""

    def set_state(self, k: int, value: object) -> None: ...

class Stream64:
    """A stack of plans that runs one step at a time and keeps its state."""

    def __init__(self, layers: Sequence[tuple[Plan, Sequence[object]]], rows: int, embedding: object | None, isa: str, skip: bool = False) -> None: ...

    def step(self, x: object | None, out: object | None) -> object:
        """Run one step and return the last layer's output."""

    def process(self, x: object | None) -> object:
        """Run the steps of a block and return the output of each."""

    def state(self, k: int) -> object:
        """A copy of state `k`, counted over all layers: [rows, width]."""

    def set_state(self, k: int, value: object) -> None: ...

def chunk_steps(rows: int) -> int:
    """
    The number of steps in a chunk of this many rows. Sums restart with each chunk.
    """

def instruction_sets() -> list[str]:
    """The instruction sets of this machine, best first."""

def operations() -> list[str]:
    """The names of the supported operations except matrix products."""

def fma_peak(threads: int, seconds: float = 0.2, isa: str = '') -> float:
    """Peak float32 FLOP/s of the multiply-add units."""

def release_memory() -> int:
    """Free pooled memory that is not in use. Returns the number of bytes."""

def core_to_core_latency() -> float:
    """
    Seconds until a thread sees another's write; 0 without a second thread.
    """

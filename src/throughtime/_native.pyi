"""The native engine: runs plans of programs on the CPU."""

from collections.abc import Sequence


class Plan:
    """
    A program made ready for the machine; every call checks what it is given.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], states: Sequence[int], parameters: Sequence[Sequence[int]], reductions: Sequence[Sequence[int]], reverse: bool, one_hot: Sequence[int], initial: Sequence[float]) -> None: ...

    def add_buffer(self, home: str, index: int, width: int, value: float) -> int: ...

    def add_stage(self, phase: str) -> None: ...

    def add_linear(self, parameter: int, transposed: bool, to: tuple[int, int], source: tuple[int, int], start: tuple[int, int] | None, rows: Sequence[int] | None = None) -> None: ...

    def add_operation(self, name: str, width: int, to: tuple[int, int], sources: Sequence[tuple[int, int]]) -> None: ...

    def add_term(self, reduction: int, values: Sequence[tuple[int, int]]) -> None: ...

class Misfit(ValueError):
    pass

def run(plan: Plan, steps: int, inputs: Sequence[object], states: Sequence[object] | None, parameters: Sequence[object], batch_sizes: Sequence[int] | None = None, packed: bool = False, onto: Sequence[object] | None = None, threads: int = 1, isa: str = '') -> tuple:
    """
    Runs a plan on arrays of one library; gives outputs, final states and reductions.
    """

class FrozenPlan:
    """
    A plan with parameters that stay as they are, made ready for many runs.
    """

    def __init__(self, plan: Plan, parameters: Sequence[object], isa: str = '') -> None: ...

    def run(self, steps: int, inputs: Sequence[object], states: Sequence[object] | None, batch_sizes: Sequence[int] | None = None, packed: bool = False, onto: Sequence[object] | None = None, threads: int = 1) -> tuple:
        """The same as `run` of its plan."""

def thinned(x: object, seed: int, kept: float, scale: float, threads: int = 1, isa: str = '') -> object:
    """
    A vector whose elements are each kept with a chance, and scaled, or else 0.
    """

class Stream32:
    """A stack of plans that runs a step at a time, its state inside."""

    def __init__(self, layers: Sequence[tuple[Plan, Sequence[object]]], rows: int, embedding: object | None, isa: str) -> None: ...

    def step(self, x: object | None, out: object | None) -> object:
        """Takes a step's input; gives the last layer's output."""

    def state(self, k: int) -> object:
        """A copy of a state, counted through all layers: [rows, width]."""

    def set_state(self, k: int, value: object) -> None: ...

class Stream64:
    """A stack of plans that runs a step at a time, its state inside."""

    def __init__(self, layers: Sequence[tuple[Plan, Sequence[object]]], rows: int, embedding: object | None, isa: str) -> None: ...

    def step(self, x: object | None, out: object | None) -> object:
        """Takes a step's input; gives the last layer's output."""

    def state(self, k: int) -> object:
        """A copy of a state, counted through all layers: [rows, width]."""

    def set_state(self, k: int, value: object) -> None: ...

def steps_together(rows: int) -> int:
    """
    How many steps of so many rows make a chunk, of which each has sums of its own.
    """

def instruction_sets() -> list[str]:
    """The instruction sets of this machine, best first."""

def operations() -> list[str]:
    """The names of the operations that the machine has, products aside."""

def fma_peak(threads: int, seconds: float = 0.2, isa: str = '') -> float:
    """32-bit FLOP a second that the multiply-add units can do."""

def handover() -> float:
    """
    Seconds until one of two threads sees what the other has written; 0 where there is no second one.
    """

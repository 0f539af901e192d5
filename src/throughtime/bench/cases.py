"""The benchmark's cases. The tests check the results of each case as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from math import isqrt

from throughtime import cells
from throughtime.bench.own_cell import peephole_lstm
from throughtime.errors import UserError, nearest
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.program.counting import products
from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals

FORWARD, TRAINING, STREAMING, PACKED, LONG, TEXT = "forward", "training", "streaming", "packed", "long", "text"
MODES = {
    FORWARD: "Forward: the outputs of all steps",
    TRAINING: "Training step: forward and all gradients",
    STREAMING: "Streaming: one step at a time, from Python",
    PACKED: "Packed batch: a training step with lengths spread evenly from 1 to T",
    LONG: "Long sequences: a training step that keeps the states of every √T steps, compared with one that keeps all",
    TEXT: "Training on text: a step of 2 layers on windows of 50, `throughtime train` compared with a loop in torch",
}
BUILT_IN = ("rnn", "lstm", "gru")
_OWN = {peephole_lstm.name: peephole_lstm}

# Tolerances relative to torch's results. States carry over each step's float32 rounding error of about 1, and gradients
# pass through the steps a second time. On long sequences torch accumulates bias gradients one by one and deviates more
# than the engine, which adds partial sums. On text of random tokens, each contestant trains from its own initial
# weights and reaches the loss of random guessing.
_EPSILON = 2.0**-23
_BOUNDS = {
    FORWARD: 32 * _EPSILON,
    STREAMING: 32 * _EPSILON,
    TRAINING: 64 * _EPSILON,
    PACKED: 64 * _EPSILON,
    LONG: 512 * _EPSILON,
    TEXT: 0.05,
}


@dataclass(frozen=True)
class Case:
    """Unidirectional layers of one size in float32: two layers on text, one elsewhere.

    Attributes:
        mode: one of `MODES`.
        cell: the name of a built-in cell or of the benchmark's own cell.
        batch, hidden, steps: the batch size B, the number of hidden units and the number of steps T.
        features: the number of input features, if it differs from `hidden`.
    """

    mode: str
    cell: str
    batch: int
    hidden: int
    steps: int
    features: int | None = None

    @property
    def name(self) -> str:
        """The name by which `--cases` selects the case."""
        unlike = f"/i{self.features}" if self.input_size != self.hidden else ""
        return f"{self.mode}/{self.cell}/b{self.batch}{unlike}/h{self.hidden}/t{self.steps}"

    @property
    def input_size(self) -> int:
        """The number of input features."""
        return self.features or self.hidden

    @property
    def grid(self) -> str:
        """The name of the grid of sizes to which the case belongs."""
        return EVERYDAY if (self.batch, self.input_size, self.hidden, self.steps) in _EVERYDAY_SIZES else POWERS

    @property
    def shape(self) -> str:
        """A readable description of the size, such as "batch 32, hidden 256, 50 steps"."""
        unlike = f"input {self.input_size}, " if self.input_size != self.hidden else ""
        return f"batch {self.batch}, {unlike}hidden {self.hidden}, {self.steps:,} steps"

    @property
    def is_built_in(self) -> bool:
        """Whether other libraries have the cell built in."""
        return self.cell in BUILT_IN

    @property
    def trains(self) -> bool:
        """Whether gradients are computed."""
        return self.mode in (TRAINING, PACKED, LONG, TEXT)

    @property
    def measures_memory(self) -> bool:
        """Whether memory is measured in addition to time."""
        return self.mode == LONG

    @property
    def checkpoint_every(self) -> int:
        """The interval at which a long run keeps states; √T balances kept states against one segment's residuals."""
        return isqrt(self.steps)

    @property
    def layers(self) -> int:
        """The number of layers."""
        return 2 if self.mode == TEXT else 1

    @property
    def definition(self) -> Cell:
        """The cell."""
        return _OWN[self.cell] if self.cell in _OWN else cells.get(self.cell)

    @property
    def program(self) -> Program:
        """The cell's program."""
        return self.definition.program(self.input_size, self.hidden)

    @property
    def lengths(self) -> list[int]:
        """The number of steps of each sequence, longest first."""
        if self.mode != PACKED:
            return [self.steps] * self.batch
        spread = [1 + (self.steps - 1) * (row + 0.5) / self.batch for row in range(self.batch)]
        return [round(length) for length in reversed(spread)]

    @property
    def bound(self) -> float:
        """The largest allowed deviation from torch's result, relative to the largest element of the array."""
        return _BOUNDS[self.mode]

    @cached_property
    def flops(self) -> int:
        """The number of additions and multiplications in the layers' matrix products, over all steps and sequences."""
        return 2 * self.layers * sum(self.lengths) * sum(map(products, self._programs))

    @property
    def _programs(self) -> Sequence[Program]:
        program = self.program
        if not self.trains:
            return (program,)
        wanted = everything_wanted(program)
        augmented = with_residuals(program, wanted)
        return augmented, gradient(augmented, everything_given(program), wanted).program


def _grid(
    modes: Iterable[str], names: Iterable[str], batches: Iterable[int], sizes: Iterable[int], steps: int = 100
) -> list[Case]:
    return [Case(*of, steps) for of in product(modes, names, batches, sizes)]


POWERS, EVERYDAY = "powers of two", "everyday sizes"
_BATCHES, _SIZES = (1, 8, 32, 64), (32, 64, 128, 256, 512)
# (batch, input, hidden, steps) as in published networks: one feature, word vectors, filter banks, tables, pixels.
_EVERYDAY_SIZES = (
    (1, 1, 48, 200),
    (1, 300, 300, 100),
    (6, 40, 160, 200),
    (6, 650, 1000, 35),
    (20, 200, 200, 35),
    (20, 650, 650, 35),
    (24, 7, 100, 96),
    (24, 300, 320, 50),
    (48, 48, 48, 100),
    (48, 28, 96, 150),
    (48, 300, 200, 70),
    (64, 400, 400, 70),
)
_LONG_STEPS = (25_000, 50_000, 100_000)

CASES: Sequence[Case] = (
    *_grid((FORWARD, TRAINING), (*BUILT_IN, *_OWN), _BATCHES, _SIZES),
    *(
        Case(mode, cell, batch, hidden, steps, features)
        for mode, cell in product((FORWARD, TRAINING), BUILT_IN)
        for batch, features, hidden, steps in _EVERYDAY_SIZES
    ),
    *_grid((STREAMING,), BUILT_IN, (1,), (64, 256), 200),
    *_grid((PACKED,), BUILT_IN, (32,), (64, 256)),
    *(case for steps in _LONG_STEPS for case in _grid((LONG,), ("lstm",), (1, 8), (64,), steps)),
    *(case for steps in _LONG_STEPS for case in _grid((LONG,), ("gru",), (1,), (64,), steps)),
    *_grid((TEXT,), ("lstm", "gru"), (50,), (128,), 50),
)

# Small sizes, and one case of each kind first, because a slow or busy machine may not reach the last ones.
QUICK: Sequence[Case] = (
    *_grid((TRAINING, FORWARD), ("lstm",), (16,), (64,)),
    *_grid((STREAMING,), ("lstm",), (1,), (64,), 200),
    *_grid((PACKED,), ("lstm",), (16,), (64,)),
    *_grid((TRAINING, FORWARD), ("gru", "rnn", *_OWN), (16,), (64,)),
    *_grid((STREAMING,), ("gru", "rnn"), (1,), (64,), 200),
)


def select(cases: Sequence[Case], wanted: Sequence[str]) -> list[Case]:
    """Select cases by name.

    Args:
        cases: the cases to choose from.
        wanted: names of cases, prefixes of names up to a `/`, or patterns with `*`; all cases if empty.

    Raises:
        UserError: if a name matches no case.
    """
    if not wanted:
        return list(cases)
    for name in wanted:
        if not any(_fits(case, name) for case in cases):
            levels = {"/".join(case.name.split("/")[:depth]) for case in cases for depth in range(1, 7)}
            modes = ", ".join(dict.fromkeys(case.mode for case in cases))
            raise UserError(
                f"no case named {name!r}{nearest(name, levels)}; available: {modes}; a single case is named like "
                f"{cases[0].name}, and * matches any text"
            )
    return [case for case in cases if any(_fits(case, name) for name in wanted)]


def _fits(case: Case, name: str) -> bool:
    return fnmatchcase(case.name, name) or fnmatchcase(case.name, f"{name.rstrip('/')}/*")

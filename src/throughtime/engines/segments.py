"""Checkpointed runs of long sequences, which save only the states between segments.

The backward pass runs each segment again with residuals, from the last to the first, so it needs only the memory
of one segment's residuals, but the time of a second forward run (Gruslys et al. 2016, Memory-efficient backpropagation
through time).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from throughtime.engines.base import Engine, Layout, Operands, Result
from throughtime.program.core import Program
from throughtime.program.gradient import Slots, gradient, with_residuals

_Piece = tuple[int, int]  # the first step, and the step after the last


@dataclass(frozen=True)
class Segments:
    """A run divided into segments.

    Attributes:
        engine: the engine that runs it.
        program: the forward program, without residuals.
        layout: the layout of the whole run.
        every: the minimum length of a segment in steps. It is rounded up to a multiple of the engine's `chunk_steps`,
            so that gradients have the same bits as those of an undivided run.
    """

    engine: Engine
    program: Program
    layout: Layout
    every: int

    @property
    def count(self) -> int:
        """The number of segments."""
        return -(-self.layout.steps // self._length)

    def run(self, operands: Operands) -> tuple[Result, list[Tensor]]:
        """Run the forward pass.

        Args:
            operands: the operands, including initial states.

        Returns:
            The result of the whole run, and each state at the start of each segment: `[segments, B, width]`.
        """
        inputs, states, parameters = operands
        assert states is not None
        result = self._empty(self.program, states)
        # Allocated at once, because small tensors between the large ones of each segment would fragment memory.
        starts = [state.new_empty(self.count, *state.shape) for state in states]
        for k, piece in enumerate(self._pieces()):
            for of_state, state in zip(starts, result.states, strict=True):
                of_state[k] = state
            result = self._run(self.program, piece, self._cut(inputs, piece), parameters, result)
        return result, starts

    def run_traceable(self, operands: Operands) -> Result:
        """Run on a traceable engine with torch's own checkpointing."""
        inputs, states, parameters = operands
        assert states is not None
        program, counts = self.program, (len(inputs), len(states))
        parts: list[list[Tensor]] = []
        reductions = [states[0].new_zeros(r.shape) for r in program.reductions]

        def part(piece: _Piece, *tensors: Tensor) -> tuple[Tensor, ...]:
            of_inputs, of_states = tensors[: counts[0]], tensors[counts[0] : sum(counts)]
            of = Operands(of_inputs, of_states, tensors[sum(counts) :])
            result = self.engine.run(program, of, self._layout_of(piece))
            return (*result.outputs, *result.states, *result.reductions)

        for piece in self._pieces():
            given = (*self._cut(inputs, piece), *states, *parameters)
            results = list(checkpoint(part, piece, *given, use_reentrant=False, preserve_rng_state=False))
            parts.append([results.pop(0) for _ in program.outputs])
            states = [results.pop(0) for _ in program.states]
            reductions = [r + more for r, more in zip(reductions, results, strict=True)]
        in_time = parts[::-1] if program.reverse else parts
        return Result([torch.cat(of_output) for of_output in zip(*in_time, strict=True)], list(states), reductions)

    def gradient(self, given: Slots, wanted: Slots, operands: Operands, cotangents: Result) -> Result:
        """Run the backward pass.

        Args:
            given: the outputs, final states and reductions whose gradients are given.
            wanted: the operands whose gradients are needed.
            operands: the operands of the forward run, with the states at the start of each segment as `run` returns
                them.
            cotangents: the gradients of the given outputs, of all final states, and of the given reductions.

        Returns:
            The result of the gradient program.
        """
        inputs, starts, parameters = operands
        assert starts is not None
        augmented = with_residuals(self.program, wanted)
        plan = gradient(augmented, given, wanted)
        weights = [*(parameters[k] for k in plan.parameters), *cotangents.reductions]
        result = self._empty(plan.program, cotangents.states)
        for k, piece in reversed(list(enumerate(self._pieces()))):
            cut = self._cut(inputs, piece)
            of_piece = Operands(cut, [s[k] for s in starts], parameters)
            residuals = self.engine.run(augmented, of_piece, self._layout_of(piece)).outputs
            read = [*(cut[n] for n in plan.inputs), *(residuals[n] for n in plan.residuals)]
            result = self._run(plan.program, piece, [*read, *self._cut(cotangents.outputs, piece)], weights, result)
        return result

    @property
    def _length(self) -> int:
        chunk = self.engine.chunk_steps(self.layout.rows)
        return -(-max(self.every, 1) // chunk) * chunk

    def _pieces(self) -> Iterator[_Piece]:
        """Return the segments in forward order; the first one takes the remainder."""
        length, steps = self._length, self.layout.steps
        for k in range(self.count - 1, -1, -1):
            begin, end = k * length, min((k + 1) * length, steps)
            yield (begin, end) if self.program.reverse else (steps - end, steps - begin)

    @cached_property
    def _active_before(self) -> list[int]:
        return [0, *accumulate(self.layout.batch_sizes or ())]

    def _layout_of(self, piece: _Piece) -> Layout:
        start, stop = piece
        _, rows, sizes, packed, *_ = self.layout
        return Layout(stop - start, rows, None if sizes is None else sizes[start:stop], packed)

    def _cut(self, arrays: Sequence[Tensor], piece: _Piece) -> list[Tensor]:
        start, stop = (self._active_before[t] for t in piece) if self.layout.packed else piece
        return [array[start:stop] for array in arrays]

    def _empty(self, program: Program, states: Sequence[Tensor]) -> Result:
        """Return the initial result, before the first segment."""
        like = states[0]
        shapes = [self.layout.shape(program.body[output.value].width) for output in program.outputs]
        outputs = [like.new_empty(shape) for shape in shapes]
        return Result(outputs, list(states), [like.new_zeros(r.shape) for r in program.reductions])

    def _run(
        self, program: Program, piece: _Piece, inputs: list[Tensor], parameters: Sequence[Tensor], before: Result
    ) -> Result:
        """Run one segment and return the updated result."""
        of_piece = Operands(inputs, before.states, parameters)
        result = self.engine.run(program, of_piece, self._layout_of(piece), accumulate_into=before.reductions)
        for whole, part in zip(self._cut(before.outputs, piece), result.outputs, strict=True):
            whole.copy_(part)
        return result._replace(outputs=before.outputs)

"""A long run in segments, of which only the states between them are kept.

Going backward, each segment is run again with its tape, from the last one to the first: the memory of one segment's
tape for a second forward run (Gruslys et al. 2016, Memory-efficient backpropagation through time).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from throughtime.engines.base import Engine, Result
from throughtime.program.core import Program
from throughtime.program.gradient import Slots, gradient, with_tape

_Piece = tuple[int, int]  # from which step to which


@dataclass(frozen=True)
class Segments:
    """A run that is done in segments.

    Attributes:
        engine: who runs.
        program: the forward program, without a tape.
        steps, batch_sizes, packed: of the whole run; see `Engine.run`.
        every: the least number of steps of a segment. It is made a multiple of the steps whose sums the engine does
            together, so that the gradients have the same bits as those of the whole run.
    """

    engine: Engine
    program: Program
    steps: int
    batch_sizes: Sequence[int] | None
    packed: bool
    every: int

    def count(self, rows: int) -> int:
        """The number of segments."""
        return -(-self.steps // self._length(rows))

    def run(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> tuple[Result, list[Tensor]]:
        """Runs forward.

        Returns:
            What the whole run gives, and of each state what the segments start with: `[segments, B, width]`.
        """
        result = self._begun(self.program, states)
        # All at once: what is kept of each segment, amid what it lets go, would leave gaps that no next one fits into.
        starts = [state.new_empty(self.count(len(state)), *state.shape) for state in states]
        for k, piece in enumerate(self._pieces(len(states[0]))):
            for of_state, state in zip(starts, result.states, strict=True):
                of_state[k] = state
            result = self._run(self.program, piece, self._cut(inputs, piece), parameters, result)
        return result, starts

    def run_transparent(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> Result:
        """Runs on an engine that torch's autograd sees through, by torch's own checkpoints."""
        program, counts = self.program, (len(inputs), len(states))
        parts: list[list[Tensor]] = []
        reductions = [states[0].new_zeros(r.shape) for r in program.reductions]

        def part(piece: _Piece, *tensors: Tensor) -> tuple[Tensor, ...]:
            of_inputs, of_states = tensors[: counts[0]], tensors[counts[0] : sum(counts)]
            result = self._engine_run(program, piece, of_inputs, of_states, tensors[sum(counts) :])
            return (*result.outputs, *result.states, *result.reductions)

        for piece in self._pieces(len(states[0])):
            given = (*self._cut(inputs, piece), *states, *parameters)
            results = list(checkpoint(part, piece, *given, use_reentrant=False, preserve_rng_state=False))
            parts.append([results.pop(0) for _ in program.outputs])
            states = [results.pop(0) for _ in program.states]
            reductions = [r + more for r, more in zip(reductions, results, strict=True)]
        in_time = parts[::-1] if program.reverse else parts
        return Result([torch.cat(of_output) for of_output in zip(*in_time, strict=True)], list(states), reductions)

    def gradient(
        self,
        given: Slots,
        wanted: Slots,
        inputs: Sequence[Tensor],
        starts: Sequence[Tensor],
        parameters: Sequence[Tensor],
        cotangents: Result,
    ) -> Result:
        """Runs backward.

        Args:
            given: which outputs, final states and reductions come with a gradient.
            wanted: which gradients are asked for.
            inputs, parameters: of the forward run.
            starts: what the segments start with, as `run` gives it.
            cotangents: the gradients of the given outputs, of all final states, and of the given reductions.

        Returns:
            What a run of the gradient program gives.
        """
        taped = with_tape(self.program, wanted)
        plan = gradient(taped, given, wanted)
        weights = [*(parameters[k] for k in plan.parameters), *cotangents.reductions]
        result = self._begun(plan.program, cotangents.states)
        pieces = list(enumerate(self._pieces(len(starts[0][0]))))
        for k, piece in reversed(pieces):
            cut = self._cut(inputs, piece)
            tape = self._engine_run(taped, piece, cut, [s[k] for s in starts], parameters).outputs
            read = [*(cut[n] for n in plan.inputs), *(tape[n] for n in plan.tape)]
            result = self._run(plan.program, piece, [*read, *self._cut(cotangents.outputs, piece)], weights, result)
        return result

    def _length(self, rows: int) -> int:
        together = self.engine.steps_together(rows)
        return -(-max(self.every, 1) // together) * together

    def _pieces(self, rows: int) -> Iterator[_Piece]:
        """The segments, in the order in which a forward run does them; what is left over makes the first."""
        length, steps = self._length(rows), self.steps
        for k in range(self.count(rows) - 1, -1, -1):
            begin, end = k * length, min((k + 1) * length, steps)
            yield (begin, end) if self.program.reverse else (steps - end, steps - begin)

    @cached_property
    def _active_before(self) -> list[int]:
        return [0, *accumulate(self.batch_sizes or ())]

    def _cut(self, arrays: Sequence[Tensor], piece: _Piece) -> list[Tensor]:
        start, stop = (self._active_before[t] for t in piece) if self.packed else piece
        return [array[start:stop] for array in arrays]

    def _begun(self, program: Program, states: Sequence[Tensor]) -> Result:
        """What a run gives when no step is done yet."""
        like = states[0]
        sequence = (self._active_before[-1],) if self.packed else (self.steps, len(like))
        outputs = [like.new_empty(*sequence, program.body[output.value].width) for output in program.outputs]
        return Result(outputs, list(states), [like.new_zeros(r.shape) for r in program.reductions])

    def _run(
        self, program: Program, piece: _Piece, inputs: list[Tensor], parameters: Sequence[Tensor], before: Result
    ) -> Result:
        """Goes on by a segment from what there is before it."""
        result = self._engine_run(program, piece, inputs, before.states, parameters, before.reductions)
        for whole, part in zip(self._cut(before.outputs, piece), result.outputs, strict=True):
            whole.copy_(part)
        return result._replace(outputs=before.outputs)

    def _engine_run(
        self,
        program: Program,
        piece: _Piece,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        onto: Sequence[Tensor] | None = None,
    ) -> Result:
        start, stop = piece
        sizes = None if self.batch_sizes is None else self.batch_sizes[start:stop]
        return self.engine.run(program, stop - start, inputs, states, parameters, sizes, packed=self.packed, onto=onto)

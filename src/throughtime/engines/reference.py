"""The reference engine: a loop over time that runs the torch operations of the operations table.

It is slow and simple. It runs on any device and supports derivatives of any order and mode, so other engines are tested
against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.engines.base import Layout, Operands, Result, declared_states
from throughtime.errors import UserError
from throughtime.program.core import CONSTANT, INPUT, PARAMETER, PREVIOUS, Instruction, Program
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS
from throughtime.program.phases import Phase, phases


class ReferenceEngine:
    """An engine that runs programs as torch operations.

    Args:
        calls: functions that replace operations, by the index of the value in a program's body. Each takes the tensor
            of the operation's first argument, `[rows, width]` (`[width]` if it is the same at all steps and rows), and
            returns a tensor of the same shape.
    """

    name = "reference"
    traceable = True
    supports_one_hot = False

    def __init__(self, calls: Mapping[int, Callable[[Tensor], Any]] | None = None) -> None:
        self.calls = calls or {}

    def refuses(self, program: Program, like: Tensor) -> str | None:
        """Return None, because this engine runs every program."""
        return None

    def run(
        self,
        program: Program,
        operands: Operands,
        layout: Layout,
        *,
        accumulate_into: Sequence[Tensor] | None = None,
    ) -> Result:
        """See `throughtime.engines.base.Engine.run`."""
        if operands.states is None:
            operands = operands._replace(states=declared_states(program, operands, layout))
        result = _Run(require_legal(program), operands, layout, self.calls).result()
        if accumulate_into is None:
            return result
        sums = zip(accumulate_into, result.reductions, strict=True)
        return result._replace(reductions=[total.add_(r) for total, r in sums])

    def chunk_steps(self, rows: int) -> int:
        """See `throughtime.engines.base.Engine.chunk_steps`; this engine sums step by step."""
        return 1


class _Run:
    def __init__(
        self, program: Program, operands: Operands, layout: Layout, calls: Mapping[int, Callable[[Tensor], Any]]
    ) -> None:
        self.program, self.calls, self.layout = program, calls, layout
        self.inputs: Sequence[Tensor] = operands.inputs
        self.parameters: Sequence[Tensor] = operands.parameters
        self.initial: list[Tensor] = list(operands.states or ())
        self.like = self.initial[0]
        self.steps, self.rows = layout.steps, layout.rows
        # The number of active sequences at each step. If all are always active, packing is a view.
        self.sizes = [self.rows] * self.steps if layout.batch_sizes is None else list(layout.batch_sizes)
        self.even = all(n == self.rows for n in self.sizes)
        self.phases = phases(program)
        # The tensor of each value: [width] if static, [rows, width] in a step, and packed [N, width] before or after
        # the loop, with the active rows of the first step, then those of the second, and so on. Padding never enters a
        # computation.
        self.values: list[Tensor | None] = [None] * len(program.body)

    def result(self) -> Result:
        self._compute(Phase.STATIC)
        self._compute(Phase.BEFORE)
        final = self._loop()
        self._compute(Phase.AFTER)
        outputs = [self._unpacked(self._everywhere(output.value)) for output in self.program.outputs]
        reductions = [self._reduction(r.shape, r.terms) for r in self.program.reductions]
        return Result(outputs, final, reductions)

    def _compute(self, phase: Phase) -> None:
        for id, instruction in enumerate(self.program.body):
            if self.phases[id] is phase:
                self.values[id] = self._operation(id, instruction, self.values)

    def _operation(self, id: int, instruction: Instruction, values: Sequence[Tensor | None]) -> Tensor:
        if id in self.calls:
            return _called(self.calls[id], _given(values[instruction.args[0]]))
        if instruction.op == INPUT:
            k = int(instruction["index"])
            if self.program.inputs[k].one_hot:
                tokens = self._packed(self.inputs[k].unsqueeze(-1)).squeeze(-1)
                return functional.one_hot(tokens, instruction.width).to(self.like.dtype)
            return self._packed(self.inputs[k])
        if instruction.op == PARAMETER:
            return self.parameters[int(instruction["index"])]
        if instruction.op == CONSTANT:
            value = instruction["value"]
            if abs(value) > torch.finfo(self.like.dtype).max:  # which torch rejects
                value = math.copysign(math.inf, value)
            return self.like.new_full((instruction.width,), value)
        attributes = dict(instruction.attributes)
        if "weight" in attributes:
            attributes["weight"] = self.parameters[instruction["weight"]]
        operation = OPERATIONS[instruction.op]
        if operation.takes_width:
            attributes["width"] = instruction.width
        result: Tensor = operation.meaning(torch, *(values[a] for a in instruction.args), **attributes)
        return result

    def _loop(self) -> list[Tensor]:
        """Run the loop, store all steps of the values needed after it, and return the final states."""
        program, phases = self.program, self.phases
        step = [(id, i) for id, i in enumerate(program.body) if phases[id] is Phase.STEP]
        read = {arg for _, i in step for arg in i.args} | {s.next for s in program.states}
        # Unbound in one call, because the gradient of each slice alone would be a full-size tensor of zeros.
        sliced = {id: torch.split(v, self.sizes) for id, v in enumerate(self.values) if id in read and _has_rows(v)}
        kept = self._kept()
        history: dict[int, list[Tensor]] = {id: [] for id in kept}
        rows = _Rows(self.initial)
        times = range(self.steps - 1, -1, -1) if program.reverse else range(self.steps)
        values = list(self.values)
        for t in times:
            rows.resize(self.sizes[t])
            for id, tensors in sliced.items():
                values[id] = tensors[t]
            for id, instruction in step:
                if instruction.op == PREVIOUS:
                    values[id] = rows.states[instruction["index"]]
                else:
                    values[id] = self._operation(id, instruction, values)
            for id in kept:
                history[id].append(_given(values[id]))
            rows.states = [_given(values[s.next]).expand(self.sizes[t], -1) for s in program.states]
        for id, of_steps in history.items():
            if program.reverse:
                of_steps.reverse()
            self.values[id] = torch.cat(of_steps) if of_steps else self.like.new_zeros(0, program.body[id].width)
        rows.resize(self.rows)
        return rows.states

    def _kept(self) -> list[int]:
        program, phases = self.program, self.phases
        after = {o.value for o in program.outputs}
        after |= {v for r in program.reductions for term in r.terms for v in term}
        after |= {a for id, i in enumerate(program.body) if phases[id] is Phase.AFTER for a in i.args}
        return sorted(id for id in after if phases[id] is Phase.STEP)

    def _packed(self, value: Tensor) -> Tensor:
        """Return the active rows of all steps of an input."""
        if self.layout.packed:
            return value
        if self.even:
            return value.reshape(self.steps * self.rows, value.shape[-1])
        return torch.cat([value[t, :n] for t, n in enumerate(self.sizes)])

    def _everywhere(self, id: int) -> Tensor:
        """Return a packed value, expanded if it is static."""
        value = _given(self.values[id])
        return value.expand(sum(self.sizes), -1)

    def _unpacked(self, value: Tensor) -> Tensor:
        """Return a packed value in the layout of the outputs, 0 where a row is inactive."""
        if self.layout.packed:
            return value
        if self.even:
            return value.reshape(self.steps, self.rows, value.shape[-1])
        steps = torch.split(value, self.sizes)
        return torch.stack([torch.cat([v, v.new_zeros(self.rows - len(v), v.shape[1])]) for v in steps])

    def _reduction(self, shape: tuple[int, ...], terms: tuple[tuple[int, ...], ...]) -> Tensor:
        total = self.like.new_zeros(shape)
        for term in terms:
            values = [self._everywhere(id) for id in term]
            total = total + (values[0].sum(0) if len(values) == 1 else values[0].T @ values[1])
        return total


def _called(function: Callable[[Tensor], Any], value: Tensor) -> Tensor:
    result = function(value)
    if not isinstance(result, Tensor) or result.shape != value.shape:
        shown = f"shape {list(result.shape)}" if isinstance(result, Tensor) else repr(result)
        raise UserError(f"the function of an edit must return a tensor of shape {list(value.shape)}, got {shown}")
    return result


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _has_rows(value: Tensor | None) -> TypeGuard[Tensor]:
    return value is not None and value.dim() == 2


class _Rows:
    """The states of the active rows, and a stack of the states of inactive rows."""

    def __init__(self, states: list[Tensor]) -> None:
        self.states = states
        self._waiting: list[list[Tensor]] = []

    def resize(self, rows: int) -> None:
        """Make the first `rows` rows active."""
        while (now := self.states[0].shape[0]) != rows:
            if rows < now:
                self._waiting.append([s[rows:] for s in self.states])
                self.states = [s[:rows] for s in self.states]
                continue
            joined = [torch.cat(pair) for pair in zip(self.states, self._waiting.pop(), strict=True)]
            self.states = joined  # the next iteration removes excess rows

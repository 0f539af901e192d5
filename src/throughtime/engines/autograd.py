"""Differentiable runs for torch's autograd.

The derivative of a run is a run of the gradient program, so derivatives of any order run on the same engine. For
example, a second derivative is a run of the gradient of the gradient program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.engines import get, log_fallback
from throughtime.engines.base import Engine, Layout, Operands, Result, declared_states
from throughtime.engines.batching import is_batched, one_by_one
from throughtime.engines.capture import are_plain, has_tangent, is_graph_captured, is_transformed, needs_traceable
from throughtime.engines.segments import Segments
from throughtime.engines.taps import Tap
from throughtime.errors import UserError
from throughtime.program.core import Program
from throughtime.program.gradient import Gradient, Slots, gradient, with_residuals
from throughtime.program.recording import with_outputs

_requires_grad = attrgetter("requires_grad")


class Pass(NamedTuple):
    """A forward or backward pass: all arguments of a run except its tensors.

    Attributes:
        engine: the engine that runs it.
        program: the program to run.
        layout: the layout of sequences in inputs and outputs.
        segment_steps: the length of a segment for checkpointing long sequences. Only the states between segments are
            saved (the engine may round the length up), and the backward pass recomputes each segment. Gradients are
            bitwise the same. Second derivatives and taps still need the full memory. None saves all residuals.
        tap: the values to expose in addition to the result.
        own_outputs: the number of outputs before the residuals; all outputs if None.
    """

    engine: Engine
    program: Program
    layout: Layout
    segment_steps: int | None = None
    tap: Tap | None = None
    own_outputs: int | None = None

    def run(self, operands: Operands, *, plain: bool = False) -> Result:
        """Run the program differentiably.

        Args:
            operands: the tensors.
            plain: whether the inputs and states are known to be plain tensors, which any engine can read; see
                `throughtime.engines.capture.needs_traceable`.

        Raises:
            UserError: if a run with a tap is transformed by torch.func, or `segment_steps` is not positive.
        """
        segment = self.segment_steps
        if segment is not None and segment < 1:
            raise UserError(f"checkpoint_every must be a positive number of steps, got {segment!r}")
        segmented = segment is not None and segment < self.layout.steps and self.tap is None
        if self.engine.traceable and self.tap is None and not segmented:
            return self.execute(operands)
        tensors = operands.tensors
        if self.tap is not None and is_transformed(tensors):
            raise UserError(
                "recording is not supported under vmap, jvp, torch.func or forward-mode AD; record a plain run instead"
            )
        this = self if segmented or segment is None else self._replace(segment_steps=None)
        if not this.engine.traceable and is_graph_captured() and not is_transformed(tensors):
            return this.run_as_operator(this.with_states(operands))
        parameters = operands.parameters
        vectors = tensors[: len(tensors) - len(parameters)]
        known = plain and are_plain(parameters) and not has_tangent(parameters)
        if not (known or this.engine.traceable) and needs_traceable(vectors, parameters):
            this = this.on_torch(tensors)
        if not (torch.is_grad_enabled() and any(map(_requires_grad, tensors))):
            return this.execute(operands)
        # Autograd can differentiate a traceable engine, but not return gradients of the values of each step.
        if this.engine.traceable and not (this.tap and this.tap.gradients):
            if segmented and not is_transformed(tensors):  # torch's checkpointing doesn't support transforms
                return this.segments.run_traceable(this.with_states(operands))
            return this.execute(operands)
        return this.differentiable(this.with_states(operands) if segmented else operands, as_operator=False)

    def execute(self, operands: Operands) -> Result:
        """Run the program on the engine without autograd, and pass tapped values to the tap."""
        if self.tap is None:
            return self.engine.run(self.program, operands, self.layout)
        program, found = with_outputs(self.program, self.tap.values, self.own)
        result = self.engine.run(program, operands, self.layout)
        self.tap.take(result.outputs, found)
        return result._replace(outputs=result.outputs[: len(self.program.outputs)])

    def run_as_operator(self, operands: Operands) -> Result:
        """Run the program as a single operator of a captured graph."""
        found = torch.ops.throughtime.run(*self.signature, *map(list, operands))  # type: ignore[arg-type]
        return split(found, len(self.program.outputs), len(self.program.states))

    def on_torch(self, tensors: Sequence[Tensor]) -> Pass:
        """Return the same pass on a traceable engine, chosen for these tensors."""
        if self.engine.traceable:
            return self
        fused = get("torch")
        # torch can't vmap its own recurrent layers.
        if not is_transformed(tensors) and self.tap is None and fused.refuses(self.program, tensors[0]) is None:
            return self._replace(engine=fused)
        log_fallback(f"torch's transforms, tracers and dispatch modes don't support the {self.engine.name} engine")
        return self._replace(engine=get("reference"))

    def differentiable(self, operands: Operands, *, as_operator: bool, closed: bool = False) -> Result:
        """Run the program as an autograd function.

        Args:
            operands: the tensors. States are required with segments and for operators.
            as_operator: whether runs are operators in a captured graph.
            closed: whether derivatives of every order go through this run; if not, the second derivative repeats the
                forward run.
        """
        program = self.program
        if self.segment_steps is not None:
            given: tuple[Tensor, ...] = _InSegments.apply(self, as_operator, *operands.tensors)  # type: ignore[no-untyped-call]
            return split(given, self.own, len(program.states))
        inputs, states, _ = operands
        tensors = operands.tensors
        wanted = slots(len(inputs), len(states or ()), tuple(map(_requires_grad, tensors)))
        augmented = Pass(
            self.engine, with_residuals(program, wanted, self.tapped), self.layout, None, self.tap, self.own
        )
        # A tap must receive its values only once, so a run with a tap must not be repeated.
        closed = closed or self.tap is not None
        given = _Run.apply(augmented, as_operator, closed, *tensors)  # type: ignore[no-untyped-call]
        every = split(given, len(given) - len(program.states) - len(program.reductions), len(program.states))
        return every if len(every.outputs) == self.own else every._replace(outputs=every.outputs[: self.own])

    def with_states(self, operands: Operands) -> Operands:
        """Fill in the initial states that the program declares, if the operands have none."""
        if operands.states is not None:
            return operands
        return operands._replace(states=declared_states(self.program, operands, self.layout))

    def backward(self, plan: Gradient) -> Pass:
        """Return the pass of the gradient program."""
        tap = None
        if self.tap is not None and self.tap.gradients:
            gradient_of = dict(zip(self.tapped, plan.seen, strict=True))
            slices = tuple(s._replace(value=gradient_of[s.value]) for s in self.tap.gradients)
            tap = Tap(slices, self.tap.receive_gradients)
        return Pass(self.engine, plan.program, self.layout, self.segment_steps, tap)

    def fakes(self, program: Program, like: Tensor) -> list[Tensor]:
        """Return uninitialized results of a program over this layout; `like` is a state."""
        shapes = [self.layout.shape(program.body[o.value].width) for o in program.outputs]
        shapes += [(like.shape[0], state.width) for state in program.states]
        return [like.new_empty(shape) for shape in (*shapes, *(r.shape for r in program.reductions))]

    @property
    def own(self) -> int:
        """The number of outputs that are not residuals."""
        return len(self.program.outputs) if self.own_outputs is None else self.own_outputs

    @property
    def signature(self) -> tuple[str, str, int, Sequence[int] | None, bool, int | None]:
        """The arguments that precede the tensors in every operator."""
        steps, _, batch_sizes, packed, *_ = self.layout
        return self.engine.name, self.program.text, steps, batch_sizes, packed, self.segment_steps

    @property
    def segments(self) -> Segments:
        """The pass divided into segments."""
        assert self.segment_steps is not None
        return Segments(self.engine, self.program, self.layout, self.segment_steps)

    @property
    def tapped(self) -> tuple[int, ...]:
        """The values whose gradients are tapped."""
        return () if self.tap is None else tuple(dict.fromkeys(s.value for s in self.tap.gradients))


class _Run(torch.autograd.Function):
    """A run with residuals. In a closed run they are results and so have derivatives; otherwise they are only saved."""

    @staticmethod
    def forward(ctx: Any, this: Pass, as_operator: bool, closed: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        operands = _operands(this.program, tensors)
        if as_operator:
            with torch._C._AutoDispatchBelowAutograd():
                result = this.run_as_operator(operands)
        else:
            result = this.execute(operands)
        ctx.set_materialize_grads(False)
        ctx.run = this, as_operator, closed
        ctx.save_for_backward(*tensors, *result.outputs)
        return (*result.outputs[: None if closed else this.own], *result.states, *result.reductions)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # The forward pass has checked the operands, so only the gradients may be other than plain tensors.
        opaque = not needs_traceable(_present(gradients))
        if not opaque and is_batched(gradients):
            return tuple(one_by_one(lambda of_one: _Run.backward(ctx, *of_one), gradients))
        this, as_operator, closed = ctx.run
        program, needed, saved = this.program, ctx.needs_input_grad[3:], ctx.saved_tensors
        operands = _operands(program, saved[: len(needed)])
        if torch.is_grad_enabled() and not closed:
            return None, None, None, *_again(this, operands, gradients, needed, as_operator)
        inputs, states, parameters = operands
        outputs, of_outputs = saved[len(needed) :], len(program.outputs) if closed else this.own
        given, cotangents = _cotangents(gradients, of_outputs, len(program.states))
        wanted = slots(len(inputs), len(states or ()), needed)
        plan = gradient(program, given, wanted, this.tapped)
        taken = [
            *[inputs[k] for k in plan.inputs],
            *[outputs[k] for k in plan.residuals],
            *_present(cotangents.outputs),
        ]
        weights = [*[parameters[k] for k in plan.parameters], *_present(cotangents.reductions)]
        # Otherwise the engine creates them, which is faster, but it must see the batch size, including sequences
        # without steps.
        fill = given.states or as_operator or not taken or (states is not None and this.layout.packed)
        of_states = _filled(this, cotangents.states, operands) if fill else None
        back, reads = this.backward(plan), Operands(taken, of_states, weights)
        if as_operator:
            result = back.run_as_operator(reads)
        elif torch.is_grad_enabled():
            result = back.run(reads)
        else:
            result = (back if opaque else back.on_torch(reads.tensors)).execute(reads)
        return None, None, None, *_in_order(wanted, result, len(inputs), len(states or ()), len(parameters))


class _InSegments(torch.autograd.Function):
    """A run that saves only the states between its segments."""

    @staticmethod
    def forward(ctx: Any, this: Pass, as_operator: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        program = this.program
        operands = _operands(program, tensors)
        if as_operator:
            with torch._C._AutoDispatchBelowAutograd():
                found = torch.ops.throughtime.run_in_segments(*this.signature, *map(list, operands))  # type: ignore[arg-type]
        else:
            result, starts = this.segments.run(operands)
            found = [*flat(result), *starts]
        last = len(found) - len(program.states)
        ctx.set_materialize_grads(False)
        ctx.run = this, as_operator
        ctx.save_for_backward(*tensors, *found[last:])
        return tuple(found[:last])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        opaque = not needs_traceable(_present(gradients))
        if not opaque and is_batched(gradients):
            return tuple(one_by_one(lambda of_one: _InSegments.backward(ctx, *of_one), gradients))
        this, as_operator = ctx.run
        needed, saved = ctx.needs_input_grad[2:], ctx.saved_tensors
        operands, starts = _operands(this.program, saved[: len(needed)]), saved[len(needed) :]
        inputs, _, parameters = operands
        if torch.is_grad_enabled() or not (opaque or as_operator):
            whole = this._replace(segment_steps=None)
            return None, None, *_again(whole, operands, gradients, needed, as_operator)
        given, cotangents = _cotangents(gradients, this.own, len(starts))
        wanted = slots(len(inputs), len(starts), needed)
        of_states = _filled(this, cotangents.states, operands)
        cotangents = Result(_present(cotangents.outputs), of_states, _present(cotangents.reductions))
        reads = operands._replace(states=starts)
        if as_operator:
            flags = [g is not None for g in gradients]
            found = torch.ops.throughtime.gradient_in_segments(
                *this.signature, inputs, starts, parameters, flat(cotangents), flags, needed
            )
            result = split(found, len(wanted.vectors), len(starts))
        else:
            result = this.segments.gradient(given, wanted, reads, cotangents)
        return None, None, *_in_order(wanted, result, len(inputs), len(starts), len(parameters))


def _again(
    this: Pass,
    operands: Operands,
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
    as_operator: bool,
) -> list[Tensor | None]:
    """Compute differentiable gradients by repeating the forward run with `closed=True` (see `Pass.differentiable`).

    Args:
        this, operands, as_operator: the run.
        gradients: the gradients of its results.
        needed: which of its operands need gradients.
    """
    # Through views: an operand may have been computed from another one, and that path isn't part of this run.
    inputs, given, parameters = ([t.view_as(t) for t in of or ()] for of in operands)
    renamed = Operands(inputs, None if operands.states is None else given, parameters)
    plain = this._replace(program=without_residuals(this.program, this.own), own_outputs=None)
    whole = plain.differentiable(renamed, as_operator=as_operator, closed=True)
    pairs = [(r, g) for r, g in zip(flat(whole), gradients, strict=True) if g is not None]
    results, weights = [r for r, _ in pairs], [g for _, g in pairs]
    sources = [t for t, needs in zip(renamed.tensors, needed, strict=True) if needs]
    found = iter(torch.autograd.grad(results, sources, weights, create_graph=True, allow_unused=True))
    return [next(found) if needs else None for needs in needed]


def _cotangents(gradients: Sequence[Tensor | None], outputs: int, states: int) -> tuple[Slots, Result]:
    """Return the indices of results with a gradient, and the gradients split by kind (None where missing)."""
    return slots(outputs, states, tuple([g is not None for g in gradients])), split(gradients, outputs, states)


def _filled(this: Pass, gradients: Sequence[Tensor | None], operands: Operands) -> list[Tensor]:
    """Return the gradients of all final states; zeros where missing."""
    states = this.with_states(operands).states or ()
    return [torch.zeros_like(s) if g is None else g for s, g in zip(states, gradients, strict=True)]


def _present(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    return [g for g in gradients if g is not None]


def _in_order(wanted: Slots, result: Result, inputs: int, states: int, parameters: int) -> list[Tensor | None]:
    """Return the results of the gradient program, in the order of the forward run's operands."""
    found: list[Tensor | None] = [None] * (inputs + states + parameters)
    for k, g in zip(wanted.vectors, result.outputs, strict=True):
        found[k] = g
    for k in wanted.states:
        found[inputs + k] = result.states[k]
    for k, g in zip(wanted.arrays, result.reductions, strict=True):
        found[inputs + states + k] = g
    return found


def _operands(program: Program, tensors: Sequence[Tensor]) -> Operands:
    """Convert a flat tuple of tensors to operands; the inverse of `Operands.tensors`."""
    inputs, parameters = len(program.inputs), len(program.parameters)
    end = len(tensors) - parameters
    states = None if inputs == end and program.states else list(tensors[inputs:end])
    return Operands(list(tensors[:inputs]), states, list(tensors[end:]))


def split(tensors: Sequence[Any], vectors: int, states: int) -> Result:
    """Split a flat sequence of tensors into outputs, states and reductions."""
    return Result(list(tensors[:vectors]), list(tensors[vectors : vectors + states]), list(tensors[vectors + states :]))


def flat(result: Result) -> list[Tensor]:
    """Return a result's tensors as a flat list; the inverse of `split`."""
    return [*result.outputs, *result.states, *result.reductions]


@lru_cache(maxsize=512)
def without_residuals(program: Program, own: int) -> Program:
    """Return the program with only its first `own` outputs."""
    return replace(program, outputs=program.outputs[:own])


@lru_cache(maxsize=1024)
def slots(vectors: int, states: int, flags: tuple[bool, ...]) -> Slots:
    """Return the indices of set flags, split into vectors, states and arrays."""
    return Slots(*(tuple(k for k, flag in enumerate(of) if flag) for of in split(flags, vectors, states)))

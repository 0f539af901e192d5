"""A run as a function that torch's autograd knows.

The derivative of a run is a run of the gradient program, so a run is closed under differentiation: a second derivative
is the gradient program's gradient program, on the same engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.engines import get, say_once
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
    """A forward or backward pass: all that a run takes except its tensors.

    Attributes:
        engine: what runs it.
        program: what is run.
        layout: how the sequences lie in inputs and outputs.
        segment_steps: keeps the states after every so many steps (or some more, as it suits the engine) instead of all
            residuals, and runs each segment forward again for the gradient: for long sequences. Gradients are the same
            bits. A second derivative, and what is tapped, need the memory all the same. None keeps all residuals.
        tap: what is handed out beside the result.
        own_outputs: the number of the program's first outputs that are not residuals; all if None.
    """

    engine: Engine
    program: Program
    layout: Layout
    segment_steps: int | None = None
    tap: Tap | None = None
    own_outputs: int | None = None

    def run(self, operands: Operands, *, plain: bool = False) -> Result:
        """Run the program, with its derivatives known to torch.

        Args:
            operands: the tensors.
            plain: whether any engine may run on the inputs and states, as far as is known; see
                `throughtime.engines.capture.needs_traceable`.

        Raises:
            UserError: if something is tapped under a transform of torch.func, or segments have no steps.
        """
        segment = self.segment_steps
        if segment is not None and segment < 1:
            raise UserError(f"checkpoint_every must be a positive number of steps, got {segment!r}.")
        segmented = segment is not None and segment < self.layout.steps and self.tap is None
        if self.engine.traceable and self.tap is None and not segmented:
            return self.execute(operands)
        tensors = operands.tensors
        if self.tap is not None and is_transformed(tensors):
            raise UserError(
                "nothing can be recorded under vmap, jvp, torch.func or forward-mode derivatives: record a plain run."
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
        # Autograd follows a traceable engine, but not to a gradient of the values of each step.
        if this.engine.traceable and not (this.tap and this.tap.gradients):
            if segmented and not is_transformed(tensors):  # torch's checkpoints know no transforms
                return this.segments.run_traceable(this.with_states(operands))
            return this.execute(operands)
        return this.differentiable(this.with_states(operands) if segmented else operands, as_operator=False)

    def execute(self, operands: Operands) -> Result:
        """Run the program on the engine itself, of which torch knows nothing; tapped."""
        if self.tap is None:
            return self.engine.run(self.program, operands, self.layout)
        program, found = with_outputs(self.program, self.tap.values, self.own)
        result = self.engine.run(program, operands, self.layout)
        self.tap.take(result.outputs, found)
        return result._replace(outputs=result.outputs[: len(self.program.outputs)])

    def run_as_operator(self, operands: Operands) -> Result:
        """Run the program as an operator, which a graph holds whole."""
        found = torch.ops.throughtime.run(*self.signature, *map(list, operands))  # type: ignore[arg-type]
        return split(found, len(self.program.outputs), len(self.program.states))

    def on_torch(self, tensors: Sequence[Tensor]) -> Pass:
        """The same pass on a traceable engine, for these tensors."""
        if self.engine.traceable:
            return self
        fused = get("torch")
        # torch has no rule to vectorize its own layers.
        if not is_transformed(tensors) and self.tap is None and fused.refuses(self.program, tensors[0]) is None:
            return self._replace(engine=fused)
        say_once(f"transforms, tracers and dispatch modes of torch cannot see into the {self.engine.name} engine")
        return self._replace(engine=get("reference"))

    def differentiable(self, operands: Operands, *, as_operator: bool, closed: bool = False) -> Result:
        """Run the program so that autograd knows its gradient.

        Args:
            operands: its tensors. States are needed in segments and as an operator.
            as_operator: whether runs are operators in a graph.
            closed: whether derivatives of every order go through this run; if not, the second one runs forward again.
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
        # What is tapped is handed out once, so a run with a tap is not repeated.
        closed = closed or self.tap is not None
        given = _Run.apply(augmented, as_operator, closed, *tensors)  # type: ignore[no-untyped-call]
        every = split(given, len(given) - len(program.states) - len(program.reductions), len(program.states))
        return every if len(every.outputs) == self.own else every._replace(outputs=every.outputs[: self.own])

    def with_states(self, operands: Operands) -> Operands:
        """The operands with the initial states that the program declares, if they have none."""
        if operands.states is not None:
            return operands
        return operands._replace(states=declared_states(self.program, operands, self.layout))

    def backward(self, plan: Gradient) -> Pass:
        """The pass of the gradient program."""
        tap = None
        if self.tap is not None and self.tap.gradients:
            gradient_of = dict(zip(self.tapped, plan.seen, strict=True))
            stretches = tuple(s._replace(value=gradient_of[s.value]) for s in self.tap.gradients)
            tap = Tap(stretches, self.tap.receive_gradients)
        return Pass(self.engine, plan.program, self.layout, self.segment_steps, tap)

    def fakes(self, program: Program, like: Tensor) -> list[Tensor]:
        """Uninitialized results of a program over this layout; `like` is a state."""
        shapes = [self.layout.shape(program.body[o.value].width) for o in program.outputs]
        shapes += [(like.shape[0], state.width) for state in program.states]
        return [like.new_empty(shape) for shape in (*shapes, *(r.shape for r in program.reductions))]

    @property
    def own(self) -> int:
        """The number of outputs that are not residuals."""
        return len(self.program.outputs) if self.own_outputs is None else self.own_outputs

    @property
    def signature(self) -> tuple[str, str, int, Sequence[int] | None, bool, int | None]:
        """The arguments of every operator before its tensors."""
        steps, _, batch_sizes, packed, *_ = self.layout
        return self.engine.name, self.program.text, steps, batch_sizes, packed, self.segment_steps

    @property
    def segments(self) -> Segments:
        """The pass in segments."""
        assert self.segment_steps is not None
        return Segments(self.engine, self.program, self.layout, self.segment_steps)

    @property
    def tapped(self) -> tuple[int, ...]:
        """The values whose gradients are tapped."""
        return () if self.tap is None else tuple(dict.fromkeys(s.value for s in self.tap.gradients))


class _Run(torch.autograd.Function):
    """A run with its residuals: among its results if it is closed, so that they have derivatives, else saved."""

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
        # The operands have been looked at, going forward: only the gradients can be anything but plain memory.
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
        # Otherwise the engine makes them, which is quicker: but it has to see the number of sequences, those without
        # steps too.
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
    """A run that keeps the states between its segments."""

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
    """The gradients as differentiable functions: of a run of which autograd knows everything.

    Args:
        this, operands, as_operator: the run.
        gradients: those of its results.
        needed: which of its operands need one.
    """
    # Under other names: an operand may have been computed from another one, and that path is not this run's.
    inputs, given, parameters = ([t.view_as(t) for t in of or ()] for of in operands)
    renamed = Operands(inputs, None if operands.states is None else given, parameters)
    plain = this._replace(program=untaped(this.program, this.own), own_outputs=None)
    whole = plain.differentiable(renamed, as_operator=as_operator, closed=True)
    pairs = [(r, g) for r, g in zip(flat(whole), gradients, strict=True) if g is not None]
    results, weights = [r for r, _ in pairs], [g for _, g in pairs]
    sources = [t for t, needs in zip(renamed.tensors, needed, strict=True) if needs]
    found = iter(torch.autograd.grad(results, sources, weights, create_graph=True, allow_unused=True))
    return [next(found) if needs else None for needs in needed]


def _cotangents(gradients: Sequence[Tensor | None], outputs: int, states: int) -> tuple[Slots, Result]:
    """Which results come with a gradient, and the gradients apart, None for those without."""
    return slots(outputs, states, tuple([g is not None for g in gradients])), split(gradients, outputs, states)


def _filled(this: Pass, gradients: Sequence[Tensor | None], operands: Operands) -> list[Tensor]:
    """The gradients of all final states: 0 for those without."""
    states = this.with_states(operands).states or ()
    return [torch.zeros_like(s) if g is None else g for s, g in zip(states, gradients, strict=True)]


def _present(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    return [g for g in gradients if g is not None]


def _in_order(wanted: Slots, result: Result, inputs: int, states: int, parameters: int) -> list[Tensor | None]:
    """The results of the gradient program in the order of the forward run's operands."""
    found: list[Tensor | None] = [None] * (inputs + states + parameters)
    for k, g in zip(wanted.vectors, result.outputs, strict=True):
        found[k] = g
    for k in wanted.states:
        found[inputs + k] = result.states[k]
    for k, g in zip(wanted.arrays, result.reductions, strict=True):
        found[inputs + states + k] = g
    return found


def _operands(program: Program, tensors: Sequence[Tensor]) -> Operands:
    """The reverse of `Operands.tensors`."""
    inputs, parameters = len(program.inputs), len(program.parameters)
    end = len(tensors) - parameters
    states = None if inputs == end and program.states else list(tensors[inputs:end])
    return Operands(list(tensors[:inputs]), states, list(tensors[end:]))


def split(tensors: Sequence[Any], vectors: int, states: int) -> Result:
    """One sequence of tensors taken apart: outputs, states, reductions."""
    return Result(list(tensors[:vectors]), list(tensors[vectors : vectors + states]), list(tensors[vectors + states :]))


def flat(result: Result) -> list[Tensor]:
    """The reverse of `split`."""
    return [*result.outputs, *result.states, *result.reductions]


@lru_cache(maxsize=512)
def untaped(program: Program, own: int) -> Program:
    """The program with its first outputs alone."""
    return replace(program, outputs=program.outputs[:own])


@lru_cache(maxsize=1024)
def slots(vectors: int, states: int, flags: tuple[bool, ...]) -> Slots:
    """Which flags are set, of as many vectors, as many states, and the rest."""
    return Slots(*(tuple(k for k, flag in enumerate(of) if flag) for of in split(flags, vectors, states)))

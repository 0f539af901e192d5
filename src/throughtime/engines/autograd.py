"""A run as a function that torch's autograd knows.

The derivative of a run is a run of the gradient program, so a run is closed under differentiation: a second derivative
is the gradient program's gradient program, on the same engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.engines import get, say_once
from throughtime.engines.base import Engine, Result, declared_for
from throughtime.engines.batching import is_batched, one_by_one
from throughtime.engines.capture import is_captured, is_transformed
from throughtime.engines.segments import Segments
from throughtime.engines.watching import Watch
from throughtime.errors import UserError
from throughtime.program.core import Program
from throughtime.program.gradient import Gradient, Slots, gradient, with_tape
from throughtime.program.recording import with_outputs


def run(
    engine: Engine,
    program: Program,
    steps: int,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor] | None,
    parameters: Sequence[Tensor],
    batch_sizes: Sequence[int] | None = None,
    watch: Watch | None = None,
    *,
    packed: bool = False,
    checkpoint_every: int | None = None,
) -> Result:
    """Runs a program on an engine, with its derivatives known to torch; see `Engine.run`.

    Args:
        engine, program, steps, inputs, states, parameters, batch_sizes, packed: see `Engine.run`.
        watch: what is to be handed out beside the result.
        checkpoint_every: keeps no tape for the gradient but the states after every so many steps (or some more, as
            it suits the engine), and goes forward a second time from there: for long sequences. The gradients are
            the same. A second derivative, and what is watched, need the memory all the same.

    Raises:
        UserError: if something is to be handed out under a transform of torch.func, or `checkpoint_every` is less
            than 1.
    """
    if checkpoint_every is not None and checkpoint_every < 1:
        raise UserError(f"checkpoint_every is a number of steps of 1 or more; given {checkpoint_every!r}.")
    whole = checkpoint_every is None or checkpoint_every >= steps or watch is not None
    every = None if whole else checkpoint_every
    call = Call(engine, program, steps, batch_sizes, packed, every, watch, len(program.outputs))
    if engine.transparent and watch is None and every is None:
        return call.run(inputs, states, parameters)
    tensors = (*inputs, *parameters) if states is None else (*inputs, *states, *parameters)
    transformed = is_transformed(tensors)
    if transformed and watch is not None:
        raise UserError(
            "nothing can be recorded under vmap, jvp, torch.func or forward-mode derivatives: record a plain run."
        )
    compiling = torch.compiler.is_compiling() and not engine.transparent and not transformed
    if not compiling:
        call = call.visible(tensors)
        if transformed or not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return call.run(inputs, states, parameters)
    if states is None and (compiling or every is not None):  # else the engine begins them, which is quicker
        states = declared_for(program, inputs, parameters, batch_sizes, packed)
    if compiling:
        assert states is not None
        found = torch.ops.throughtime.run(*call.told, list(inputs), list(states), list(parameters))
        return split(found, len(program.outputs), len(program.states))
    # Autograd sees through a transparent engine, but not a gradient of the values of each step.
    if call.engine.transparent and not (watch and watch.gradients):
        if states is None or every is None:
            return call.run(inputs, states, parameters)
        return call.segments.run_transparent(inputs, states, parameters)
    return differentiable(call, inputs, states, parameters, as_operator=False)


class Call(NamedTuple):
    """All that a run is told besides its tensors."""

    engine: Engine
    program: Program
    steps: int
    batch_sizes: Sequence[int] | None
    packed: bool
    every: int | None  # steps of a segment; None if the whole tape is kept
    watch: Watch | None
    own: int  # outputs that are not the tape

    def run(self, inputs: Sequence[Tensor], states: Sequence[Tensor] | None, parameters: Sequence[Tensor]) -> Result:
        """On the engine itself, of which torch knows nothing; watched."""
        program, found = self.program, None
        if self.watch is not None:
            program, found = with_outputs(program, self.watch.values, self.own)
        result = self.engine.run(program, self.steps, inputs, states, parameters, self.batch_sizes, packed=self.packed)
        if self.watch is None or found is None:
            return result
        self.watch.take(result.outputs, found)
        return result._replace(outputs=result.outputs[: len(self.program.outputs)])

    def visible(self, tensors: Sequence[Tensor]) -> Call:
        """The same run on an engine of torch's own operations, where torch must see each of them."""
        if self.engine.transparent:
            return self
        transformed = is_transformed(tensors)
        if not transformed and not is_captured(tensors):
            return self
        fused = get("torch")
        # torch has no rule to vectorize its own layers.
        if not transformed and self.watch is None and fused.refuses(self.program, tensors[0]) is None:
            return self._replace(engine=fused)
        say_once(f"transforms, tracers and dispatch modes of torch cannot see into the {self.engine.name} engine")
        return self._replace(engine=get("reference"))

    def run_differentiably(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor] | None, parameters: Sequence[Tensor]
    ) -> Result:
        """So that torch's autograd knows of it."""
        of = self.engine, self.program, self.steps, inputs, states, parameters, self.batch_sizes, self.watch
        return run(*of, packed=self.packed, checkpoint_every=self.every)

    def of(self, program: Program, watch: Watch | None, own: int) -> Call:
        """A run of another program over the same steps."""
        return Call(self.engine, program, self.steps, self.batch_sizes, self.packed, self.every, watch, own)

    def filled(
        self,
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        states: Sequence[Tensor] | None,
        parameters: Sequence[Tensor],
    ) -> list[Tensor]:
        """The gradients of all final states of a run on these: 0 where there is none."""
        if states is None:
            states = declared_for(self.program, inputs, parameters, self.batch_sizes, self.packed)
        return [torch.zeros_like(s) if g is None else g for s, g in zip(states, gradients, strict=True)]

    def shapes(self, program: Program, like: Tensor) -> list[Tensor]:
        """What a run of a program gives over these steps, with nothing in it; `like` is a state."""
        sequence = (sum(self.batch_sizes or ()),) if self.packed else (self.steps, like.shape[0])
        shapes: list[tuple[int, ...]] = [(*sequence, program.body[o.value].width) for o in program.outputs]
        shapes += [(like.shape[0], state.width) for state in program.states]
        return [like.new_empty(shape) for shape in (*shapes, *(r.shape for r in program.reductions))]

    @property
    def told(self) -> tuple[str, str, int, Sequence[int] | None, bool, int | None]:
        """What every operator is told first."""
        return self.engine.name, self.program.text, self.steps, self.batch_sizes, self.packed, self.every

    @property
    def segments(self) -> Segments:
        """The same in segments."""
        assert self.every is not None
        return Segments(self.engine, self.program, self.steps, self.batch_sizes, self.packed, self.every)

    @property
    def seen(self) -> tuple[int, ...]:
        """The values whose gradients are watched."""
        return () if self.watch is None else tuple(dict.fromkeys(s.value for s in self.watch.gradients))

    def watch_gradients(self, plan: Gradient) -> Watch | None:
        """What is watched of the gradient program."""
        if self.watch is None or not self.watch.gradients:
            return None
        gradient_of = dict(zip(self.seen, plan.seen, strict=True))
        stretches = tuple(s._replace(value=gradient_of[s.value]) for s in self.watch.gradients)
        return Watch(stretches, self.watch.receive_gradients)


def differentiable(
    call: Call,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor] | None,
    parameters: Sequence[Tensor],
    *,
    as_operator: bool,
    closed: bool = False,
) -> Result:
    """A run that autograd knows.

    Args:
        call, inputs, states, parameters: the run. States that start as the program declares need not be given where it
            is neither an operator nor in segments.
        as_operator: whether what is run itself are to be operators in a graph.
        closed: whether derivatives of every order go on from here; else the second one runs forward once more.
    """
    tensors = (*inputs, *(states or ()), *parameters)
    program = call.program
    if call.every is not None:
        given: tuple[Tensor, ...] = _InSegments.apply(call, as_operator, *tensors)  # type: ignore[no-untyped-call]
        return split(given, call.own, len(program.states))
    wanted = slots(len(inputs), len(states or ()), tuple([t.requires_grad for t in tensors]))
    taped = call.of(with_tape(program, wanted, call.seen), call.watch, call.own)
    # What is watched is handed out once, so there is no second time.
    closed = closed or call.watch is not None
    given = _Run.apply(taped, as_operator, closed, *tensors)  # type: ignore[no-untyped-call]
    every = split(given, len(given) - len(program.states) - len(program.reductions), len(program.states))
    return every._replace(outputs=every.outputs[: call.own])


class _Run(torch.autograd.Function):
    """A run with its tape: among its results if it is closed, so that they have derivatives, else put by."""

    @staticmethod
    def forward(ctx: Any, call: Call, as_operator: bool, closed: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        program = call.program
        arguments = _arguments(program, tensors)
        if as_operator:
            with torch._C._AutoDispatchBelowAutograd():
                found = torch.ops.throughtime.run(*call.told, *arguments)
            result = split(found, len(program.outputs), len(program.states))
        else:
            result = call.run(*arguments)
        ctx.set_materialize_grads(False)
        ctx.call = call, as_operator, closed
        ctx.save_for_backward(*tensors, *result.outputs)
        return (*result.outputs[: None if closed else call.own], *result.states, *result.reductions)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if is_batched(gradients):
            return tuple(one_by_one(lambda of_one: _Run.backward(ctx, *of_one), gradients))
        call, as_operator, closed = ctx.call
        program, needed, saved = call.program, ctx.needs_input_grad[3:], ctx.saved_tensors
        inputs, states, parameters = _arguments(program, saved[: len(needed)])
        if torch.is_grad_enabled() and not closed:
            return None, None, None, *_again(call, inputs, states, parameters, gradients, needed, as_operator)
        outputs, of_outputs = saved[len(needed) :], len(program.outputs) if closed else call.own
        given, cotangents = _cotangents(gradients, of_outputs, len(program.states))
        wanted = slots(len(inputs), len(states or ()), needed)
        plan = gradient(program, given, wanted, call.seen)
        taken = [*[inputs[k] for k in plan.inputs], *[outputs[k] for k in plan.tape], *_there(cotangents.outputs)]
        weights = [*[parameters[k] for k in plan.parameters], *_there(cotangents.reductions)]
        # Else the engine begins them, which is quicker: but it has to see how many rows there are, without steps too.
        fill = given.states or as_operator or not taken or (states is not None and call.packed)
        of_states = call.filled(cotangents.states, inputs, states, parameters) if fill else None
        back = call.of(plan.program, call.watch_gradients(plan), len(plan.program.outputs))
        if as_operator:
            found = torch.ops.throughtime.run(*back.told, taken, of_states, weights)
            result = split(found, back.own, len(program.states))
        elif torch.is_grad_enabled():
            result = back.run_differentiably(taken, of_states, weights)
        else:
            result = back.visible([*taken, *(of_states or ()), *weights]).run(taken, of_states, weights)
        return None, None, None, *_in_order(wanted, result, len(inputs), len(states or ()), len(parameters))


class _InSegments(torch.autograd.Function):
    """A run that leaves the states between its segments."""

    @staticmethod
    def forward(ctx: Any, call: Call, as_operator: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        program = call.program
        arguments = split(tensors, len(program.inputs), len(program.states))
        if as_operator:
            with torch._C._AutoDispatchBelowAutograd():
                found = torch.ops.throughtime.run_in_segments(*call.told, *arguments)
        else:
            result, starts = call.segments.run(*arguments)
            found = [*flat(result), *starts]
        last = len(found) - len(program.states)
        ctx.set_materialize_grads(False)
        ctx.call = call, as_operator
        ctx.save_for_backward(*tensors, *found[last:])
        return tuple(found[:last])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if is_batched(gradients):
            return tuple(one_by_one(lambda of_one: _InSegments.backward(ctx, *of_one), gradients))
        call, as_operator = ctx.call
        program = call.program
        inputs, states, rest = split(ctx.saved_tensors, len(program.inputs), len(program.states))
        parameters, starts = rest[: len(program.parameters)], rest[len(program.parameters) :]
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or (not as_operator and call.visible(_there(gradients)) is not call):
            whole = call._replace(every=None)
            return None, None, *_again(whole, inputs, states, parameters, gradients, needed, as_operator)
        given, cotangents = _cotangents(gradients, call.own, len(states))
        wanted = slots(len(inputs), len(states), needed)
        of_states = call.filled(cotangents.states, inputs, states, parameters)
        cotangents = Result(_there(cotangents.outputs), of_states, _there(cotangents.reductions))
        if as_operator:
            flags = [g is not None for g in gradients]
            found = torch.ops.throughtime.gradient_in_segments(
                *call.told, inputs, starts, parameters, flat(cotangents), flags, needed
            )
            result = split(found, len(wanted.vectors), len(states))
        else:
            result = call.segments.gradient(given, wanted, inputs, starts, parameters, cotangents)
        return None, None, *_in_order(wanted, result, len(inputs), len(states), len(parameters))


def _again(
    call: Call,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor] | None,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
    as_operator: bool,
) -> list[Tensor | None]:
    """The gradients, as functions that have derivatives: of a run of which autograd knows all.

    Args:
        call, inputs, states, parameters, as_operator: the run.
        gradients: those of what it gave.
        needed: which of what it took want one.
    """
    # By other names: what one of them was computed from may be another one, and that way is not this run's.
    inputs, given, parameters = ([t.view_as(t) for t in of] for of in (inputs, states or (), parameters))
    states = None if states is None else given
    plain = call._replace(program=untaped(call.program, call.own))
    whole = differentiable(plain, inputs, states, parameters, as_operator=as_operator, closed=True)
    pairs = [(r, g) for r, g in zip(flat(whole), gradients, strict=True) if g is not None]
    tensors = [*inputs, *given, *parameters]
    results, weights = [r for r, _ in pairs], [g for _, g in pairs]
    sources = [t for t, needs in zip(tensors, needed, strict=True) if needs]
    found = iter(torch.autograd.grad(results, sources, weights, create_graph=True, allow_unused=True))
    return [next(found) if needs else None for needs in needed]


def _cotangents(gradients: Sequence[Tensor | None], outputs: int, states: int) -> tuple[Slots, Result]:
    """Which gradients are given of what a run gave, and these apart, with None for the others."""
    return slots(outputs, states, tuple([g is not None for g in gradients])), split(gradients, outputs, states)


def _there(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    return [g for g in gradients if g is not None]


def _in_order(wanted: Slots, result: Result, inputs: int, states: int, parameters: int) -> list[Tensor | None]:
    """The gradients that a run of the gradient program gave, in the order of what the forward run took."""
    found: list[Tensor | None] = [None] * (inputs + states + parameters)
    for k, g in zip(wanted.vectors, result.outputs, strict=True):
        found[k] = g
    for k in wanted.states:
        found[inputs + k] = result.states[k]
    for k, g in zip(wanted.arrays, result.reductions, strict=True):
        found[inputs + states + k] = g
    return found


def _arguments(program: Program, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor]]:
    """Inputs, states and parameters, apart; no states where only the others are there."""
    inputs, parameters = len(program.inputs), len(program.parameters)
    states = len(tensors) - inputs - parameters
    of = split(tensors, inputs, states)
    return of.outputs, of.states if states or not program.states else None, of.reductions


def split(tensors: Sequence[Any], vectors: int, states: int) -> Result:
    """What came in one sequence, apart: so many vectors of each step, so many states, and the rest."""
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
    """Which flags are set, of so many vectors, so many states, and the rest."""
    return Slots(*(tuple(k for k, flag in enumerate(of) if flag) for of in split(flags, vectors, states)))

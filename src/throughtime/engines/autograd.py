"""A run as a function that torch's autograd knows.

The derivative of a run is a run of the gradient program, so a run is closed under differentiation: a second derivative
is the gradient program's gradient program, on the same engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from throughtime.engines import get, say_once
from throughtime.engines.base import Engine, Result
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
    states: Sequence[Tensor],
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
    if torch.compiler.is_compiling() and not engine.transparent:
        found = torch.ops.throughtime.run(*call.told, list(inputs), list(states), list(parameters))
        return split(found, len(program.outputs), len(program.states))
    tensors = (*inputs, *states, *parameters)
    if _is_transformed(tensors):
        if watch is not None:
            raise UserError(
                "nothing can be recorded under vmap, jvp, torch.func or forward-mode derivatives: record a plain run."
            )
        if engine.transparent:
            return call.run(inputs, states, parameters)
        say_once(f"the {engine.name} engine cannot be seen through by vmap and forward-mode derivatives")
        return call._replace(engine=get("reference")).run(inputs, states, parameters)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return call.run(inputs, states, parameters)
    # Autograd sees through a transparent engine, but not a gradient of the values of each step.
    if engine.transparent and not (watch and watch.gradients):
        if every is None:
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

    def run(self, inputs: Sequence[Tensor], states: Sequence[Tensor], parameters: Sequence[Tensor]) -> Result:
        """On the engine itself, of which torch knows nothing; watched."""
        program, found = self.program, None
        if self.watch is not None:
            program, found = with_outputs(program, self.watch.values, self.own)
        result = self.engine.run(program, self.steps, inputs, states, parameters, self.batch_sizes, packed=self.packed)
        if self.watch is None or found is None:
            return result
        self.watch.take(result.outputs, found)
        return result._replace(outputs=result.outputs[: len(self.program.outputs)])

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
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    as_operator: bool,
) -> Result:
    """A run that autograd knows; `as_operator` if what it does itself are to be operators in a graph."""
    tensors = (*inputs, *states, *parameters)
    if call.every is not None:
        given: tuple[Tensor, ...] = _InSegments.apply(call, as_operator, *tensors)  # type: ignore[no-untyped-call]
        return split(given, len(call.program.outputs), len(call.program.states))
    taped = with_tape(call.program, slots(call.program, [t.requires_grad for t in tensors]), call.seen)
    given = _Run.apply(call._replace(program=taped), as_operator, *tensors)  # type: ignore[no-untyped-call]
    every = split(given, len(taped.outputs), len(taped.states))
    return Result(every.outputs[: len(call.program.outputs)], every.states, every.reductions)


class _Run(torch.autograd.Function):
    """A run that leaves all its tape."""

    @staticmethod
    def forward(ctx: Any, call: Call, as_operator: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        program = call.program
        arguments = split(tensors, len(program.inputs), len(program.states))
        if as_operator:
            with torch._C._AutoDispatchBelowAutograd():
                found = torch.ops.throughtime.run(*call.told, *arguments)
            result = split(found, len(program.outputs), len(program.states))
        else:
            result = call.run(*arguments)
        ctx.set_materialize_grads(False)
        ctx.call = call, as_operator
        ctx.save_for_backward(*tensors, *result.outputs)
        return (*result.outputs, *result.states, *result.reductions)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        call, as_operator = ctx.call
        program = call.program
        arguments = split(ctx.saved_tensors, len(program.inputs), len(program.states))
        parameters = arguments.reductions[: len(program.parameters)]
        outputs = arguments.reductions[len(program.parameters) :]
        given, cotangents = _cotangents(program, gradients, arguments.states)
        wanted = _wanted(ctx, program)
        plan = gradient(program, given, wanted, call.seen)
        inputs = [*(arguments.outputs[k] for k in plan.inputs), *(outputs[k] for k in plan.tape), *cotangents.outputs]
        weights = [*(parameters[k] for k in plan.parameters), *cotangents.reductions]
        if as_operator:
            told = call._replace(program=plan.program).told
            found = torch.ops.throughtime.run(*told, inputs, cotangents.states, weights)
            result = split(found, len(plan.program.outputs), len(plan.program.states))
        else:
            result = run(
                call.engine,
                plan.program,
                call.steps,
                inputs,
                cotangents.states,
                weights,
                call.batch_sizes,
                call.watch_gradients(plan),
                packed=call.packed,
            )
        return _in_order(ctx, program, wanted, result)


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
        call, as_operator = ctx.call
        program = call.program
        arguments = split(ctx.saved_tensors, len(program.inputs), len(program.states))
        parameters = arguments.reductions[: len(program.parameters)]
        starts = arguments.reductions[len(program.parameters) :]
        if torch.is_grad_enabled():  # a second derivative is wanted, and has to know where the states came from
            tensors = (*arguments.outputs, *arguments.states, *parameters)
            whole = differentiable(call._replace(every=None), *arguments[:2], parameters, as_operator=as_operator)
            pairs = [(r, g) for r, g in zip(flat(whole), gradients, strict=True) if g is not None]
            needed = [k for k, needs in enumerate(ctx.needs_input_grad[_TOLD:]) if needs]
            second = torch.autograd.grad(
                [r for r, _ in pairs],
                [tensors[k] for k in needed],
                [g for _, g in pairs],
                create_graph=True,
                allow_unused=True,
            )
            every: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
            for k, g in zip(needed, second, strict=True):
                every[_TOLD + k] = g
            return tuple(every)
        given, cotangents = _cotangents(program, gradients, arguments.states)
        wanted = _wanted(ctx, program)
        if as_operator:
            found = torch.ops.throughtime.gradient_in_segments(
                *call.told,
                arguments.outputs,
                starts,
                parameters,
                flat(cotangents),
                [g is not None for g in gradients],
                ctx.needs_input_grad[_TOLD:],
            )
            return _in_order(ctx, program, wanted, split(found, len(wanted.vectors), len(program.states)))
        result = call.segments.gradient(given, wanted, arguments.outputs, starts, parameters, cotangents)
        return _in_order(ctx, program, wanted, result)


_TOLD = 2  # what the functions above take before their tensors


def _cotangents(program: Program, gradients: Sequence[Tensor | None], states: Sequence[Tensor]) -> tuple[Slots, Result]:
    """Which gradients are given, and what of them a run of the gradient program takes."""
    of = split(gradients, len(program.outputs), len(program.states))
    given = slots(program, [g is not None for g in gradients], of_results=True)
    of_states = [torch.zeros_like(s) if g is None else g for s, g in zip(states, of.states, strict=True)]
    outputs, reductions = ([g for g in kind if g is not None] for kind in (of.outputs, of.reductions))
    return given, Result(outputs, of_states, reductions)


def _wanted(ctx: Any, program: Program) -> Slots:
    return slots(program, ctx.needs_input_grad[_TOLD:])


def _in_order(ctx: Any, program: Program, wanted: Slots, result: Result) -> tuple[Tensor | None, ...]:
    """The gradients that a run of the gradient program gave, in the order of the function's arguments."""
    found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    first_state = _TOLD + len(program.inputs)
    first_parameter = first_state + len(program.states)
    for k, g in zip(wanted.vectors, result.outputs, strict=True):
        found[_TOLD + k] = g
    for k in wanted.states:
        found[first_state + k] = result.states[k]
    for k, g in zip(wanted.arrays, result.reductions, strict=True):
        found[first_parameter + k] = g
    return tuple(found)


def split(tensors: Sequence[Any], vectors: int, states: int) -> Result:
    """What came in one sequence, apart: so many vectors of each step, so many states, and the rest."""
    return Result(list(tensors[:vectors]), list(tensors[vectors : vectors + states]), list(tensors[vectors + states :]))


def flat(result: Result) -> list[Tensor]:
    """The reverse of `split`."""
    return [*result.outputs, *result.states, *result.reductions]


def slots(program: Program, flags: Sequence[bool], *, of_results: bool = False) -> Slots:
    """The slots, of what a run takes or of what it gives, whose flag is set."""
    found = split(flags, len(program.outputs if of_results else program.inputs), len(program.states))
    return Slots(*(tuple(k for k, flag in enumerate(of) if flag) for of in found))


def _is_transformed(tensors: Sequence[Tensor]) -> bool:
    """Whether vmap, jvp or another transform of torch.func is going on, or a tensor has a forward tangent."""
    if torch._C._functorch.maybe_current_level() is not None:
        return True
    return has_tangent(tensors)


def has_tangent(tensors: Sequence[Tensor]) -> bool:
    """Whether a tensor has a forward tangent."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]

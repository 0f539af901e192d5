"""A run as an operator of torch: `torch.ops.throughtime.run`, which `torch.compile` and `torch.export` keep whole.

The derivative of a run is a run of the gradient program, so the operator is closed under differentiation: a second
derivative is the gradient program's gradient program, on the same engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from throughtime.engines import get, say_once
from throughtime.engines.base import Engine, Result
from throughtime.engines.watching import Watch
from throughtime.errors import UserError
from throughtime.program.core import Program
from throughtime.program.gradient import Gradient, Slots, gradient, with_tape
from throughtime.program.recording import with_outputs
from throughtime.program.saving import from_json


def run(
    engine: Engine,
    program: Program,
    steps: int,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    batch_sizes: Sequence[int] | None = None,
    watch: Watch | None = None,
) -> Result:
    """Runs a program on an engine, with its derivatives known to torch; see `Engine.run`.

    Args:
        watch: what is to be handed out beside the result.

    Raises:
        UserError: if something is to be handed out under a transform of torch.func.
    """
    if engine.transparent and watch is None:
        return engine.run(program, steps, inputs, states, parameters, batch_sizes)
    if torch.compiler.is_compiling():
        flat = torch.ops.throughtime.run(
            engine.name, program.text, steps, batch_sizes, list(inputs), list(states), list(parameters)
        )
        return _split(flat, len(program.outputs), len(program.states))
    tensors = (*inputs, *states, *parameters)
    if _is_transformed(tensors):
        if watch is not None:
            raise UserError(
                "nothing can be recorded under vmap, jvp, torch.func or forward-mode derivatives: record a plain run."
            )
        say_once(f"the {engine.name} engine cannot be seen through by vmap and forward-mode derivatives")
        return get("reference").run(program, steps, inputs, states, parameters, batch_sizes)
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    # Autograd sees through a transparent engine, but not a gradient of the values of each step.
    if not differentiable or (engine.transparent and not (watch and watch.gradients)):
        return _run(engine, program, steps, inputs, states, parameters, batch_sizes, watch, len(program.outputs))
    return _differentiable(engine, program, steps, batch_sizes, inputs, states, parameters, watch, as_operator=False)


def _run(
    engine: Engine,
    program: Program,
    steps: int,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    batch_sizes: Sequence[int] | None,
    watch: Watch | None,
    own: int,
) -> Result:
    """A run on the engine, watched; the first `own` outputs are not the tape."""
    if watch is None:
        return engine.run(program, steps, inputs, states, parameters, batch_sizes)
    full, found = with_outputs(program, watch.values, own)
    result = engine.run(full, steps, inputs, states, parameters, batch_sizes)
    watch.take(result.outputs, found)
    return Result(result.outputs[: len(program.outputs)], result.states, result.reductions)


def _differentiable(
    engine: Engine,
    program: Program,
    steps: int,
    batch_sizes: Sequence[int] | None,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    watch: Watch | None = None,
    *,
    as_operator: bool,
) -> Result:
    tensors = (*inputs, *states, *parameters)
    taped = with_tape(program, _slots(program, [t.requires_grad for t in tensors]), _seen(watch))
    given: tuple[Tensor, ...] = _Run.apply(  # type: ignore[no-untyped-call]
        engine, taped, steps, batch_sizes, as_operator, watch, len(program.outputs), *tensors
    )
    every = _split(given, len(taped.outputs), len(taped.states))
    return Result(every.outputs[: len(program.outputs)], every.states, every.reductions)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        engine: Engine,
        program: Program,
        steps: int,
        batch_sizes: Sequence[int] | None,
        as_operator: bool,
        watch: Watch | None,
        own: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        arguments = _split(tensors, len(program.inputs), len(program.states))
        if as_operator:
            with torch._C._AutoDispatchBelowAutograd():
                result = _split(
                    torch.ops.throughtime.run(engine.name, program.text, steps, batch_sizes, *arguments),
                    len(program.outputs),
                    len(program.states),
                )
        else:
            result = _run(engine, program, steps, *arguments, batch_sizes, watch, own)
        ctx.set_materialize_grads(False)
        ctx.call = engine, program, steps, batch_sizes, as_operator, watch
        ctx.save_for_backward(*tensors, *result.outputs)
        return (*result.outputs, *result.states, *result.reductions)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        engine, program, steps, batch_sizes, as_operator, watch = ctx.call
        first = len(ctx.needs_input_grad) - len(program.inputs) - len(program.states) - len(program.parameters)
        arguments = _split(ctx.saved_tensors, len(program.inputs), len(program.states))
        parameters = arguments.reductions[: len(program.parameters)]
        outputs = arguments.reductions[len(program.parameters) :]
        wanted = _slots(program, ctx.needs_input_grad[first:])
        cotangents = _split(gradients, len(program.outputs), len(program.states))
        given = Slots(*(tuple(k for k, g in enumerate(of) if g is not None) for of in cotangents))
        plan = gradient(program, given, wanted, _seen(watch))
        inputs = [*(arguments.outputs[k] for k in plan.inputs), *(outputs[k] for k in plan.tape)]
        inputs += [cotangents.outputs[k] for k in given.vectors]
        states = [
            torch.zeros_like(state) if g is None else g
            for state, g in zip(arguments.states, cotangents.states, strict=True)
        ]
        weights = [*(parameters[k] for k in plan.parameters), *(cotangents.reductions[k] for k in given.arrays)]
        if as_operator:
            flat = torch.ops.throughtime.run(
                engine.name, plan.program.text, steps, batch_sizes, inputs, states, weights
            )
            result = _split(flat, len(plan.program.outputs), len(plan.program.states))
        else:
            result = run(
                engine, plan.program, steps, inputs, states, weights, batch_sizes, _watch_gradients(watch, plan)
            )
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        first_parameter = first + len(program.inputs) + len(program.states)
        for k, g in zip(wanted.vectors, result.outputs, strict=True):
            found[first + k] = g
        for k in wanted.states:
            found[first + len(program.inputs) + k] = result.states[k]
        for k, g in zip(wanted.arrays, result.reductions, strict=True):
            found[first_parameter + k] = g
        return tuple(found)


def _seen(watch: Watch | None) -> tuple[int, ...]:
    """The values whose gradients are watched."""
    return () if watch is None else tuple(dict.fromkeys(stretch.value for stretch in watch.gradients))


def _watch_gradients(watch: Watch | None, plan: Gradient) -> Watch | None:
    """What is watched of the gradient program."""
    if watch is None or not watch.gradients:
        return None
    gradient_of = dict(zip(_seen(watch), plan.seen, strict=True))
    return Watch(tuple(s._replace(value=gradient_of[s.value]) for s in watch.gradients), watch.receive_gradients)


def _split(tensors: Sequence[Any], vectors: int, states: int) -> Result:
    return Result(list(tensors[:vectors]), list(tensors[vectors : vectors + states]), list(tensors[vectors + states :]))


def _slots(program: Program, flags: Sequence[bool]) -> Slots:
    split = _split(flags, len(program.inputs), len(program.states))
    return Slots(*(tuple(k for k, flag in enumerate(of) if flag) for of in split))


def _is_transformed(tensors: Sequence[Tensor]) -> bool:
    """Whether vmap, jvp or another transform of torch.func is going on, or a tensor has a forward tangent."""
    if torch._C._functorch.maybe_current_level() is not None:
        return True
    return _has_tangent(tensors)


def _has_tangent(tensors: Sequence[Tensor]) -> bool:
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]


# The operator. A program is passed as its JSON, so a graph that holds the operator is whole without this process.

program_of = lru_cache(maxsize=512)(from_json)


_library = torch.library.Library("throughtime", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "run(str engine, str program, SymInt steps, SymInt[]? batch_sizes, "
    "Tensor[] inputs, Tensor[] states, Tensor[] parameters) -> Tensor[]",
    tags=[torch.Tag.pt2_compliant_tag],
)


def _flat(result: Result) -> list[Tensor]:
    return [*result.outputs, *result.states, *result.reductions]


def _kernel(
    engine: str,
    program: str,
    steps: int,
    batch_sizes: Sequence[int] | None,
    inputs: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
) -> list[Tensor]:
    return _flat(get(engine).run(program_of(program), steps, inputs, states, parameters, batch_sizes))


def _fake(
    engine: str,
    program: str,
    steps: int,
    batch_sizes: Sequence[int] | None,
    inputs: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
) -> list[Tensor]:
    plan = program_of(program)
    rows = states[0].shape[0]
    shapes: list[tuple[int, ...]] = [(steps, rows, plan.body[output.value].width) for output in plan.outputs]
    shapes += [(rows, state.width) for state in plan.states]
    return [states[0].new_empty(shape) for shape in (*shapes, *(r.shape for r in plan.reductions))]


def _autograd_kernel(
    engine: str,
    program: str,
    steps: int,
    batch_sizes: Sequence[int] | None,
    inputs: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
) -> list[Tensor]:
    tensors = (*inputs, *states, *parameters)
    if _has_tangent(tensors):
        raise NotImplementedError(
            "torch.ops.throughtime.run has no forward-mode derivative: use a module of throughtime, which goes to the "
            "reference engine for it, or engine='reference'."
        )
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        with torch._C._AutoDispatchBelowAutograd():
            plain: list[Tensor] = torch.ops.throughtime.run(
                engine, program, steps, batch_sizes, inputs, states, parameters
            )
            return plain
    return _flat(
        _differentiable(
            get(engine), program_of(program), steps, batch_sizes, inputs, states, parameters, as_operator=True
        )
    )


for _key, _function in (("CPU", _kernel), ("CUDA", _kernel), ("Autograd", _autograd_kernel)):
    _library.impl("run", _function, _key)  # type: ignore[no-untyped-call]
torch.library.register_fake("throughtime::run", _fake, lib=_library)

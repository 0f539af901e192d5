"""Differentiable runs of a single torch layer on its tensors as they are stored, for layers called with few steps.

A `Pass` takes a program's parameters. Computing them from the stored tensors with torch operations, and differentiating
these operations, takes longer than a run of one step. Here the engine reads the stored tensors, and a run's gradients
become the gradients of the stored tensors without autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.engines.autograd import Pass, slots
from throughtime.engines.base import Layout, Operands
from throughtime.engines.batching import is_batched, one_by_one
from throughtime.engines.capture import needs_traceable
from throughtime.engines.native import NativeEngine
from throughtime.engines.torch_layers import TORCH_LAYERS, TorchLayer
from throughtime.program.core import Program
from throughtime.program.gradient import Gradient, Slots, gradient, with_residuals


class LayerRun(NamedTuple):
    """All arguments of a layer's run except its tensors.

    Attributes:
        engine: the engine that runs it.
        program: the layer's program.
        mode: torch's name for the layer.
        bias: whether the layer has biases.
    """

    engine: NativeEngine
    program: Program
    mode: str
    bias: bool

    @property
    def layer(self) -> TorchLayer:
        """The kind of layer, which knows how its tensors are stored."""
        return TORCH_LAYERS[self.mode]

    def run(self, x: Tensor, states: Sequence[Tensor], stored: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run the layer differentiably; results are bit-identical to those of a `Pass`.

        Args:
            x: `[T, B, input]`.
            states: an initial `[1, B, width]` for each state; none for the values that the program declares.
            stored: the layer's tensors, in torch's order.

        Returns:
            The output `[T, B, output]` and the final states `[1, B, width]`.
        """
        y, *final = _LayerRun.apply(self, len(states), x, *states, *stored)  # type: ignore[no-untyped-call]
        return y, final

    def pieces(self, stored: Sequence[Tensor]) -> list[Any]:
        """Return the program's parameters in the form that the engine reads."""
        return self.layer.in_pieces(stored, bias=self.bias)

    def again(
        self, count: int, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Compute gradients by repeating the run as a `Pass`, for higher derivatives, transforms and dispatch modes.

        Args:
            count: the number of initial states.
            tensors: the operands of the run: x, the states and the stored tensors.
            gradients: the gradients of its results.
            needed: which of its operands need gradients.
        """
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            # Through views: an operand may have been computed from another one, and that path isn't part of this run.
            views = [t.view_as(t) for t in tensors]
            x, states, stored = views[0], views[1 : 1 + count], views[1 + count :]
            parameters = self.layer.to_program(stored, bias=self.bias)
            operands = Operands([x], [s[0] for s in states] or None, parameters)
            result = Pass(self.engine, self.program, Layout(*x.shape[:2])).run(operands)
            results = [result.outputs[0], *(s[None] for s in result.states)]
        pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None]
        sources = [t for t, needs in zip(views, needed, strict=True) if needs]
        outputs, weights = [r for r, _ in pairs], [g for _, g in pairs]
        found = iter(torch.autograd.grad(outputs, sources, weights, create_graph=differentiable, allow_unused=True))
        return [next(found) if needs else None for needs in needed]


class _LayerRun(torch.autograd.Function):
    """A run whose operands are x, the initial states and the stored tensors."""

    @staticmethod
    def forward(ctx: Any, this: LayerRun, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        x, states, stored = tensors[0], tensors[1 : 1 + count], tensors[1 + count :]
        single = len(x) == 1
        program, _ = _augmented(this.program, this.mode, this.bias, count, ctx.needs_input_grad[2:], single)
        outputs, final, _ = this.engine.run_layer(program, len(x), (x,), states, this.pieces(stored))
        ctx.set_materialize_grads(False)
        ctx.run = this, count
        ctx.save_for_backward(*tensors, *outputs)
        return (outputs[0], *final)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        of_output, *of_final = gradients
        # The forward pass has checked the operands, so only the gradients may be other than plain tensors.
        opaque = not needs_traceable([g for g in gradients if g is not None])
        if not opaque and is_batched(gradients):
            return tuple(one_by_one(lambda of_one: _LayerRun.backward(ctx, *of_one), gradients))
        this, count = ctx.run
        needed, saved = ctx.needs_input_grad[2:], ctx.saved_tensors
        operands, outputs = saved[: len(needed)], saved[len(needed) :]
        if torch.is_grad_enabled() or not opaque:
            return None, None, *this.again(count, operands, gradients, needed)
        x, stored = operands[0], operands[1 + count :]
        given = tuple([g is not None for g in gradients])
        plan, wanted = _gradient(this.program, this.mode, this.bias, count, needed, given, len(x) == 1)
        taken = [*[x for _ in plan.inputs], *[outputs[k] for k in plan.residuals]]
        if of_output is not None:
            taken.append(of_output)
        of_states = None  # the engine creates zeros faster, but it must see the batch size
        if plan.given.states or not taken:
            widths, rows = [s.width for s in this.program.states], x.shape[1]
            of_states = [x.new_zeros(1, rows, w) if g is None else g for w, g in zip(widths, of_final, strict=True)]
        pieces = this.pieces(stored) if plan.parameters else ()
        weights = [pieces[k] for k in plan.parameters]
        found = this.engine.run_layer(plan.program, len(x), taken, of_states, weights)
        of_x = found.outputs[0] if wanted.vectors else None
        of_initial = [found.states[k] if k in wanted.states else None for k in range(count)]
        reductions = dict(zip(wanted.arrays, found.reductions, strict=True))
        hidden = this.program.states[-1].width
        of_stored = this.layer.stored_gradients(reductions, needed[1 + count :], hidden, bias=this.bias)
        return None, None, of_x, *of_initial, *of_stored


@lru_cache(maxsize=512)
def _augmented(
    program: Program, mode: str, bias: bool, states: int, needed: tuple[bool, ...], single_step: bool
) -> tuple[Program, Slots]:
    """Return the program with the residuals of its gradient, and the operands whose gradients are wanted."""
    arrays = TORCH_LAYERS[mode].parameters_of(needed[1 + states :], bias=bias)
    initial = tuple(k for k in range(states) if needed[1 + k])
    wanted = Slots((0,) if needed[0] else (), initial, arrays)
    return with_residuals(program, wanted, single_step=single_step), wanted


@lru_cache(maxsize=512)
def _gradient(
    program: Program,
    mode: str,
    bias: bool,
    states: int,
    needed: tuple[bool, ...],
    given: tuple[bool, ...],
    single_step: bool,
) -> tuple[Gradient, Slots]:
    """Return the gradient and the operands whose gradients are wanted.

    Args:
        program, mode, bias: see `LayerRun`.
        states: the number of initial states.
        needed: which of the run's operands need gradients.
        given: which of its results have gradients.
        single_step: whether the run has only one step.
    """
    augmented, wanted = _augmented(program, mode, bias, states, needed, single_step)
    cotangents = slots(1, len(given) - 1, given)
    return gradient(augmented, cotangents, wanted, single_step=single_step), wanted

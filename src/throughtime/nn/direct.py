"""Run a single layer without hooks directly on the native engine."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines import choose
from throughtime.engines.capture import are_plain, has_tangent
from throughtime.engines.layer_runs import LayerRun
from throughtime.engines.native import NativeEngine
from throughtime.engines.torch_layers import TORCH_LAYERS
from throughtime.nn.stack import Layers, in_autocast
from throughtime.program.core import Program

_requires_grad = attrgetter("requires_grad")


class SingleLayer(NamedTuple):
    """A unidirectional layer.

    Attributes:
        program: its program.
        mode: torch's name for it.
        bias: whether it has biases.
        stored: its tensors, in torch's order.
        frozen: the program's parameters, if the layer is frozen; it has no stored tensors then.
    """

    program: Program
    mode: str
    bias: bool
    stored: Sequence[Tensor]
    frozen: Sequence[Tensor] | None = None

    def run(self, engine: NativeEngine, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        """Run the layer, or return None if it is frozen and gradients are recorded; see `run_directly`."""
        if torch.is_grad_enabled() and any(map(_requires_grad, (x, *states, *self.stored))):
            if self.frozen is not None:
                return None
            return LayerRun(engine, self.program, self.mode, self.bias).run(x, states, self.stored)
        parameters: Sequence[Any] | None = self.frozen
        if parameters is None:
            parameters = TORCH_LAYERS[self.mode].in_pieces(self.stored, bias=self.bias)
        (y, *_), final, _ = engine.run_layer(self.program, len(x), (x,), states, parameters)
        return y, final


class DirectLayer(Protocol):
    """The interface of modules that may consist of a single layer."""

    engine: str | None

    def direct_layer(self) -> SingleLayer | None:
        """Return the single layer that the module consists of, or None for several or if the engine can't read it."""
        ...


class StoredLayer(Protocol):
    """A module with the parameters of one of torch's layers."""

    frozen: Layers | None
    training: bool
    bias: bool
    _parameters: Any

    def _program(self) -> Program: ...


def single_layer(module: StoredLayer, mode: str, names: Sequence[str]) -> SingleLayer | None:
    """Return the single layer that a module consists of; see `DirectLayer.direct_layer`.

    Args:
        module: the layer.
        mode: torch's name for it.
        names: its parameters, in torch's order.

    Returns:
        The layer; None if a parameter is not plain memory.
    """
    if module.frozen is not None and not module.training:
        program, parameters = module.frozen[0][0]
        return SingleLayer(program, mode, bool(module.bias), (), parameters)
    # A parametrized weight is not among the parameters.
    stored: list[Any] = [module._parameters.get(name) for name in names]
    if not are_plain(stored) or has_tangent(stored):
        return None
    return SingleLayer(module._program(), mode, bool(module.bias), stored)


def run_directly(
    module: DirectLayer, input: Tensor | PackedSequence, states: Sequence[Tensor], *, batch_first: bool = False
) -> tuple[Tensor, list[Tensor]] | None:
    """Run one layer in one direction, bit-identical to `Stack.run`; a single step takes half the time.

    Args:
        module: the layer.
        input: `[T, B, width]`, or `[B, T, width]` if `batch_first`; plain memory, as are the states.
        states: an initial `[1, B, width]` for each state; none for the values that the cell declares.
        batch_first: whether the batch axis comes before time.

    Returns:
        The output and the final states, in the form of the input and of the states; None if the call needs more than
        the engine and autograd, such as a hook or a tracer.
    """
    if torch.compiler.is_compiling() or isinstance(input, PackedSequence) or input.dim() != 3 or in_autocast(input):
        return None
    layer = module.direct_layer()
    if layer is None:
        return None
    engine = choose(module.engine, layer.program, input)
    if not isinstance(engine, NativeEngine):
        return None
    if not batch_first:
        return layer.run(engine, input, states)
    found = layer.run(engine, input.transpose(0, 1), states)
    return None if found is None else (found[0].transpose(0, 1), found[1])

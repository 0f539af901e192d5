"""Calls of one layer that go straight to the native engine: without gradients and hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines import choose
from throughtime.engines.capture import are_plain, has_tangent
from throughtime.engines.native import NativeEngine
from throughtime.engines.torch_layers import TORCH_LAYERS
from throughtime.nn.stack import Layers, in_autocast
from throughtime.program.core import Program


class DirectLayer(Protocol):
    """A module that may be a single layer."""

    engine: str | None

    def direct_layer(self) -> tuple[Program, Sequence[Any]] | None:
        """The program and its parameters, as `NativeEngine.run_layer` takes them; None unless it is a single layer."""
        ...


class StoredLayer(Protocol):
    """A module with the parameters of one of torch's layers."""

    frozen: Layers | None
    training: bool
    bias: bool
    _parameters: Any

    def _program(self) -> Program: ...


def single_layer(module: StoredLayer, mode: str, names: Sequence[str]) -> tuple[Program, Sequence[Any]] | None:
    """The program and parameters of a module that is a single layer; see `DirectLayer.direct_layer`.

    Args:
        module: the layer.
        mode: torch's name for it.
        names: its parameters, in torch's order.

    Returns:
        None if a parameter is not plain memory.
    """
    if module.frozen is not None and not module.training:
        return module.frozen[0][0]
    # A parametrized weight is not among the parameters.
    stored: list[Any] = [module._parameters.get(name) for name in names]
    if not are_plain(stored) or has_tangent(stored):
        return None
    return module._program(), TORCH_LAYERS[mode].in_pieces(stored, bias=bool(module.bias))


def run_directly(
    module: DirectLayer, input: Tensor | PackedSequence, states: Sequence[Tensor], *, batch_first: bool = False
) -> tuple[Tensor, list[Tensor]] | None:
    """Run one layer in one direction without gradients, to the same bits as by `Stack.run` in half the time of a step.

    Args:
        module: the layer.
        input: `[T, B, width]`, or `[B, T, width]` if `batch_first`; plain memory, as are the states.
        states: an initial `[1, B, width]` for each state; none for the values that the cell declares.
        batch_first: whether the batch axis comes before time.

    Returns:
        The output and the final states, in the form of the input and of the states; None if anything besides the engine
        has to see the call.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or isinstance(input, PackedSequence):
        return None
    if input.dim() != 3 or in_autocast(input):
        return None
    layer = module.direct_layer()
    if layer is None:
        return None
    program, parameters = layer
    engine = choose(module.engine, program, input)
    if not isinstance(engine, NativeEngine):
        return None
    if not batch_first:
        return engine.run_layer(program, input, states, parameters)
    y, final = engine.run_layer(program, input.transpose(0, 1), states, parameters)
    return y.transpose(0, 1), final

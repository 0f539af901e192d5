"""The engine `torch`: torch's own fused layer, where a program equals it and nothing more is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.engines.base import Result
from throughtime.engines.torch_layers import TorchLayer, torch_layer_of
from throughtime.program.core import Program

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "LSTM": torch.lstm,
    "GRU": torch.gru,
}


class FusedEngine:
    """Runs a layer by torch's own kernel (cuDNN on a CUDA device)."""

    name = "torch"
    transparent = True

    def refuses(self, program: Program, like: Tensor) -> str | None:
        """Runs only what torch has as one layer."""
        if _layer(program) is None:
            return f"torch has no layer that computes {program.name!r} as it is asked for here"
        return None

    def run(
        self,
        program: Program,
        steps: int,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        batch_sizes: Sequence[int] | None = None,
    ) -> Result:
        """See `throughtime.engines.base.Engine.run`."""
        layer = _layer(program)
        if layer is None:
            raise ValueError(self.refuses(program, states[0]))
        bias = any(p.dim() == 1 for p in parameters)
        weights = layer.to_stored(parameters, bias=bias)
        x, rows = inputs[0], states[0].shape[0]
        lengths = _lengths(batch_sizes, steps, rows, x.device)
        if program.reverse:
            x = _flipped(x, lengths)
        # torch's layer has no rows without a step, and no sequence without one
        active = rows if batch_sizes is None else (batch_sizes[0] if steps else 0)
        started = [s[:active].unsqueeze(0).contiguous() for s in states]
        hidden: Tensor | tuple[Tensor, ...] = tuple(started) if len(started) > 1 else started[0]
        if steps == 0 or active == 0:
            return Result([x.new_zeros(steps, rows, states[0].shape[1])], list(states), [])
        function = _FUNCTIONS[layer.mode]
        if batch_sizes is None:
            y, *final = function(x, hidden, weights, bias, 1, 0.0, False, False, False)
        else:
            mask = torch.arange(rows, device=x.device) < torch.tensor(batch_sizes, device=x.device)[:, None]
            sizes = torch.tensor([n for n in batch_sizes if n])
            packed, *final = function(x[mask], sizes, hidden, weights, bias, 1, 0.0, False, False)
            y = packed.new_zeros(steps, rows, packed.shape[-1]).masked_scatter(mask[..., None], packed)
        if program.reverse:
            y = _flipped(y, lengths)
        ended = [torch.cat([f[0], s[active:]]) for f, s in zip(final, states, strict=True)]
        return Result([y], ended, [])


def _layer(program: Program) -> TorchLayer | None:
    return torch_layer_of(program.flipped if program.reverse else program)


def _lengths(batch_sizes: Sequence[int] | None, steps: int, rows: int, device: torch.device) -> Tensor:
    if batch_sizes is None:
        return torch.full((rows,), steps, device=device)
    return (torch.tensor(batch_sizes, device=device)[:, None] > torch.arange(rows, device=device)).sum(0)


def _flipped(x: Tensor, lengths: Tensor) -> Tensor:
    """Each row's steps in the opposite order; what comes after a row's end stays where it is."""
    t = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(t < lengths, lengths - 1 - t, t)
    return x.gather(0, index[..., None].expand_as(x))

"""The engine `torch`, which runs programs that are equivalent to a torch layer on torch's fused kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.engines.base import Layout, Operands, Result, declared_states
from throughtime.engines.torch_layers import TorchLayer, torch_layer_of
from throughtime.program.core import Program

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "LSTM": torch.lstm,
    "GRU": torch.gru,
}


class FusedEngine:
    """An engine that runs layers on torch's own kernels (cuDNN on a CUDA device)."""

    name = "torch"
    traceable = True
    supports_one_hot = False

    def refuses(self, program: Program, like: Tensor) -> str | None:
        """Return the reason why torch can't run a program as a layer, or None if it can."""
        if _layer(program) is None:
            return f"torch has no layer that computes {program.name!r} with these options"
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
        inputs, states, parameters = operands
        states = declared_states(program, operands, layout) if states is None else states
        steps, rows, batch_sizes, packed, *_ = layout
        layer = _layer(program)
        if layer is None:
            raise ValueError(self.refuses(program, states[0]))
        bias = any(p.dim() == 1 for p in parameters)
        weights = layer.to_stored(parameters, bias=bias)
        x = inputs[0]
        # torch's layers don't support empty batches or sequences without steps
        active = rows if batch_sizes is None else (batch_sizes[0] if steps else 0)
        if steps == 0 or active == 0:
            return Result([x.new_zeros(*x.shape[:-1], states[0].shape[1])], list(states), [])
        started = [s[:active].unsqueeze(0).contiguous() for s in states]
        hidden: Tensor | tuple[Tensor, ...] = tuple(started) if len(started) > 1 else started[0]
        function = _FUNCTIONS[layer.mode]
        if batch_sizes is None:
            x = x.flip(0) if program.reverse else x
            y, *final = function(x, hidden, weights, bias, 1, 0.0, False, False, False)
            return Result([y.flip(0) if program.reverse else y], [f[0] for f in final], [])
        mask = torch.arange(rows, device=x.device) < torch.tensor(batch_sizes, device=x.device)[:, None]
        data = x if packed else x[mask]
        sizes = torch.tensor([n for n in batch_sizes if n])
        order = _backward(sizes).to(x.device) if program.reverse else None
        y, *final = function(data if order is None else data[order], sizes, hidden, weights, bias, 1, 0.0, False, False)
        y = y if order is None else y[order]
        if not packed:
            y = y.new_zeros(steps, rows, y.shape[-1]).masked_scatter(mask[..., None], y)
        return Result([y], [torch.cat([f[0], s[active:]]) for f, s in zip(final, states, strict=True)], [])

    def chunk_steps(self, rows: int) -> int:
        """See `throughtime.engines.base.Engine.chunk_steps`; this engine computes no reductions."""
        return 1


def _layer(program: Program) -> TorchLayer | None:
    return torch_layer_of(program.flipped if program.reverse else program)


def _backward(sizes: Tensor) -> Tensor:
    """Return the permutation of packed rows that reverses each sequence in time; it is its own inverse."""
    start = sizes.cumsum(0) - sizes
    rows = torch.cat([torch.arange(n) for n in sizes.tolist()])
    t = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    length = (sizes[:, None] > torch.arange(int(sizes[0]))).sum(0)
    return start[length[rows] - 1 - t] + rows

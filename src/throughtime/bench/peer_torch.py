"""torch in eager mode: its layers, its single cells, and a loop over a user-defined cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import STREAMING, TEXT, Case
from throughtime.bench.contestant import Ready, Results
from throughtime.bench.modules import filled, named_results, ready_module, stored, torch_name
from throughtime.bench.own_cell import by_hand


class _Torch:
    packages = ("torch",)
    is_ours = False


class TorchLayer(_Torch):
    """`torch.nn.RNN`, `LSTM` and `GRU`."""

    name = "torch"

    def takes(self, case: Case) -> bool:
        """Return True only for built-in cells; a single step is a sequence of length one."""
        return case.is_built_in and case.mode != TEXT

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare the module (see `ready_module`)."""
        layer = getattr(nn, torch_name(case))(case.input_size, case.hidden)
        filled(layer, stored(case, arguments))
        if case.mode != STREAMING:
            return ready_module(layer, case, arguments)

        @torch.inference_mode()
        def run() -> Tensor:
            state = None
            for x in steps:
                y, state = layer(x, state)
            return y  # type: ignore[no-any-return]

        steps = torch.split(arguments.x, 1)
        return Ready(run, lambda y: {"output": y[0].numpy()})


class TorchCell(_Torch):
    """`torch.nn.RNNCell`, `LSTMCell` and `GRUCell`."""

    name = "torch cell"

    def takes(self, case: Case) -> bool:
        """Return True only for single steps."""
        return case.mode == STREAMING

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Pass the returned state to the next step."""
        cell = getattr(nn, f"{torch_name(case)}Cell")(case.input_size, case.hidden)
        filled(cell, stored(case, arguments))

        @torch.inference_mode()
        def run() -> Any:
            state = None
            for x in steps:
                state = cell(x, state)
            return state

        steps = torch.unbind(arguments.x)
        return Ready(run, lambda state: {"output": (state if isinstance(state, Tensor) else state[0]).numpy()})


class TorchLoop(_Torch):
    """A Python loop over the steps, after one input product for all of them."""

    name = "torch loop"

    def takes(self, case: Case) -> bool:
        """Return True only for user-defined cells."""
        return not case.is_built_in

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare a training step or a forward pass."""
        leaves = {"x": arguments.x, **arguments.parameters}
        if not case.trains:
            return Ready(lambda: _without_gradient(leaves), lambda y: {"output": y.numpy()})
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in leaves.items()}

        def train() -> tuple[Tensor, Sequence[Tensor]]:
            y = _loop(leaves)
            return y, torch.autograd.grad(y, list(leaves.values()), arguments.cotangent)

        def results(given: tuple[Tensor, Sequence[Tensor]]) -> Results:
            return named_results(given[0], dict(zip(leaves, given[1], strict=True)))

        return Ready(train, results)


def _loop(given: Mapping[str, Tensor]) -> Tensor:
    x = given["x"]
    from_x = functional.linear(x, given["weight_x_l0"], given["bias_l0"])
    h = c = x.new_zeros(x.shape[1], given["weight_h_l0"].shape[1])
    outputs = []
    for at_step in from_x.unbind():
        h, c = by_hand(given, at_step, h, c, sigmoid=torch.sigmoid, tanh=torch.tanh, split=_quarters)
        outputs.append(h)
    return torch.stack(outputs)


_without_gradient = torch.inference_mode()(_loop)


def _quarters(gates: Tensor) -> tuple[Tensor, ...]:
    return gates.chunk(4, -1)

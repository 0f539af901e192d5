"""Run our recurrent modules and torch's in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import PACKED, Case
from throughtime.bench.contestant import Ready, Results
from throughtime.engines.torch_layers import TORCH_LAYERS

_TORCH_NAMES = {"rnn": ("RNN", "RNN_TANH"), "lstm": ("LSTM", "LSTM"), "gru": ("GRU", "GRU")}


def torch_name(case: Case) -> str:
    """Return torch's name for a built-in cell."""
    return _TORCH_NAMES[case.cell][0]


def stored(case: Case, arguments: Arguments) -> list[Tensor]:
    """Return a built-in cell's parameters as torch stores them: ih, hh and both biases."""
    layer = TORCH_LAYERS[_TORCH_NAMES[case.cell][1]]
    return layer.to_stored(list(arguments.parameters.values()), bias=True)


def as_torchs(case: Case, arguments: Arguments, results: Results) -> Results:
    """Convert the parameter gradients in a built-in cell's results to those of torch's parameters."""
    layer = TORCH_LAYERS[_TORCH_NAMES[case.cell][1]]
    kept = [tensor.requires_grad_() for tensor in stored(case, arguments)]
    others = dict(results)
    of_program = [torch.from_numpy(others.pop(f"gradient.{name}")) for name in arguments.parameters]
    of_kept = torch.autograd.grad(layer.to_program(kept, bias=True), kept, of_program)
    names = layer.names("_l0", bias=True, projected=False)
    return others | {f"gradient.{name}": g.numpy() for name, g in zip(names, of_kept, strict=True)}


def filled(module: nn.Module, values: Sequence[Tensor]) -> nn.Module:
    """Copy values into a module's parameters and return the module."""
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)
    return module


def ready_module(module: nn.Module, case: Case, arguments: Arguments, *, packed: bool = True) -> Ready:
    """Prepare a module that runs on the whole input, forward or in a training step.

    Args:
        module: returns the output and the state.
        case: the case.
        arguments: the case's arrays.
        packed: whether to pass the input of a case with packed batches as a PackedSequence or as a padded tensor.
    """
    if not case.trains:
        return Ready(lambda: _forward(module, arguments.x), lambda y: {"output": y.numpy()})
    is_packed = case.mode == PACKED and packed
    x: Any = arguments.packed(arguments.x) if is_packed else arguments.x.clone()
    cotangent = arguments.packed(arguments.cotangent).data if is_packed else arguments.cotangent
    leaves = {"x": x.data if is_packed else x} | dict(module.named_parameters())
    leaves["x"].requires_grad_()

    def train() -> tuple[Tensor, Sequence[Tensor]]:
        y = module(x)[0]
        y = y.data if is_packed else y
        return y, torch.autograd.grad(y, list(leaves.values()), cotangent)

    def results(given: tuple[Tensor, Sequence[Tensor]]) -> Results:
        found = named_results(given[0], dict(zip(leaves, given[1], strict=True)))
        if case.mode == PACKED and not packed:
            for name in ("output", "gradient.x"):
                found[name] = arguments.packed(torch.from_numpy(found[name])).data.numpy()
        return found

    return Ready(train, results)


def named_results(output: Tensor, gradients: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a training step's results: the output, and the gradient of each named tensor."""
    return {"output": output.detach().numpy()} | {f"gradient.{name}": g.numpy() for name, g in gradients.items()}


@torch.inference_mode()
def _forward(module: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = module(x)[0]
    return output

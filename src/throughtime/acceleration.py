"""Replace the recurrent layers of any torch model with throughtime's, and restore them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from throughtime.errors import UserError
from throughtime.exchange.keras.loop import (
    accelerate_layer,
    is_accelerated,
    keras_layers,
    require_torch_backend,
    restore_layer,
)
from throughtime.nn import dropin
from throughtime.nn.hooks import Hookable
from throughtime.nn.recurrent_policy import (
    accelerate_buffer,
    accelerate_policy,
    is_agent,
    knows_lengths,
    restore_buffer,
    restore_policy,
)
from throughtime.nn.substitute import Substitute, revert

_OURS: dict[type[nn.Module], type[nn.Module]] = {kind.original: kind for kind in (dropin.RNN, dropin.LSTM, dropin.GRU)}
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_NAMES = {kind.__name__ for kind in (*_OURS, *_CELLS)}
_QUANTIZED = ("torch.ao.nn.quantized.dynamic.modules.rnn", "torch.ao.nn.quantizable.modules.rnn")

_log = logging.getLogger("throughtime")


Model = TypeVar("Model")


@dataclass(frozen=True)
class Acceleration:
    """A report on the layers that `accelerate` changed and left unchanged.

    Attributes:
        changed: the names of the changed layers, with descriptions of the changes.
        left: the names of the unchanged layers, with the reasons.
        ours: the names of the layers that were already throughtime's.
    """

    changed: dict[str, str]
    left: dict[str, str]
    ours: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"changed {name or 'the model'}: {what}" for name, what in self.changed.items()]
        lines += [f"unchanged {name or 'the model'}: {why}" for name, why in self.left.items()]
        if self.ours and not self.changed:
            lines.append(f"already accelerated: {', '.join(name or 'the model' for name in self.ours)}")
        return "\n".join(lines) or "no recurrent layer found"


def accelerate(model: Model, *, verbose: bool = False) -> Model:
    """Replace all of torch's RNN, LSTM and GRU layers in a model with throughtime's, in place.

    Layers keep their parameters, hooks and names, so optimizers and saved weights still work; only their class changes,
    and `isinstance(layer, torch.nn.LSTM)` remains True. `restore` undoes it. Cells such as `torch.nn.LSTMCell` are not
    changed, because throughtime's are not faster in a loop over single steps. Calling a layer with one step at a time
    takes about as long as in torch, or less, without gradients; with gradients, an RNN or a GRU takes up to 1.5 times
    as long.
    For inference in single steps, `freeze` the model, or use a `Stream`.

    In Keras models on the torch backend, the loop over time steps of `SimpleRNN`, `LSTM`, `GRU` and `RNN` runs on
    throughtime's engines; the layers remain Keras's. The policy of an agent of sb3-contrib's RecurrentPPO runs a batch
    with episode starts in one call instead of step by step, and skips the padding of sequences.

    Args:
        model: a torch module or Keras model, a layer of either, or an agent.
        verbose: whether to print the changed and unchanged layers; they are logged in any case.

    Returns:
        The same model.

    Raises:
        UserError: if `model` is neither a module nor an agent.
    """
    report = substitute_layers(model)
    if verbose:
        print(report)
    _log.log(logging.INFO if report.changed or report.ours else logging.WARNING, "%s", report)
    return model


def substitute_layers(model: Any) -> Acceleration:
    """Replace layers as `accelerate` does, and return the report."""
    changed: dict[str, str] = {}
    left: dict[str, str] = {}
    ours: list[str] = []
    if is_agent(model):
        if knows_lengths(model.rollout_buffer):
            ours.append("rollout_buffer")
        elif (reason := accelerate_buffer(model.rollout_buffer)) is None:
            changed["rollout_buffer"] = "minibatches include the lengths of sequences, so that layers skip the padding"
        else:
            left["rollout_buffer"] = reason
        model = model.policy
    require_torch_backend(model)
    root = _module(model, "accelerate")
    for name, module in root.named_modules():
        kind = type(module)
        if kind in _OURS:
            reason = _reason_to_keep(module)
            if reason is None:
                module.__class__ = _OURS[kind]
                changed[name] = f"torch.nn.{kind.__name__} to throughtime.{kind.__name__}"
            else:
                left[name] = reason
        elif isinstance(module, Substitute | Hookable):
            ours.append(name)
        elif (reason := _reason_unsupported(module)) is not None:
            left[name] = reason
        if accelerate_policy(module):
            changed[f"{name}._process_sequence".lstrip(".")] = "one call for all steps, with resets at episode starts"
    for path, layer in keras_layers(root):
        if is_accelerated(layer):
            ours.append(path)
        elif (reason := accelerate_layer(layer)) is None:
            changed[path] = f"the loop of keras.layers.{type(layer).__name__} to throughtime's"
        else:
            left[path] = reason
    return Acceleration(changed, left, ours)


def restore(model: Model) -> Model:
    """Turn the layers that `accelerate` changed back into torch's own, in place.

    Parameters, hooks, names and state dict keys stay the same, so optimizers keep their state. Frozen layers are
    unfrozen. throughtime cells such as `LSTMCell` become torch's too. Keras layers run Keras's own loop again.

    Args:
        model: any torch module, Keras model or agent.

    Returns:
        The same model.

    Raises:
        UserError: if `model` is neither a module nor an agent, or one of its layers is being recorded or edited.
    """
    agent: Any = model if is_agent(model) else None
    root = _module(model if agent is None else agent.policy, "restore")
    layers = [(name, module) for name, module in root.named_modules() if isinstance(module, Substitute)]
    for name, module in layers:
        if isinstance(module, Hookable) and module.hooks:
            raise UserError(f"{name or 'the model'} is being recorded or edited: restore the model afterwards")
    for _, module in layers:
        revert(module)
    for part in root.modules():
        restore_policy(part)
    if agent is not None:
        restore_buffer(agent.rollout_buffer)
    for _, layer in keras_layers(root):
        restore_layer(layer)
    return model


def _module(model: Any, function: str) -> nn.Module:
    """Return the model, or raise UserError if it is not a torch module."""
    if not isinstance(model, nn.Module):
        raise UserError(f"{function} takes a torch module, got {type(model).__name__}")
    return model


def _reason_unsupported(module: nn.Module) -> str | None:
    """Return the reason why a recurrent layer is left unchanged; None for modules that aren't recurrent layers."""
    kind = type(module)
    if isinstance(module, _CELLS):
        return f"in a loop over single steps, torch's own {kind.__name__} is just as fast"
    if isinstance(module, tuple(_OURS)):
        return f"{kind.__name__} is a custom class, which may do more than torch's"
    if isinstance(module, torch.jit.ScriptModule):
        scripted = module.original_name if isinstance(module.original_name, str) else ""
        if scripted in _NAMES:
            return f"{scripted} is scripted or traced: accelerate the model before torch.jit compiles it"
    if kind.__module__ in _QUANTIZED and kind.__name__ in _NAMES:
        return f"{kind.__name__} is quantized; the native engine supports float32 and float64"
    return None


def _reason_to_keep(module: nn.Module) -> str | None:
    weight = next(module.parameters())
    if weight.device.type not in ("cpu", "meta"):
        return f"torch's own layer is the fastest on {weight.device.type}"
    if str(weight.dtype) not in ("torch.float32", "torch.float64"):
        return (
            f"its dtype is {str(weight.dtype).removeprefix('torch.')}; the native engine supports float32 and float64"
        )
    return None

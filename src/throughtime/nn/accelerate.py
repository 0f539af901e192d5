"""Turns the recurrent layers of any torch model into ours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from throughtime.errors import UserError
from throughtime.nn import dropin

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: dropin.RNN,
    nn.LSTM: dropin.LSTM,
    nn.GRU: dropin.GRU,
    nn.RNNCell: dropin.RNNCell,
    nn.LSTMCell: dropin.LSTMCell,
    nn.GRUCell: dropin.GRUCell,
}


@dataclass(frozen=True)
class Acceleration:
    """What `accelerate` did.

    Attributes:
        changed: the layers that are ours now, by their names in the model, and what they were.
        left: the layers that stay as they are, by their names, and why.
    """

    changed: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"changed {name or 'the model'}: {what}" for name, what in self.changed.items()]
        lines += [f"left {name or 'the model'}: {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layer found"


def accelerate(model: nn.Module) -> Acceleration:
    """Turns every RNN, LSTM and GRU layer or cell of torch's in a model into ours, in place.

    The layers keep their parameters, hooks and names, so optimisers and saved weights go on as they were; only the
    class is another.

    Args:
        model: any torch module; itself such a layer, too.

    Returns:
        What was changed, and what was left because it would not gain.

    Raises:
        UserError: if it is no module.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"a torch module is wanted, to change the layers in it; given {type(model).__name__}.")
    changed, left = {}, {}
    for name, module in model.named_modules():
        kind = type(module)
        if kind in _OURS:
            reason = _no_gain(module)
            if reason is None:
                module.__class__ = _OURS[kind]
                changed[name] = f"{kind.__module__.split('.')[0]}.nn.{kind.__name__} to throughtime.{kind.__name__}"
            else:
                left[name] = reason
        elif isinstance(module, tuple(_OURS)):
            left[name] = f"{kind.__name__} is a class of its own, which may do more than torch's"
    return Acceleration(changed, left)


def _no_gain(module: nn.Module) -> str | None:
    weight = next(module.parameters())
    if weight.device.type not in ("cpu", "meta"):
        return f"torch's own layer is the fastest on {weight.device.type}"
    if str(weight.dtype) not in ("torch.float32", "torch.float64"):
        return (
            f"its weights are {str(weight.dtype).removeprefix('torch.')}, and the native engine has float32 and float64"
        )
    return None

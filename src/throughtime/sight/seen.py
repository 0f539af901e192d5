"""A run of a model, seen: the tape of each of its recurrent modules, and the gradient of the loss at their outputs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from throughtime.errors import UserError
from throughtime.sight.arrays import symbols_of
from throughtime.sight.models import RecurrentLayers, evaluating, language_model, recurrent_modules, watched
from throughtime.sight.tape import Tape, to_states

Loss = Callable[[Any], Tensor]
Seen = dict[str, tuple[Tape, Tensor]]


def seen(model: nn.Module, x: Any, targets: Any = None, state: Any = None, loss: Loss | None = None) -> Seen:
    """Runs a model, without dropout.

    Args:
        model, x, targets, state, loss: see `throughtime.sight.gradient_flow`.

    Returns:
        For each recurrent module, by what its names begin with, its tape and the gradient of the loss with respect to
        what it gave, `[T, B, width]` as the tape has it.

    Raises:
        UserError: if an argument does not fit, a module runs more than once or no gradient arrives.
    """
    modules = recurrent_modules(model)
    tapes = {prefix: Tape(module, to_states) for prefix, module in modules.items()}
    cuts = {prefix: Cut() for prefix in modules}
    with evaluating(model), torch.enable_grad(), ExitStack() as held:
        for prefix, module in modules.items():
            held.enter_context(watched(module, tapes[prefix]))
            hook = cast(nn.Module, module).register_forward_hook(cuts[prefix])
            held.callback(hook.remove)
        total = _total(model, x, targets, state, loss, cuts)
    for prefix, cut in cuts.items():
        if cut.calls != 1:
            raise UserError(f"the recurrent module {prefix.rstrip('.')} ran {cut.calls} times; once is wanted.")
    if total.dim() != 0:
        raise UserError(f"the loss must be a scalar, the sum over steps and rows; given {list(total.shape)}.")
    if not total.requires_grad:
        raise UserError("no gradient arrives: the loss does not depend on what the recurrent layers give.")
    leaves = [cut.leaf for cut in cuts.values()]
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return {
        prefix: (tapes[prefix], inside(g, cut.given, modules[prefix], tapes[prefix]))
        for (prefix, cut), g in zip(cuts.items(), found, strict=True)
    }


class Cut:
    """Cuts a module's output off from what made it, so that a gradient stops there.

    Attributes:
        calls: how often it ran.
        given: what it gave.
        leaf: its data, where the gradient arrives.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.given: Tensor | PackedSequence
        self.leaf: Tensor

    def __call__(self, module: nn.Module, args: Any, result: Any) -> Any:
        """The module's result with the output cut off."""
        self.calls += 1
        given, *rest = result
        self.given = given
        packed = isinstance(given, PackedSequence)
        self.leaf = (given.data if packed else given).detach().requires_grad_()
        return (given._replace(data=self.leaf) if packed else self.leaf, *rest)


def inside(gradient: Tensor, given: Tensor | PackedSequence, module: RecurrentLayers, tape: Tape) -> Tensor:
    """A gradient at a module's output in the form that its layers work in, `[T, B, width]`."""
    if isinstance(given, PackedSequence):
        return pad_packed_sequence(PackedSequence(gradient, given.batch_sizes))[0]
    if gradient.dim() == 2:
        return gradient.unsqueeze(1)
    gradient = gradient.transpose(0, 1) if getattr(module, "batch_first", False) else gradient
    return gradient if tape.back is None else gradient[:, torch.argsort(tape.back)]


def _total(model: nn.Module, x: Any, targets: Any, state: Any, loss: Loss | None, cuts: dict[str, Cut]) -> Tensor:
    language = language_model(model)
    if language is None:
        if targets is not None:
            raise UserError("targets are for a language model; give another model's loss as a function.")
        given = model(x) if state is None else model(x, state)
        return sum((c.leaf.square().sum() / 2 for c in cuts.values()), torch.zeros(())) if loss is None else loss(given)
    ids = symbols_of(x, language.vocabulary_size)
    if loss is not None:
        return loss(language(ids, state))
    if targets is None:
        ids, following = ids[:-1], ids[1:]
    else:
        following = symbols_of(targets, language.vocabulary_size)
        if following.shape != ids.shape:
            raise UserError(
                f"targets must have the shape of the ids, {list(ids.shape)}; given {list(following.shape)}."
            )
    total: Tensor = language.loss(ids, following, state)[0]
    return total

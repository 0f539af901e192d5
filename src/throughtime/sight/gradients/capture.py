"""Run a model and capture its recurrent modules' residuals and the gradient of the loss at its top layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.errors import UserError
from throughtime.nn.forms import form_of
from throughtime.nn.stack import joined
from throughtime.outputs import Categorical
from throughtime.sight.arrays import inputs_of, targets_of, token_ids_of
from throughtime.sight.hooks.residuals import Residuals, to_states
from throughtime.sight.models import evaluating, hooked, language_model, recurrent_modules, sequence_model

Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class CapturedRun:
    """A captured run of a recurrent module.

    Attributes:
        residuals: its residuals.
        outputs: the gradient of the loss with respect to the output of each direction of the top layer,
            `[T, B, width]`.
        passed: the part of the gradient with respect to the top layer's input that bypasses the layer.
    """

    residuals: Residuals
    outputs: list[Tensor]
    passed: list[Tensor]

    def double(self) -> CapturedRun:
        """Convert to float64."""
        residuals = copy.copy(self.residuals)
        residuals.layers = [[layer.double() for layer in directions] for directions in self.residuals.layers]
        return CapturedRun(residuals, [g.double() for g in self.outputs], [g.double() for g in self.passed])

    def first_rows(self, rows: int) -> CapturedRun:
        """Keep only the first sequences of the batch; these are the longest if lengths differ."""
        residuals = copy.copy(self.residuals)
        residuals.layers = [[layer.first_rows(rows) for layer in directions] for directions in self.residuals.layers]
        residuals.lengths = self.residuals.lengths[:rows]
        return CapturedRun(residuals, [g[:, :rows] for g in self.outputs], [g[:, :rows] for g in self.passed])


def capture_runs(
    model: nn.Module, x: Any, targets: Any = None, state: Any = None, loss: Loss | None = None
) -> dict[str, CapturedRun]:
    """Run a model without dropout and capture its recurrent modules.

    Args:
        model, x, targets, state, loss: see `throughtime.sight.gradient_flow`.

    Returns:
        Each recurrent module's run, by the prefix of the module's names.

    Raises:
        UserError: if an argument is invalid, a module runs more than once, or no gradient reaches the recurrent layers.
    """
    modules = recurrent_modules(model)
    residuals = {prefix: Residuals(module, to_states) for prefix, module in modules.items()}
    cuts = {prefix: Cut() for prefix in modules}
    with evaluating(model), torch.enable_grad(), ExitStack() as held:
        for prefix, module in modules.items():
            held.enter_context(hooked(module, residuals[prefix]))
            hook = cast(nn.Module, module).register_forward_hook(cuts[prefix])
            held.callback(hook.remove)
        total = _total(model, x, targets, state, loss, cuts)
    for prefix, cut in cuts.items():
        if cut.calls != 1:
            raise UserError(f"the recurrent module {prefix.rstrip('.')} must run once, but ran {cut.calls} times")
    if total.dim() != 0:
        raise UserError(f"the loss must be a scalar, summed over steps and sequences; got shape {list(total.shape)}")
    if not total.requires_grad:
        raise UserError("the loss must depend on the recurrent layers' outputs, but no gradient reaches them")
    leaves = [leaf for cut in cuts.values() for leaf in cut.leaves]
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    if not all(bool(g.isfinite().all()) for g in found):
        raise UserError("the gradient of the loss is not finite; the network has diverged")
    each = iter(found)
    return {prefix: at_top(residuals[prefix], cut, [next(each) for _ in cut.leaves]) for prefix, cut in cuts.items()}


def at_top(residuals: Residuals, call: Given, gradients: Sequence[Tensor]) -> CapturedRun:
    """Compute the gradients at the top layer from those at the module's outputs.

    Raises:
        UserError: if the module returns states, which have no per-step output.
    """
    if residuals.options.returns == "states":
        raise UserError("a module with returns='states' has no per-step output for a loss to depend on")
    gradients = [_inside(g, given, residuals, call.batch_first) for g, given in zip(gradients, call.given, strict=True)]
    directions = residuals.layers[-1]
    with torch.enable_grad():
        below = [layer.x.detach().requires_grad_() for layer in directions[: 2 if residuals.separate_inputs else 1]]
        outputs = [layer.y.detach().requires_grad_() for layer in directions]
        reverse = [layer.forward.reverse for layer in directions]
        results = joined(below, outputs, reverse, residuals.options, True, residuals.sizes)
        found = torch.autograd.grad(results, [*outputs, *below], gradients, allow_unused=True, materialize_grads=True)
    return CapturedRun(residuals, list(found[: len(directions)]), list(found[len(directions) :]))


class Given:
    """The output of a recurrent module.

    Attributes:
        given: the output, or one per direction.
        data: the outputs' data.
        batch_first: whether the batch is the first axis of the output.
    """

    def __init__(self) -> None:
        self.given: list[Tensor | PackedSequence] = []
        self.data: list[Tensor] = []
        self.batch_first = False

    def take(self, module: nn.Module, result: Any) -> list[Tensor]:
        """Store a module's result and return the data of its outputs."""
        self.given = [result[0]] if isinstance(result[0], Tensor | PackedSequence) else list(result[0])
        self.batch_first = bool(getattr(module, "batch_first", False))
        self.data = [y.data if isinstance(y, PackedSequence) else y for y in self.given]
        return self.data


class Cut(Given):
    """Detach a module's output from the graph so that gradients stop there.

    Attributes:
        calls: the number of times that the module ran.
        leaves: the data of its outputs, which receive the gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.leaves: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, result: Any) -> Any:
        """Return the module's result with a detached output."""
        self.calls += 1
        self.leaves = [y.detach().requires_grad_() for y in self.take(module, result)]
        pairs = zip(self.given, self.leaves, strict=True)
        cut = [y._replace(data=leaf) if isinstance(y, PackedSequence) else leaf for y, leaf in pairs]
        alone = isinstance(result[0], Tensor | PackedSequence)
        return (cut[0] if alone else tuple(cut), *result[1:])


def _inside(gradient: Tensor, given: Tensor | PackedSequence, residuals: Residuals, batch_first: bool) -> Tensor:
    """Convert a gradient at a module's output to internal form: `[T, B, width]`, or `[B, width]` at the end."""
    if isinstance(given, PackedSequence):
        return form_of(given)[1].layout.pad(gradient)
    ends = residuals.options.returns == "last"
    rows = 0 if ends else 1
    if gradient.dim() == rows + 1:  # without a batch axis
        return gradient.unsqueeze(rows)
    gradient = gradient.transpose(0, 1) if batch_first and not ends else gradient
    return gradient if residuals.restore is None else gradient.index_select(rows, torch.argsort(residuals.restore))


def _total(model: nn.Module, x: Any, targets: Any, state: Any, loss: Loss | None, cuts: dict[str, Cut]) -> Tensor:
    sequence = sequence_model(model)
    if sequence is None:
        if targets is not None:
            raise UserError("targets require a sequence model; for other models pass loss as a function")
        given = model(x) if state is None else model(x, state)
        return _squares(cuts) if loss is None else loss(given)
    if language_model(model) is None:
        return _total_of_sequences(sequence, inputs_of(x, sequence), targets, state, loss, cuts)
    language = sequence
    ids = token_ids_of(x, language.vocabulary_size)
    if loss is not None:
        return loss(language(ids, state))
    if targets is None:
        ids, following = ids[:-1], ids[1:]
    else:
        following = token_ids_of(targets, language.vocabulary_size)
        if following.shape != ids.shape:
            raise UserError(
                f"targets must have the same shape as the token ids, {list(ids.shape)}; got {list(following.shape)}"
            )
    total: Tensor = language.loss(ids, following, state)[0]
    return total


def _total_of_sequences(
    model: Any, inputs: Tensor, targets: Any, state: Any, loss: Loss | None, cuts: dict[str, Cut]
) -> Tensor:
    """Compute the loss of a sequence model that is not a language model."""
    if loss is None and targets is not None:
        of_targets: Tensor = model.loss(inputs, targets_of(targets, model), state)[0]
        return of_targets
    given = model(inputs, state)
    if loss is not None:
        return loss(given)
    if isinstance(model.head.output, Categorical):
        nats: Tensor = -given[0].double().log_softmax(-1).amax(-1).sum()  # float32 rounds small gradients to 0
        return nats
    return _squares(cuts)


def _squares(cuts: dict[str, Cut]) -> Tensor:
    """Compute half the sum of squares of the recurrent layers' outputs."""
    return sum((y.square().sum() / 2 for cut in cuts.values() for y in cut.leaves), torch.zeros(()))

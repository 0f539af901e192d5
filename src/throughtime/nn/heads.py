"""Heads: a network's last linear layer and its training loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, distributions, nn
from torch.distributions import Distribution
from torch.nn import functional

from throughtime import outputs
from throughtime.errors import UserError
from throughtime.nn.softmax_loss import softmax_loss
from throughtime.outputs import Output


class Head(nn.Module, ABC):
    """A linear layer with the loss of an output; `Head.of` chooses the class.

    Args:
        output: the output that the layer's values describe.
        features: the width of the layer's input.
        tied: an embedding `[classes, features]` to use as the weight (Press & Wolf 2017, arXiv:1608.05859); only for
            a categorical output. It remains one parameter, and `reset_parameters` does not change it.
        drawn: whether to initialize the parameters now; otherwise call `reset_parameters` before use.

    Attributes:
        output: the output that the layer's values describe.
        weight: `[width, features]`.
        bias: `[width]`.

    Raises:
        UserError: if the embedding has the wrong shape, or the output can't be tied to one.
    """

    def __init__(self, output: Output, features: int, *, tied: nn.Parameter | None = None, drawn: bool = True) -> None:
        super().__init__()
        shape = (output.width, features)
        if tied is not None and not isinstance(output, outputs.Categorical):
            raise UserError(f"only a categorical output can be tied to an embedding, got {output}")
        if tied is not None and tied.shape != shape:
            raise UserError(
                f"can't tie an embedding of shape {list(tied.shape)} to a head of shape {list(shape)}: "
                "the shapes must match"
            )
        self.output = output
        self.tied = tied is not None
        self.weight = nn.Parameter(torch.empty(shape)) if tied is None else tied
        self.bias = nn.Parameter(torch.empty(output.width))
        if drawn:
            self.reset_parameters()

    @staticmethod
    def of(output: Output, features: int, *, tied: nn.Parameter | None = None, drawn: bool = True) -> Head:
        """Create the head for an output; the arguments are those of the class."""
        return _HEADS[type(output)](output, features, tied=tied, drawn=drawn)

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly from ±1/sqrt(features); a tied weight is not changed."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        if not self.tied:
            nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the raw values `[..., width]` from features `[..., features]`."""
        return functional.linear(features, self.weight, self.bias)

    def loss(self, features: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute the sum of the losses of all steps or sequences.

        Args:
            features: `[..., features]`.
            targets: `[..., *output.target_shape]`, int64 ids or floating-point values.
            weights: a factor for each loss, broadcast to `[...]`, or for each target element, in the targets' shape;
                0 masks a padded step or a missing element.

        Returns:
            A scalar: the sum in nats, or of squared, absolute or pinball errors; for signals, the loss over all steps
                times the number of steps.

        Raises:
            UserError: if the targets have the wrong shape.
        """
        return self.loss_of(self(features), targets, weights)

    def loss_of(self, raw: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute the same sum as `loss` from raw values `[..., width]`, as returned by `forward`."""
        self._check(raw.shape[:-1], targets)
        # A sum of thousands of terms would lose all precision in half precision.
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return self._sum(raw, targets.to(raw.dtype) if self.output.target_shape else targets, weights)

    @abstractmethod
    def _sum(self, raw: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Compute the loss times its number of terms; takes the arguments of `loss_of`, in float32 or float64."""

    def terms(self, targets: Tensor) -> int:
        """Count the steps or sequences that a loss sums over; divide the loss by this number for a mean."""
        return self.output.terms(targets)

    def _check(self, leading: torch.Size, targets: Tensor) -> None:
        expected = (*leading, *self.output.target_shape)
        if targets.shape != expected:  # torch would silently broadcast
            raise UserError(f"targets for {self.output} must have shape {list(expected)}, got {list(targets.shape)}")

    def extra_repr(self) -> str:
        return f"{self.output}, features={self.weight.shape[1]}{', tied=True' if self.tied else ''}"


class StepwiseHead(Head):
    """A head with a loss for each step or sequence."""

    def _sum(self, raw: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        losses = self.losses(raw, targets)
        if weights is not None and weights.shape == losses.shape:
            return (losses * weights).sum()
        losses = losses.sum(-1) if self.output.target_shape else losses
        return (losses if weights is None else losses * weights.expand_as(losses)).sum()

    @abstractmethod
    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of each target element, in the targets' shape; takes the arguments of `loss_of`."""


class DistributionHead(StepwiseHead):
    """A head whose loss is the negative log-likelihood, in nats."""

    @abstractmethod
    def distribution(self, raw: Tensor) -> Distribution:
        """Return the distribution of a target `[...]`, or of its elements `[..., n]`, from raw values."""

    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        log_likelihoods: Tensor = self.distribution(raw).log_prob(targets)
        return -log_likelihoods


class CategoricalHead(DistributionHead):
    """A head that predicts classes with a softmax."""

    def distribution(self, raw: Tensor) -> Distribution:
        return distributions.Categorical(logits=raw, validate_args=False)

    def loss(self, features: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        self._check(features.shape[:-1], targets)
        if weights is None:
            return softmax_loss(features.reshape(-1, features.shape[-1]), self.weight, self.bias, targets.reshape(-1))
        # Otherwise most of the time could be spent on padded steps.
        weights = weights.expand_as(targets)
        kept = weights != 0
        return super().loss(features[kept], targets[kept], weights[kept])


class LogisticMixtureHead(StepwiseHead):
    """A head that predicts ordered levels with a mixture of logistic distributions."""

    output: outputs.LogisticMixture

    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        scores, locations, scales = self.output.parameters(raw, _softplus)
        level = targets[..., None].to(raw.dtype)
        outside = outputs._OUTERMOST
        low = torch.where(level == 0, -outside, level - 0.5)
        high = torch.where(level == self.output.levels - 1, level + outside, level + 0.5)
        low, high = (low - locations) / scales, (high - locations) / scales
        logs = functional.logsigmoid(high) + functional.logsigmoid(-low) + torch.log(-torch.expm1(low - high))
        return -torch.logsumexp(scores.log_softmax(-1) + logs, -1)


class BernoulliHead(DistributionHead):
    """A head that predicts independent bits."""

    def distribution(self, raw: Tensor) -> Distribution:
        return distributions.Bernoulli(logits=raw, validate_args=False)


class NormalHead(DistributionHead):
    """A head that predicts independent normal distributions."""

    output: outputs.Normal

    def distribution(self, raw: Tensor) -> Distribution:
        return distributions.Normal(*self.output.parameters(raw, _softplus), validate_args=False)


class StudentTHead(DistributionHead):
    """A head that predicts independent Student t distributions."""

    output: outputs.StudentT

    def distribution(self, raw: Tensor) -> Distribution:
        return distributions.StudentT(*self.output.parameters(raw, _softplus), validate_args=False)


class PointHead(StepwiseHead):
    """A head for regression with the squared or absolute error."""

    output: outputs.Point

    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        error = raw - targets
        return error.square() if self.output.loss == "mse" else error.abs()


class QuantilesHead(StepwiseHead):
    """A head for quantile regression with the pinball loss, summed over levels."""

    output: outputs.Quantiles

    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        levels = raw.new_tensor(self.output.levels)
        error = targets[..., None] - self.output.by_level(raw)
        return torch.maximum(levels * error, (levels - 1) * error).sum(-1)


class SignalHead(Head):
    """A head for signals, trained with the error-to-signal ratio after pre-emphasis plus the error of the means.

    Both terms are computed over all sequences of a batch together. The first step of a batch has no predecessor to
    filter with, so it counts only in the means.
    """

    output: outputs.Signal

    def _sum(self, raw: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        if raw.dim() < 2:
            raise UserError(f"a signal needs an output per step, [steps, ..., channels], got shape {list(raw.shape)}")
        weights = torch.ones_like(raw[..., 0]) if weights is None else weights.expand_as(raw[..., 0])
        weights = weights[..., None].to(raw.dtype)
        count = weights.sum()
        error = targets - raw
        energy = (weights[1:] * self._emphasized(targets).square()).sum()
        ratio = (weights[1:] * self._emphasized(error).square()).sum() / (energy + _SILENCE * weights[1:].sum())
        mean = (weights * error).sum(0) / weights.sum(0).clamp(min=1)
        level = (weights * targets.square()).sum() / count.clamp(min=1)
        dc = mean.square().mean() / (level + _SILENCE)
        return count * ((1 - self.output.dc) * ratio + self.output.dc * dc)

    def _emphasized(self, signal: Tensor) -> Tensor:
        return signal[1:] - self.output.pre_emphasis * signal[:-1]


_SILENCE = 1e-5  # target power below which the error-to-signal ratio is damped


def _softplus(x: Any) -> Any:
    return functional.softplus(x, threshold=40)  # exact in float64; the default, 20, is off by 2e-9


_HEADS: dict[type[Output], type[Head]] = {
    outputs.Categorical: CategoricalHead,
    outputs.LogisticMixture: LogisticMixtureHead,
    outputs.Bernoulli: BernoulliHead,
    outputs.Normal: NormalHead,
    outputs.StudentT: StudentTHead,
    outputs.Point: PointHead,
    outputs.Signal: SignalHead,
    outputs.Quantiles: QuantilesHead,
}

"""Heads: losses and gradients match SciPy's distributions and scikit-learn's metrics."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from test_outputs import OUTPUTS, by_kind
from torch import nn

from throughtime.errors import UserError
from throughtime.nn.heads import DistributionHead, Head
from throughtime.outputs import Bernoulli, Categorical, LogisticMixture, Normal, Point, Quantiles, StudentT

FEATURES = 6
LEADING = (4, 2)


def head_of(output, **options):
    torch.manual_seed(0)
    return Head.of(output, FEATURES, **options).double()


def data_of(output, leading=LEADING, seed=1):
    """Draw features and targets."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(*leading, FEATURES, generator=generator, dtype=torch.float64)
    shape = (*leading, *output.target_shape)
    if isinstance(output, Categorical):
        return features, torch.randint(output.classes, shape, generator=generator)
    targets = torch.randn(shape, generator=generator, dtype=torch.float64)
    return features, (targets > 0).double() if isinstance(output, Bernoulli) else targets


def numpy(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def log_likelihoods(output, raw, y):
    """Return the log-likelihood of each step, computed by SciPy."""
    if isinstance(output, Categorical):
        probabilities = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
        return np.log(np.take_along_axis(probabilities, y[..., None], -1)[..., 0])
    if isinstance(output, Bernoulli):
        return stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-raw))).sum(-1)
    location, *rest = np.split(raw, output.numbers, -1)
    scale, *degrees = (np.log1p(np.exp(part)) for part in rest)
    scale = scale + 1e-6
    if isinstance(output, Normal):
        return stats.norm.logpdf(y, location, scale).sum(-1)
    return stats.t.logpdf(y, degrees[0] + 2, location, scale).sum(-1)


@by_kind([Categorical(5), Bernoulli(4), Normal(3), StudentT(3)])
def test_likelihoods_match_scipy(output):
    head = head_of(output)
    features, targets = data_of(output)
    raw, y = numpy(head(features), targets)
    # Float64 rounding, including that of SciPy's log-gamma.
    assert head.loss(features, targets).item() == pytest.approx(-log_likelihoods(output, raw, y).sum(), rel=1e-12)
    distribution = head.distribution(head(features))
    expected = distribution.log_prob(targets)
    torch.testing.assert_close(head.loss(features, targets), -expected.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("loss", "metric"), [("mse", metrics.mean_squared_error), ("mae", metrics.mean_absolute_error)]
)
def test_point_losses_match_scikit_learn(loss, metric):
    head = head_of(Point(3, loss))
    features, targets = data_of(head.output)
    raw, y = (a.reshape(-1, 3) for a in numpy(head(features), targets))
    total = len(y) * metric(y, raw, multioutput="raw_values").sum()
    assert head.loss(features, targets).item() == pytest.approx(total, rel=1e-14)  # rounding of the sum


def test_quantile_losses_match_scikit_learn():
    head = head_of(Quantiles(3, (0.1, 0.5, 0.9)))
    features, targets = data_of(head.output)
    raw, y = numpy(head(features).reshape(-1, 3, 3), targets.reshape(-1, 3))
    total = len(y) * sum(
        metrics.mean_pinball_loss(y, raw[..., k], alpha=level, multioutput="raw_values").sum()
        for k, level in enumerate(head.output.levels)
    )
    assert head.loss(features, targets).item() == pytest.approx(total, rel=1e-14)  # rounding of the sum


@by_kind(OUTPUTS)
def test_weights_scale_steps_and_broadcast(output):
    head = head_of(output)
    features, targets = data_of(output)
    each = torch.stack([head.loss(x, y) for x, y in zip(features.flatten(0, 1), targets.flatten(0, 1), strict=True)])
    for weights in (torch.tensor([0.5, 2.0]), torch.arange(8.0).view(LEADING), torch.tensor(3.0)):
        expected = (each.view(LEADING) * weights).sum()
        found = head.loss(features, targets, weights), head.loss_of(head(features), targets, weights)
        for loss in found:
            torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)  # rounding of the sum
    assert head.terms(targets) == 8


@by_kind(OUTPUTS)
def test_masked_steps_have_no_effect(output):
    head = head_of(output)
    features, targets = data_of(output)
    weights = torch.ones(LEADING)
    weights[2:, 1] = 0
    masked = weights == 0
    other_features, other_targets = data_of(output, seed=2)
    padded = (torch.where(masked[..., None], other_features * 100, features).requires_grad_(), targets.clone())
    padded[1][masked] = other_targets[masked]
    loss = head.loss(*padded, weights)
    assert torch.equal(loss, head.loss(features, targets, weights))
    loss.backward()
    assert not padded[0].grad[masked].any()
    assert padded[0].grad[~masked].any(-1).all()
    nothing = head.loss(features, targets, torch.zeros(LEADING))
    assert nothing.item() == 0


@by_kind(OUTPUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_match_finite_differences(output, weighted):
    head = head_of(output)
    features, targets = data_of(output)
    weights = torch.tensor([[1.0, 0.5], [2.0, 1.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64) if weighted else None
    # gradcheck perturbs its arguments in place, including the parameters of the head.
    assert torch.autograd.gradcheck(
        lambda x, *_: head.loss(x, targets, weights), (features.requires_grad_(), head.weight, head.bias)
    )


@by_kind(OUTPUTS)
def test_numpy_predicts_the_mode_of_torchs_distribution(output):
    head = head_of(output)
    scores = head(data_of(output)[0])
    predicted = torch.from_numpy(output.predict(*numpy(scores)))
    if isinstance(head, DistributionHead):
        assert torch.equal(predicted, head.distribution(scores).mode.to(predicted.dtype))
    elif isinstance(output, Point):
        assert torch.equal(predicted, scores)
    else:
        assert torch.equal(predicted, scores.view(*LEADING, 3, 3).sort(-1).values)


@by_kind([Normal(3), StudentT(3)])
def test_numpy_and_torch_have_the_same_parameters(output):
    head = head_of(output)
    raw = torch.linspace(-800, 800, 10 * output.width, dtype=torch.float64).view(output.width, 10).T
    distribution = head.distribution(raw)
    *degrees, location, scale = output.parameters(raw.numpy())
    # The two libraries round softplus differently.
    for found, expected in zip(
        (distribution.loc, distribution.scale, *([distribution.df] if degrees else [])),
        (location, scale, *degrees),
        strict=True,
    ):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-14)


def test_extreme_scores_have_finite_losses():
    for output in (Normal(1), StudentT(1)):
        raw = torch.tensor([[0.0, -1e4, -1e4], [0.0, 1e4, 1e4]])[:, : output.width].requires_grad_()
        loss = Head.of(output, FEATURES).loss_of(raw, torch.zeros(2, 1))
        loss.backward()
        assert loss.isfinite()
        assert raw.grad.isfinite().all()


@by_kind(OUTPUTS)
def test_half_precision_is_summed_in_float32(output):
    head = head_of(output).bfloat16()
    features, targets = data_of(output)
    raw = head(features.bfloat16())
    loss = head.loss_of(raw, targets)
    assert loss.dtype == head.loss(features.bfloat16(), targets).dtype == torch.float32
    assert torch.equal(loss, head.loss_of(raw.float(), targets))


def test_parameters_are_drawn_weight_first():
    torch.manual_seed(0)
    head = Head.of(Normal(3), FEATURES)
    torch.manual_seed(0)
    bound = FEATURES**-0.5
    assert torch.equal(head.weight, torch.empty(6, FEATURES).uniform_(-bound, bound))
    assert torch.equal(head.bias, torch.empty(6).uniform_(-bound, bound))
    assert repr(head) == "NormalHead(Normal(targets=3), features=6)"


def test_a_tied_weight_is_shared_and_not_reset_by_the_head():
    embedding = nn.Embedding(5, FEATURES)
    before = embedding.weight.detach().clone()
    model = nn.ModuleList([embedding, Head.of(Categorical(5), FEATURES, tied=embedding.weight)])
    model[1].reset_parameters()
    assert torch.equal(embedding.weight, before)
    for model_ in (model.double(), copy.deepcopy(model)):
        assert model_[1].weight is model_[0].weight
        assert len(list(model_.parameters())) == 2
    features, targets = data_of(Categorical(5))
    model[1].loss(features, targets).backward()
    assert embedding.weight.grad.any()


def test_weights_that_cannot_be_tied_raise():
    with pytest.raises(UserError, match=r"can't tie an embedding of shape \[5, 4\] to a head of shape \[5, 6\]"):
        Head.of(Categorical(5), FEATURES, tied=nn.Embedding(5, 4).weight)
    with pytest.raises(UserError, match="only a categorical output can be tied"):
        Head.of(Bernoulli(5), FEATURES, tied=nn.Embedding(5, FEATURES).weight)


@by_kind(OUTPUTS)
def test_targets_and_weights_of_the_wrong_shape_raise(output):
    head = head_of(output)
    features, targets = data_of(output)
    for wrong in (targets[..., None], targets.transpose(0, 1), targets[:1]):
        for attempt in (lambda w=wrong: head.loss(features, w), lambda w=wrong: head.loss_of(head(features), w)):
            with pytest.raises(UserError, match=r"targets for .* must have shape"):
                attempt()
    with pytest.raises(RuntimeError, match="expand"):
        head.loss(features, targets, torch.ones(*LEADING, 1))


@pytest.mark.slow
def test_a_mixture_of_logistics_has_exact_tails():
    output = LogisticMixture(256, 4)
    head = Head.of(output, 3)
    draw = torch.Generator().manual_seed(0)
    raw = (3 * torch.randn(256, output.width, generator=draw, dtype=torch.float64)).requires_grad_()
    losses = head.losses(raw, torch.arange(256))
    expected = -output.log_probabilities(raw.detach().numpy())[np.arange(256), np.arange(256)]
    assert losses.detach().numpy() == pytest.approx(expected, rel=1e-10)
    assert expected.max() > 50  # where a difference of two cumulative probabilities would round to 0
    assert torch.autograd.gradcheck(lambda x: head.losses(x, torch.arange(256)), raw)

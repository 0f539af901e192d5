"""The NumPy losses and their gradients match torch's heads."""

import numpy as np
import pytest
import torch

from throughtime.errors import UserError
from throughtime.losses import loss_and_gradient, targets_for
from throughtime.nn.heads import Head
from throughtime.outputs import Bernoulli, Categorical, Normal, Point, Quantiles, Signal, StudentT

OUTPUTS = [
    Categorical(5),
    Bernoulli(3),
    Point(2, "mse"),
    Point(2, "mae"),
    Quantiles(2, (0.1, 0.5, 0.9)),
    Normal(2),
    StudentT(2),
]


@pytest.mark.parametrize("output", OUTPUTS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0])  # where softplus is curved, and where it is linear
def test_losses_and_gradients_match_torchs_heads(output, scale):
    generator = torch.Generator().manual_seed(0)
    raw = (scale * torch.randn(50, output.width, generator=generator, dtype=torch.float64)).requires_grad_()
    if isinstance(output, Categorical):
        targets = torch.randint(5, (50,), generator=generator)
    elif isinstance(output, Bernoulli):
        targets = torch.randint(2, (50, 3), generator=generator)
    else:
        targets = torch.randn(50, *output.target_shape, generator=generator, dtype=torch.float64)
    wanted = Head.of(output, 4).loss_of(raw, targets)
    (gradient,) = torch.autograd.grad(wanted, raw)
    checked = targets_for(output, 50, targets.numpy())
    losses, found = loss_and_gradient(output, raw.detach().numpy(), checked)
    # Float64 rounding; torch's digamma is accurate to 1e-15 of the largest term.
    assert losses.shape == (50,)
    assert np.isclose(losses.sum(), wanted.item(), rtol=1e-12)
    assert np.allclose(found, gradient.numpy(), rtol=1e-10, atol=1e-12 * max(1, float(gradient.abs().max())))


def test_the_gradient_at_zero_error_matches_torch():
    for output in (Point(1, "mae"), Quantiles(1, (0.1, 0.9))):
        raw = torch.zeros(1, output.width, dtype=torch.float64, requires_grad=True)
        target = torch.zeros(1, 1, dtype=torch.float64)
        (wanted,) = torch.autograd.grad(Head.of(output, 1).loss_of(raw, target), raw)
        found = loss_and_gradient(output, np.zeros((1, output.width)), np.zeros((1, 1)))[1]
        assert np.allclose(found, wanted.numpy(), atol=1e-15)


def test_axes_of_size_1_can_be_omitted():
    for given in (3.0, 3, [3.0], [[3.0]], np.float32(3)):
        assert targets_for(Point(1, "mse"), 1, given).tolist() == [[3.0]]
    for given in (3, np.uint8(3), [3]):
        assert targets_for(Categorical(4), 1, given).tolist() == [3]
    assert targets_for(Point(1, "mse"), 2, [1, 2]).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("output", "given", "message"),
    [
        (Categorical(4), 4, "ids must be from 0 to 3"),
        (Categorical(4), -1, "ids must be from 0 to 3"),
        (Categorical(4), 1.0, r"targets must be ids \[1\], got float64"),
        (Categorical(4), "b", "targets must be ids"),
        (Point(2, "mse"), [1.0], r"targets must be numbers \[1, 2\], got float64 \[1\]"),
        (Point(2, "mse"), [1.0, float("nan")], "finite"),
        (Point(2, "mse"), [[1.0], [2.0, 3.0]], "targets must be numbers"),
        (Point(2, "mse"), [True, False], "got bool"),
        (Bernoulli(1), 2, "from 0 to 1"),
    ],
)
def test_invalid_targets_raise(output, given, message):
    with pytest.raises(UserError, match=message):
        targets_for(output, 1, given)


def test_a_signal_has_no_loss_for_single_steps():
    with pytest.raises(UserError, match="many steps"):
        loss_and_gradient(Signal(1), np.zeros((1, 1)), np.zeros((1, 1)))

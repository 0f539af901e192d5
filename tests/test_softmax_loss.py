"""The loss of the softmax head matches torch's cross-entropy and uses less memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from throughtime.nn import softmax_loss as module
from throughtime.nn.softmax_loss import softmax_loss


@pytest.fixture(params=[3, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of rows per chunk: small enough for several chunks, or large enough for a single one."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", request.param * 5)
    return int(request.param)


def arguments() -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(7, 4), (5, 4), (5,)]
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes] + [torch.randint(5, (7,))]


def dense(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(functional.linear(hidden, weight, bias), targets, reduction="sum")


def test_value_and_gradients_match_torch(chunk: int) -> None:
    ours, theirs = arguments(), arguments()
    for function, given in ((softmax_loss, ours), (dense, theirs)):
        (function(*given) * 0.5).backward()
    torch.testing.assert_close(softmax_loss(*ours), dense(*theirs), rtol=1e-14, atol=0)
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-13, atol=1e-14)


def test_first_and_second_derivatives_match_finite_differences(chunk: int) -> None:
    *given, targets = arguments()
    assert torch.autograd.gradcheck(lambda *a: softmax_loss(*a, targets), given)
    assert torch.autograd.gradgradcheck(lambda *a: softmax_loss(*a, targets), given)


def test_only_requested_gradients_are_computed(chunk: int) -> None:
    hidden, weight, bias, targets = arguments()
    softmax_loss(hidden.detach(), weight, bias.detach(), targets).backward()
    assert weight.grad is not None
    assert hidden.grad is None


def test_large_logits_do_not_overflow() -> None:
    hidden, weight = torch.full((1, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    assert softmax_loss(hidden, weight, torch.zeros(2), torch.tensor([1])).item() == 2e4


def test_half_precision_is_summed_in_float32() -> None:
    hidden, weight, bias, targets = (t.detach() for t in arguments())
    given = hidden.bfloat16(), weight.bfloat16(), bias.bfloat16()
    loss = softmax_loss(*given, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, dense(*(t.float() for t in given), targets))
    with torch.autocast("cpu", torch.bfloat16):
        assert softmax_loss(hidden.float(), weight.float(), bias.float(), targets).dtype == torch.float32

"""Connectivity of models that predict labels, tags and notes, compared with plain autograd."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from throughtime import Recurrent
from throughtime.errors import UserError
from throughtime.nn.encoders import Embedding, Numeric
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Bernoulli, Categorical, Output, Point
from throughtime.sight import connectivity, gradient_flow

T, B, FEATURES, HIDDEN, CLASSES = 6, 2, 3, 4, 5
CLOSE = {"rtol": 1e-9, "atol": 1e-12}  # float64
BOTH_WAYS = [False, True]


def network(output: Output, vocabulary_size: int | None = None, **options) -> SequenceModel:
    torch.manual_seed(4)
    layers = Recurrent("gru", FEATURES, HIDDEN, 2, dtype=torch.float64, dropout=0.3, **options)
    encoder = Embedding(vocabulary_size, FEATURES) if vocabulary_size else Numeric(FEATURES)
    return SequenceModel(encoder, layers, output, dropout=0.4).double()


def norms(model: SequenceModel, x: Tensor, scalars) -> Tensor:
    """Return the norm of the gradient of each scalar with respect to each input vector, `[scalars, T]`."""
    model.eval()
    vectors = (model.encoder(x) if model.reads_tokens else x).detach().requires_grad_()
    raw = model.head(model.recurrent(vectors)[0])
    found = [torch.autograd.grad(s, vectors, retain_graph=True)[0][:, 0].norm(dim=-1) for s in scalars(raw)]
    return torch.stack(found)


IDS = torch.randint(7, (T, 1), generator=torch.Generator().manual_seed(0))
NUMBERS = torch.randn(T, 1, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("bidirectional", BOTH_WAYS)
@pytest.mark.parametrize("vocabulary_size", [7, None])
def test_connectivity_of_labels_matches_autograd(bidirectional, vocabulary_size):
    model = network(Categorical(CLASSES), vocabulary_size, returns="last", bidirectional=bidirectional)
    x = IDS if vocabulary_size else NUMBERS
    best = norms(model, x, lambda raw: [raw.log_softmax(-1)[0].max()])
    found = connectivity(model.train(), x)
    assert model.training
    assert found.steps.tolist() == [T - 1]
    assert found.ahead is None
    np.testing.assert_allclose(found.past(T - 1), best[0], **CLOSE)
    np.testing.assert_allclose(connectivity(model, x[:, 0]).norms, found.norms, **CLOSE)  # without the batch axis
    third = norms(model, x, lambda raw: [raw.log_softmax(-1)[0, 3]])
    np.testing.assert_allclose(connectivity(model, x, 3).past(T - 1), third[0], **CLOSE)
    best = norms(model, x, lambda raw: [raw[0].max()])
    np.testing.assert_allclose(connectivity(model, x, of="best").past(T - 1), best[0], **CLOSE)


@pytest.mark.parametrize("bidirectional", BOTH_WAYS)
def test_connectivity_of_tags_includes_later_steps_if_bidirectional(bidirectional):
    model = network(Categorical(CLASSES), 7, bidirectional=bidirectional)
    wanted = norms(model, IDS, lambda raw: raw.log_softmax(-1)[:, 0].max(-1).values)
    found = connectivity(model, IDS, window=3, steps=[4, 1])
    for row, t in enumerate((4, 1)):
        for lag in range(4):
            if t >= lag:
                np.testing.assert_allclose(found.norms[row, lag], wanted[t, t - lag], **CLOSE)
            else:
                assert np.isnan(found.norms[row, lag])
            if bidirectional and t + lag < T:
                np.testing.assert_allclose(found.ahead[row, lag], wanted[t, t + lag], **CLOSE)
    assert (found.ahead is None) == (not bidirectional)
    assert found.figure() is not None


def test_targets_of_every_kind_of_head_are_accepted():
    model = network(Bernoulli(4))
    bits = torch.randint(2, (T, 1, 4), generator=torch.Generator().manual_seed(2)).double()
    wanted = norms(
        model, NUMBERS,
        lambda raw: nn.functional.binary_cross_entropy_with_logits(raw, bits, reduction="none")[:, 0].sum(-1),
    )  # fmt: skip
    found = connectivity(model, NUMBERS[:, 0].numpy(), bits[:, 0])
    np.testing.assert_allclose(found.past(4), wanted[4, :5], **CLOSE)
    flow = gradient_flow(model, NUMBERS, bits)
    np.testing.assert_allclose(flow.norms["input"], found.norms, **CLOSE)


def test_norms_are_averaged_over_the_batch():
    model = network(Categorical(CLASSES), returns="last", bidirectional=True)
    rows = torch.randn(T, B, FEATURES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    each = [connectivity(model, rows[:, k], 1).norms for k in range(B)]
    np.testing.assert_allclose(connectivity(model, rows, [1, 1]).norms, np.mean(each, 0), **CLOSE)


def test_chunk_size_does_not_change_results(monkeypatch):
    model = network(Categorical(CLASSES), bidirectional=True)
    whole = connectivity(model, NUMBERS)
    monkeypatch.setattr("throughtime.sight.gradients.backward._ELEMENTS", 1)
    np.testing.assert_allclose(connectivity(model, NUMBERS).ahead, whole.ahead, **CLOSE)


@pytest.mark.parametrize(
    ("model", "x", "options", "message"),
    [
        (network(Categorical(CLASSES), 7), [0, 7], {}, "token ids must be from 0 to 6, got 7"),
        (network(Categorical(CLASSES)), torch.zeros(T, 2), {}, r"must be numbers \[T, B, 3\].*got \[6, 1, 2\]"),
        (network(Categorical(CLASSES)), NUMBERS, {"targets": [1, 2]}, r"targets for .* must have shape \[6, 1\]"),
        (network(Point(1, "mse")), NUMBERS, {"of": "best"}, "scores tokens or labels"),
        (
            network(Categorical(CLASSES), returns="last", bidirectional=True), NUMBERS, {"steps": [2]},
            r"only output is at its last step, 5; got steps=\[2\]",
        ),
    ],
)  # fmt: skip
def test_invalid_arguments_raise(model, x, options, message):
    with pytest.raises(UserError, match=message):
        connectivity(model, x, **options)

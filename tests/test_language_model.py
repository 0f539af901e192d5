"""The language model matches the textbook equations in NumPy."""

import numpy as np
import pytest
import torch

from throughtime.errors import UserError
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import detached


def model_of(cell="lstm", *, embed=5, hidden=7, layers=2, vocabulary=11, **options):
    torch.manual_seed(0)
    recurrent = Recurrent(cell, embed, hidden, layers, engine="reference", dtype=torch.float64)
    return LanguageModel(vocabulary, recurrent, **options).double()


def ids(steps=6, rows=3, vocabulary=11, seed=1):
    return torch.randint(vocabulary, (steps, rows), generator=torch.Generator().manual_seed(seed))


def test_loss_and_scores_match_the_textbook():
    model = model_of("rnn", layers=1)
    tokens, targets = ids(), ids(seed=2)
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    wx, wa, ba = (weights[f"recurrent.{name}_l0"] for name in ("weight_x", "weight_h", "bias"))
    a, total, scores = np.zeros((3, 7)), 0.0, []
    for x, y in zip(tokens.numpy(), targets.numpy(), strict=True):
        a = np.tanh(weights["encoder.weight"][x] @ wx.T + a @ wa.T + ba)
        z = a @ weights["head.weight"].T + weights["head.bias"]
        probabilities = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        total -= np.log(probabilities[np.arange(3), y]).sum()
        scores.append(z)
    loss, state = model.loss(tokens, targets)
    # Rounding of float64 over six steps.
    assert loss.item() == pytest.approx(total, rel=1e-13)
    np.testing.assert_allclose(model(tokens)[0].detach().numpy(), np.stack(scores), atol=1e-13)
    np.testing.assert_allclose(state[0].detach().numpy(), a, atol=1e-13)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_windows_with_a_carried_state_add_up_to_the_loss_of_the_whole_sequence(cell):
    model = model_of(cell)
    tokens, targets = ids(12), ids(12, seed=2)
    whole, _ = model.loss(tokens, targets)
    state, parts = None, []
    for k in range(0, 12, 4):
        loss, state = model.loss(tokens[k : k + 4], targets[k : k + 4], state)
        state = detached(state)
        parts.append(loss)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-13)  # rounding of sums in a different order


def test_the_gradient_stops_at_a_detached_state():
    model = model_of()
    _, past_state = model(ids())
    embedding, past = model.encoder.weight, ids()
    for state, reaches in ((past_state, True), (detached(past_state), False)):
        scores, _ = model.recurrent(torch.zeros(1, 3, 5, dtype=torch.float64), state)
        gradient = torch.autograd.grad(scores.sum(), embedding, allow_unused=True, retain_graph=True)[0]
        assert (gradient is not None and bool(gradient[past].any())) == reaches


def test_a_tied_softmax_layer_uses_the_embedding():
    model = model_of(embed=7, tie=True)
    assert model.head.weight is model.encoder.weight
    assert "head.weight" not in dict(model.named_parameters())
    output, _ = model.recurrent(model.encoder(ids()))
    expected = output @ model.encoder.weight.T + model.head.bias
    torch.testing.assert_close(model(ids())[0], expected, rtol=0, atol=1e-14)
    with pytest.raises(UserError, match="can't tie an embedding of width 5 to a softmax layer of width 7"):
        model_of(embed=5, tie=True)


def test_dropout_is_only_active_in_training():
    model = model_of(dropout=0.5)
    assert not torch.equal(model(ids())[0], model(ids())[0])
    model.eval()
    assert torch.equal(model(ids())[0], model(ids())[0])

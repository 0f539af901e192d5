"""`accelerate` changes what runs, and nothing that a user holds."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import throughtime
from throughtime.errors import UserError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.encoder = nn.LSTM(4, 5, 2, bidirectional=True, dropout=0.1)
        self.middle = nn.Sequential(nn.Linear(10, 6), nn.Tanh())
        self.decoder = nn.GRU(6, 5, batch_first=True)
        self.cell = nn.RNNCell(5, 3)  # tanh: dead rectifiers would leave nothing to compare

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.encoder(self.embedding(ids))
        y, _ = self.decoder(self.middle(y))
        return self.cell(y[-1])  # type: ignore[no-any-return]


def test_outputs_optimisers_hooks_and_keys_stay() -> None:
    torch.manual_seed(0)
    model = Model().eval()
    plain = copy.deepcopy(model)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    seen: list[str] = []
    model.encoder.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    keys, parameters = list(model.state_dict()), list(model.parameters())

    report = throughtime.accelerate(model)

    assert set(report.changed) == {"encoder", "decoder", "cell"}
    assert not report.left
    assert "changed encoder: torch.nn.LSTM to throughtime.LSTM" in str(report)
    assert isinstance(model.encoder, throughtime.LSTM)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))

    ids = torch.randint(7, (6, 3))
    for module in (model, plain):
        module(ids).sin().sum().backward()
    assert seen == ["LSTM"]
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=3e-5, atol=1e-7)  # float32 rounding
    before = model.encoder.weight_hh_l0.detach().clone()
    optimiser.step()
    assert not torch.equal(before, model.encoder.weight_hh_l0)
    torch.testing.assert_close(throughtime.accelerate(model).changed, {})


def test_a_layer_itself_is_changed() -> None:
    layer = nn.GRU(3, 4)
    assert throughtime.accelerate(layer).changed == {"": "torch.nn.GRU to throughtime.GRU"}
    assert isinstance(layer, throughtime.GRU)


def test_what_would_not_gain_is_left_and_named() -> None:
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"own": Own(3, 4), "bf16": nn.GRU(3, 4).bfloat16()})
    report = throughtime.accelerate(model)
    assert not report.changed
    assert "class of its own" in report.left["own"]
    assert "bfloat16" in report.left["bf16"]
    assert type(model["own"]) is Own


def test_an_accelerated_model_compiles_whole() -> None:
    model = Model().eval()
    throughtime.accelerate(model)
    ids = torch.randint(7, (6, 3))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), model(ids))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match="given int"):
        throughtime.accelerate(3)  # type: ignore[arg-type]

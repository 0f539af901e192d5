"""`accelerate` changes how layers run, and nothing else that is visible to the user."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import throughtime
from throughtime.acceleration import substitute_layers
from throughtime.errors import UserError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.encoder = nn.LSTM(4, 5, 2, bidirectional=True, dropout=0.1)
        self.middle = nn.Sequential(nn.Linear(10, 6), nn.Tanh())
        self.decoder = nn.GRU(6, 5, batch_first=True)
        self.cell = nn.RNNCell(5, 3)  # tanh, because dead ReLUs would leave nothing to compare

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.encoder(self.embedding(ids))
        y, _ = self.decoder(self.middle(y))
        return self.cell(y[-1])  # type: ignore[no-any-return]


def test_outputs_optimizers_hooks_and_keys_are_preserved() -> None:
    torch.manual_seed(0)
    model = Model().eval()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen: list[str] = []
    model.encoder.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    keys, parameters = list(model.state_dict()), list(model.parameters())

    report = substitute_layers(model)

    assert set(report.changed) == {"encoder", "decoder"}
    assert "single steps" in report.left["cell"]
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
    optimizer.step()
    assert not torch.equal(before, model.encoder.weight_hh_l0)
    again = substitute_layers(model)
    assert not again.changed
    assert again.ours == ["encoder", "decoder"]
    assert "already accelerated: encoder, decoder" in str(again)


def test_a_single_layer_is_changed() -> None:
    layer = nn.GRU(3, 4)
    assert throughtime.accelerate(layer) is layer
    assert isinstance(layer, throughtime.GRU)


def test_layers_that_would_not_be_faster_are_unchanged_and_reported() -> None:
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"own": Own(3, 4), "bf16": nn.GRU(3, 4).bfloat16()})
    report = substitute_layers(model)
    assert not report.changed
    assert "custom class" in report.left["own"]
    assert "bfloat16" in report.left["bf16"]
    assert type(model["own"]) is Own


def test_an_accelerated_model_compiles_as_a_full_graph() -> None:
    model = Model().eval()
    throughtime.accelerate(model)
    ids = torch.randint(7, (6, 3))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), model(ids))


def test_other_types_are_rejected() -> None:
    with pytest.raises(UserError, match="takes a torch module, got int"):
        throughtime.accelerate(3)  # type: ignore[arg-type]


def test_changes_are_printed_and_logged(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"layer": nn.GRU(3, 4)})
    with caplog.at_level("INFO", "throughtime"):
        assert throughtime.accelerate(model, verbose=True) is model
    assert capsys.readouterr().out == "changed layer: torch.nn.GRU to throughtime.GRU\n"
    assert "changed layer" in caplog.text
    with caplog.at_level("WARNING", "throughtime"):
        throughtime.accelerate(nn.Linear(3, 4))
    assert "no recurrent layer found" in caplog.text


@pytest.mark.filterwarnings("ignore")  # torch deprecates both
def test_scripted_traced_and_quantized_layers_are_reported() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    x = torch.randn(5, 2, 3)
    for made in (torch.jit.script(Wrapped()), torch.jit.trace(Wrapped(), x)):
        assert "scripted or traced" in substitute_layers(made).left["rnn"]
    quantized = torch.ao.quantization.quantize_dynamic(Wrapped(), {nn.LSTM})
    assert "quantized" in substitute_layers(quantized).left["rnn"]


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_layers_are_instances_of_torchs_classes(name: str) -> None:
    ours, theirs = getattr(throughtime, name), getattr(nn, name)
    layer = ours(3, 4)
    assert isinstance(layer, theirs)
    assert isinstance(layer, ours)
    assert type(layer) is ours
    for made in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(made) is ours
        assert isinstance(made, theirs)
        for a, b in zip(made.parameters(), layer.parameters(), strict=True):
            assert torch.equal(a, b)


def test_initializers_that_check_for_torchs_layers_find_ours() -> None:
    def initialize(module: nn.Module) -> None:
        if isinstance(module, nn.LSTM | nn.GRU):
            nn.init.ones_(module.weight_hh_l0)

    model = nn.ModuleList([nn.LSTM(3, 4), nn.GRU(3, 4)])
    throughtime.accelerate(model).apply(initialize)
    assert all(bool((layer.weight_hh_l0 == 1).all()) for layer in model)


def test_restore_brings_back_torchs_layers() -> None:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    parameters, keys = list(model.parameters()), list(model.state_dict())
    throughtime.accelerate(model)
    ids = torch.randint(7, (6, 3))
    model(ids).sum().backward()
    optimizer.step()
    throughtime.freeze(model)
    expected = model(ids)
    assert throughtime.restore(model) is model
    assert [type(m) for m in (model.encoder, model.decoder, model.cell)] == [nn.LSTM, nn.GRU, nn.RNNCell]
    assert set(vars(model.encoder)) == set(vars(nn.LSTM(1, 1)))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(ids), expected)
    model.train()
    optimizer.zero_grad()
    model(ids).sum().backward()
    optimizer.step()
    assert all(optimizer.state[p]["step"] == 2 for p in parameters)
    layer = throughtime.restore(throughtime.RNN(3, 4, engine="reference"))
    assert type(layer) is nn.RNN
    assert "engine" not in vars(layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("altered", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_restored_layer_still_trains_its_weight_norm(altered: Any) -> None:
    model, x = throughtime.accelerate(nn.Sequential(nn.LSTM(3, 4))), torch.randn(5, 2, 3)
    altered(model[0], "weight_hh_l0")
    throughtime.restore(model)
    assert not isinstance(model[0], throughtime.LSTM)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
        expected = throughtime.from_torch(model[0])(x)[0]
        torch.testing.assert_close(model(x)[0], expected, rtol=0, atol=1e-6)


def test_a_layer_that_is_being_recorded_cannot_be_restored() -> None:
    layer = throughtime.LSTM(3, 4)
    with throughtime.record(layer, "layer0.forget"), pytest.raises(UserError, match="being recorded or edited"):
        throughtime.restore(layer)
    assert type(layer) is throughtime.LSTM

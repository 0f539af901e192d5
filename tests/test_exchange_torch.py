"""Conversion from and to torch's layers: results are equal. Models with throughtime layers work with torch.export."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import throughtime
from throughtime.errors import UserError
from throughtime.language import affine, layer_norm, linear, sigmoid, state, tanh
from throughtime.nn.language_model import LanguageModel

INPUT, HIDDEN, STEPS, ROWS = 3, 4, 5, 2
# Sums of a dozen products in a different order, over five steps and two layers.
CLOSE = {"rtol": 0.0, "atol": 1e-13}

KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 2}),
    "GRU": (nn.GRU, {}),
}


def torchs(name: str, **words: Any) -> nn.RNNBase:
    kind, own = KINDS[name]
    return kind(INPUT, HIDDEN, **{"num_layers": 2, "dtype": torch.float64, **own, **words})


def assert_alike(one: nn.Module, other: nn.Module, *given: Tensor) -> None:
    """Check that two modules return the same outputs and states."""
    x = given or (torch.randn(STEPS, ROWS, INPUT, dtype=torch.float64),)
    torch.testing.assert_close(flat(one.eval()(*x)), flat(other.eval()(*x)), **CLOSE)


def flat(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else [t for value in values for t in flat(value)]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("bias", "bidirectional"), list(product([True, False], repeat=2)))
def test_layers_survive_a_round_trip(name: str, bias: bool, bidirectional: bool) -> None:
    layer = torchs(name, bias=bias, bidirectional=bidirectional)
    ours = throughtime.from_torch(layer)
    assert_alike(ours, layer)
    back = throughtime.to_torch(ours)
    assert type(back) is type(layer)
    assert str(back) == str(layer)
    assert_alike(back, layer)


@pytest.mark.parametrize("name", KINDS)
def test_a_state_dict_is_enough(name: str) -> None:
    model = nn.ModuleDict({"encoder": torchs(name), "head": nn.Linear(2, 2)})
    nonlinearity = KINDS[name][1].get("nonlinearity")
    ours = throughtime.from_torch(model.state_dict(), prefix="encoder.", nonlinearity=nonlinearity)
    assert_alike(ours, model["encoder"])


@pytest.mark.parametrize("name", KINDS)
def test_drop_ins_convert_to_torchs_layers(name: str) -> None:
    words = {"num_layers": 2, "bidirectional": True, "batch_first": True, **KINDS[name][1]}
    ours = getattr(throughtime, KINDS[name][0].__name__)(INPUT, HIDDEN, dtype=torch.float64, **words)
    back = throughtime.to_torch(ours)
    assert type(back) is KINDS[name][0]
    assert all(torch.equal(ours.state_dict()[n], tensor) for n, tensor in back.state_dict().items())
    assert_alike(back, ours)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_drop_in_cells_convert_to_torchs_cells(name: str) -> None:
    ours = getattr(throughtime, name)(INPUT, HIDDEN, dtype=torch.float64)
    back = throughtime.to_torch(ours)
    assert type(back) is getattr(nn, name)
    assert_alike(back, ours, torch.randn(ROWS, INPUT, dtype=torch.float64))


@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "gru", "lstm", "lstm_np"])
def test_cells_convert_to_torchs_layers(cell: str) -> None:
    ours = throughtime.Recurrent(cell, INPUT, HIDDEN, 2, dropout=0.5, batch_first=True, dtype=torch.float64)
    back = throughtime.to_torch(ours)
    assert back.dropout == 0.5
    assert back.batch_first
    assert_alike(back, ours)


def test_options_apply_to_converted_layers() -> None:
    layer = torchs("LSTM", dropout=0.25, batch_first=True)
    ours = throughtime.from_torch(layer, zoneout=0.5, learn_initial=True, engine="reference")
    wanted = {"batch_first": True, "dropout": 0.25, "zoneout": 0.5, "learn_initial": True}
    assert ours.options.data == wanted
    assert ours.engine == "reference"
    assert not ours.initial_cell_l1.any()
    assert throughtime.from_torch(layer, batch_first=False).options.data == {"dropout": 0.25}


def test_weights_are_trainable_copies() -> None:
    layer = torchs("GRU")
    ours = throughtime.from_torch(layer)
    back = throughtime.to_torch(ours)
    before = [p.detach().clone() for p in back.parameters()]
    x = torch.randn(STEPS, ROWS, INPUT, dtype=torch.float64)
    back(x)[0].sum().backward()
    assert all(p.grad is not None for p in back.parameters())
    with torch.no_grad():
        for parameter in (*layer.parameters(), *ours.parameters()):
            parameter.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), before, strict=True))


# Normalized, pruned and parametrized weights.


def normed(layer: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(layer, "weight_hh_l0")


PARAMETRIZED = {
    "weight norm": normed,
    "weight norm by a hook": lambda layer: nn.utils.weight_norm(layer, "weight_hh_l1"),
    "spectral norm": lambda layer: parametrizations.spectral_norm(layer, "weight_ih_l0"),
    "spectral norm by a hook": lambda layer: nn.utils.spectral_norm(layer, "weight_ih_l0"),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight_hh_l0", 0.5),
    "pruned twice": lambda layer: prune.random_unstructured(
        prune.l1_unstructured(layer, "bias_ih_l0", 1), "bias_ih_l0", 2
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("way", PARAMETRIZED)
@pytest.mark.parametrize("kind", [nn.GRU, throughtime.LSTM])
def test_parametrized_layers_convert_with_their_effective_weights(kind: Any, way: str) -> None:
    torch.manual_seed(0)
    layer = PARAMETRIZED[way](kind(INPUT, HIDDEN, 2, dtype=torch.float64))
    layer(torch.zeros(STEPS, ROWS, INPUT, dtype=torch.float64))
    with torch.no_grad():  # like an optimizer step without a forward pass after it
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    ours = throughtime.from_torch(layer)
    assert layer.training
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert_alike(ours, layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("way", PARAMETRIZED)
@pytest.mark.parametrize("inside", [False, True])
def test_parametrized_drop_ins_convert_with_their_effective_weights(way: str, inside: bool) -> None:
    torch.manual_seed(0)
    layer = PARAMETRIZED[way](throughtime.LSTM(INPUT, HIDDEN, 2, dtype=torch.float64)).eval()
    theirs = throughtime.to_torch(nn.Sequential(layer))[0] if inside else throughtime.to_torch(layer)
    assert type(theirs) is nn.LSTM
    assert not theirs.training
    x = torch.randn(STEPS, ROWS, INPUT, dtype=torch.float64)
    torch.testing.assert_close(theirs(x)[0], layer(x)[0], **CLOSE)


# Models that contain layers.


class Tagger(nn.Module):
    """Two layers that share weights, a cell and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(INPUT, INPUT), nn.LSTM(INPUT, INPUT)
        self.second.weight_hh_l0 = self.first.weight_hh_l0
        self.cell, self.head = nn.GRUCell(INPUT, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.second(self.first(x)[0])
        return self.head(self.cell(y[-1]))


def test_a_model_with_drop_ins_converts_to_torchs() -> None:
    model = Tagger().double()
    x = torch.randn(STEPS, ROWS, INPUT, dtype=torch.float64)
    wanted = model(x)
    throughtime.accelerate(model)
    model.first.engine = "reference"
    back = throughtime.to_torch(model)
    assert [type(m) for m in (back.first, back.second, back.cell)] == [nn.LSTM, nn.LSTM, nn.GRUCell]
    assert type(model.first) is not nn.LSTM  # the original is unchanged
    assert back.second.weight_hh_l0 is back.first.weight_hh_l0 is not model.first.weight_hh_l0
    assert back.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(back(x), wanted, **CLOSE)


def test_a_model_with_a_recurrent_converts_to_torchs() -> None:
    layer = throughtime.Recurrent("gru", HIDDEN, HIDDEN, batch_first=True, dtype=torch.float64)
    model = nn.ModuleList([nn.Sequential(nn.Linear(INPUT, HIDDEN, dtype=torch.float64), layer), layer]).eval()
    back = throughtime.to_torch(model)
    assert type(back[1]) is nn.GRU
    assert back[1] is back[0][1]
    assert not back[1].training
    assert_alike(back[0], model[0])


def test_layers_that_torch_lacks_are_rejected() -> None:
    for words, told in [
        ({"cell": "gru_reset_before"}, "no layer for the cell 'gru_reset_before'.*rnn, rnn_relu, lstm, gru"),
        ({"cell": "lstm", "heads": 2}, "no layer for the cell 'lstm' as configured.*heads"),
        ({"cell": "lstm", "clip": 1.0}, "no layer for the cell 'lstm'"),
        ({"cell": "gru", "zoneout": 0.1}, "no option zoneout, but this one has zoneout=0.1"),
        ({"cell": "gru", "bidirectional": True, "merge": "sum"}, "no option merge"),
        ({"cell": "gru", "learn_initial": True}, "no option learn_initial"),
        ({"cell": "gru", "reverse": True}, "no option reverse"),
    ]:
        with pytest.raises(UserError, match=told):
            throughtime.to_torch(throughtime.Recurrent(input_size=INPUT, hidden_size=HIDDEN, **words))
    for module, told in [
        (nn.Linear(2, 3), "got a Linear without a throughtime layer"),
        (nn.Sequential(nn.Linear(2, 3), throughtime.Recurrent("mgu", 3, 3)), "layer '1': torch has no layer"),
        (LanguageModel(7, throughtime.Recurrent("lstm", 4, 4)), r"model\.recurrent"),
    ]:
        with pytest.raises(UserError, match=told):
            throughtime.to_torch(module)


def test_weights_that_do_not_fit_a_torch_layer_are_rejected() -> None:
    layer = torchs("LSTM")
    weights = layer.state_dict()

    def without(*names: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in weights.items() if name not in names}

    for given, words, told in [
        (nn.Linear(2, 3), {}, "got Linear"),
        ({"a": 3}, {}, "got dict"),
        (
            nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 4)),
            {},
            r"got Sequential: pass one of its layers, .*\('1'\).*accelerate",
        ),
        ({}, {}, "expected the tensors weight_ih_l0 and weight_hh_l0"),
        (
            {f"encoder.{n}": t for n, t in weights.items()},
            {},
            r"found tensors with the prefix 'encoder\.': pass it as prefix",
        ),
        (weights, {"prefix": "x."}, "expected the tensors x.weight_ih_l0"),
        (without("bias_hh_l1"), {}, r"bias_hh_l1 must have shape \[16\], got no tensor"),
        (weights | {"weight_ih_l1": torch.zeros(16, 3)}, {}, r"weight_ih_l1 must have shape \[16, 4\]"),
        (weights | {"weight_ih_l0": torch.zeros(16)}, {}, "2 dimensions"),
        (weights | {"weight_hh_l0": torch.zeros(8, 4)}, {}, "1, 3 or 4 blocks of 4 rows"),
        (
            weights | {"bias_ih_l9": torch.zeros(16)},
            {},
            "unexpected tensor 'bias_ih_l9' for this torch layer.*did you mean",
        ),
        (weights | {"bias_ih_l0": torch.zeros(16)}, {}, "torch.float32, torch.float64"),
        (weights, {"nonlinearity": "tahn"}, "did you mean tanh"),
        (layer, {"zoneuot": 0.1}, "did you mean zoneout"),
        (layer, {"bidirectional": True}, "bidirectional must be False for these weights, got True"),
        (normed(torchs("GRU")).state_dict(), {}, "parametrized.*pass the layer itself"),
    ]:
        with pytest.raises(UserError, match=told):
            throughtime.from_torch(given, **words)


# torch.export.


@throughtime.cell
def own(x, h=state("hidden", initial=0.25), *, leak=0.5):  # type: ignore[no-untyped-def]
    u = sigmoid(layer_norm("update", affine("update", x, h)))
    n = tanh(affine("candidate", x) + linear("again", u * h))
    h = h + leak * (n - u * h)
    return h


class Net(nn.Module):
    """A user's model with a throughtime layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Any:
        output, final = self.layer(x)
        return self.head(output), final


EXPORTED = {
    "own": lambda: throughtime.Recurrent(own, INPUT, HIDDEN, 2, bidirectional=True),
    "features": lambda: throughtime.Recurrent("lstm", INPUT, HIDDEN, 2, learn_initial=True, skip="dense", zoneout=0.1),
    "RNN": lambda: throughtime.RNN(INPUT, HIDDEN, batch_first=True),
    "LSTM": lambda: throughtime.LSTM(INPUT, HIDDEN, 2, bidirectional=True),
    "GRU": lambda: throughtime.GRU(INPUT, HIDDEN),
    "language model": lambda: LanguageModel(7, throughtime.Recurrent("gru", INPUT, HIDDEN)),
}


@pytest.mark.parametrize(("name", "strict"), [("own", True), *((name, False) for name in EXPORTED)])
def test_a_model_is_exported_with_dynamic_steps_and_batch_size(name: str, strict: bool) -> None:
    torch.manual_seed(0)
    net = Net(EXPORTED[name]()).eval()

    def some(steps: int, rows: int) -> Tensor:
        return torch.randint(7, (steps, rows)) if name == "language model" else torch.randn(steps, rows, INPUT)

    net(some(STEPS, ROWS))
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(net, (some(STEPS, ROWS),), dynamic_shapes={"x": any_size}, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for steps, rows in ((STEPS, ROWS), (11, 3)):
        x = some(steps, rows)
        assert all(torch.equal(a, b) for a, b in zip(flat(loaded(x)), flat(net(x)), strict=True))

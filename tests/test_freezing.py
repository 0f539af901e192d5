"""Frozen layers: bit-identical results, no effect of later changes, and unfreezing when torch replaces weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime
from throughtime.engines import get
from throughtime.errors import UserError
from throughtime.nn.freezing import Freezable

pytestmark = pytest.mark.skipif(
    get("native").refuses(None, torch.zeros(1)) is not None,  # type: ignore[arg-type]
    reason="the extension is not built",
)

_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: throughtime.RNN(3, 5),
    "lstm": lambda: throughtime.LSTM(3, 5, 2, bidirectional=True),
    "lstm with a projection": lambda: throughtime.LSTM(3, 5, proj_size=2),
    "gru": lambda: throughtime.GRU(3, 5, bias=False),
    "double": lambda: throughtime.GRU(3, 5, dtype=torch.float64),
    "recurrent": lambda: throughtime.Recurrent("lstm_layer_norm", 3, 5, 2, bidirectional=True),
    "reference": lambda: throughtime.LSTM(3, 5, engine="reference"),
    "weight drop": lambda: throughtime.Recurrent("gru", 3, 5, weight_drop=0.5, zoneout=0.2, learn_initial=True),
}


def _flat(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [t for of in found for t in _flat(of)]


def _dtype(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


@pytest.mark.parametrize("name", _LAYERS)
@pytest.mark.parametrize("packed", [False, True])
def test_results_are_bit_identical(name: str, packed: bool) -> None:
    torch.manual_seed(0)
    layer = _LAYERS[name]().eval()
    x: Any = torch.randn(7, 4, 3, dtype=_dtype(layer))
    if packed:
        x = pack_padded_sequence(x, torch.tensor([7, 5, 2, 2]))
    with torch.no_grad():
        wanted = _flat([t.data if hasattr(t, "batch_sizes") else t for t in layer(x)])
        throughtime.freeze(layer)
        for _ in range(2):
            found = _flat([t.data if hasattr(t, "batch_sizes") else t for t in layer(x)])
            assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize("cell", [throughtime.RNNCell, throughtime.LSTMCell, throughtime.GRUCell])
def test_single_steps_are_bit_identical(cell: Any) -> None:
    torch.manual_seed(0)
    step, x = cell(3, 5), torch.randn(4, 3)
    with torch.no_grad():
        wanted = _flat(step(x))
        found = _flat(throughtime.freeze(step)(x))
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


@torch.no_grad()
def test_later_changes_take_effect_after_freezing_again() -> None:
    torch.manual_seed(0)
    layer, x = throughtime.freeze(throughtime.LSTM(3, 5)), torch.randn(4, 2, 3)
    before = layer(x)[0]
    layer.weight_hh_l0.data *= 2
    assert torch.equal(layer(x)[0], before)
    throughtime.freeze(layer)
    assert not torch.equal(layer(x)[0], before)


def test_training_does_not_use_the_cache() -> None:
    layer = throughtime.freeze(throughtime.GRU(3, 5))
    layer.training = True  # without calling train()
    layer(torch.randn(4, 2, 3))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize(
    "unfreeze",
    [
        lambda m: m.train(),
        lambda m: m.to(torch.float64),
        lambda m: m.load_state_dict(m.state_dict()),
    ],
    ids=["train", "to", "load_state_dict"],
)
def test_a_layer_inside_a_model_is_unfrozen(unfreeze: Callable[[nn.Module], Any]) -> None:
    layer = throughtime.Recurrent("mgu", 3, 5)
    model = throughtime.freeze(nn.ModuleDict({"layer": layer}))
    assert layer.frozen is not None
    assert not model.training
    unfreeze(model)
    assert layer.frozen is None


def test_gradients_are_available_after_unfreezing() -> None:
    layer = throughtime.freeze(throughtime.LSTM(3, 5)).train()
    layer(torch.randn(4, 2, 3))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_only_the_input_has_a_gradient_while_frozen() -> None:
    torch.manual_seed(0)
    layer, x = throughtime.GRU(3, 5).eval(), torch.randn(6, 2, 3, requires_grad=True)
    (wanted,) = torch.autograd.grad(layer(x)[0].square().sum(), x)
    y = throughtime.freeze(layer)(x)[0].square().sum()
    y.backward()
    assert torch.equal(x.grad, wanted)  # type: ignore[arg-type]
    assert all(p.grad is None for p in layer.parameters())


def test_a_copy_is_not_frozen() -> None:
    layer = throughtime.freeze(throughtime.LSTM(3, 5))
    with torch.no_grad():
        layer(torch.randn(4, 2, 3))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.frozen is None
    assert layer.frozen is not None


@torch.no_grad()
def test_recordings_are_the_same() -> None:
    torch.manual_seed(0)
    layer, x = throughtime.LSTM(3, 5).eval(), torch.randn(6, 2, 3)
    with throughtime.record(layer, "*.forget") as wanted:
        layer(x)
    throughtime.freeze(layer)
    with throughtime.record(layer, "*.forget") as found:
        layer(x)
    assert torch.equal(found["layer0.forget"], wanted["layer0.forget"])


@torch.no_grad()
def test_a_compiled_graph_uses_the_parameters() -> None:
    torch.manual_seed(0)
    layer, x = throughtime.freeze(throughtime.LSTM(3, 5)), torch.randn(6, 2, 3)
    found = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0]
    assert torch.equal(found, layer(x)[0])


def test_torchs_layers_must_be_accelerated_before_freezing() -> None:
    model = nn.Sequential(nn.LSTM(3, 5))
    with pytest.raises(UserError, match=r"Sequential has no throughtime layer.*accelerate"):
        throughtime.freeze(model)
    throughtime.accelerate(model)
    throughtime.freeze(model)
    assert isinstance(model[0], Freezable)
    assert model[0].frozen is not None


@pytest.mark.parametrize("given", [None, "run", {"weight": torch.zeros(1)}])
def test_other_types_are_rejected(given: Any) -> None:
    with pytest.raises(UserError, match=f"expects a torch module.*got {type(given).__name__}"):
        throughtime.freeze(given)


@torch.no_grad()
def test_an_input_of_another_dtype_is_rejected() -> None:
    layer = throughtime.freeze(throughtime.Recurrent("gru", 3, 5))
    with pytest.raises(UserError, match=r"input must have the layers' dtype, torch\.float32, got torch\.float64"):
        layer(torch.randn(4, 2, 3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_weight_that_a_hook_computes_is_frozen_as_the_next_call_has_it(kind: str) -> None:
    layer, x = torch.nn.utils.weight_norm(getattr(throughtime, kind)(3, 4), "weight_hh_l0"), torch.randn(5, 2, 3)
    with torch.no_grad():
        layer.weight_hh_l0_g.mul_(3)  # like an optimizer step without a forward pass after it
        found = throughtime.freeze(layer)(x)[0]
        assert torch.equal(found, layer.train()(x)[0])

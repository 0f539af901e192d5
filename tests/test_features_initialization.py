"""Initialization schemes match the papers, torch and Keras."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from throughtime import cells
from throughtime.errors import UserError
from throughtime.nn.initialization import gates_that_keep
from throughtime.nn.recurrent import Recurrent
from throughtime.sight.untrained import untrained_model

HIDDEN = 64


def started(cell: str, scheme: float | str = "uniform", **words: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    layer = Recurrent(cell, 24, HIDDEN)
    layer.reset_parameters(scheme, **words)
    return {name.removesuffix("_l0"): p.detach() for name, p in layer.named_parameters()}


def test_uniform_matches_torch() -> None:
    found = started("lstm")
    for tensor in found.values():
        assert 0.9 / math.sqrt(HIDDEN) < tensor.abs().max() <= 1 / math.sqrt(HIDDEN)
    assert started("lstm", 0.02)["weight_h"].abs().max() <= 0.02


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu"])
def test_identity_matches_irnn(cell: str) -> None:
    found = started(cell, "identity")
    for gate in found["weight_h"].split(HIDDEN):
        assert torch.equal(gate, torch.eye(HIDDEN))
    assert (found["bias"] == 0).all()
    assert found["weight_x"].std() == pytest.approx(0.001, rel=0.1)


def test_glorot_matches_keras() -> None:
    found = started("lstm", "glorot")
    bound = math.sqrt(6 / (24 + 4 * HIDDEN))
    assert 0.9 * bound < found["weight_x"].abs().max() <= bound
    # Keras orthogonalizes the matrices of all gates together.
    torch.testing.assert_close(found["weight_h"].T @ found["weight_h"], torch.eye(HIDDEN), rtol=0, atol=1e-5)
    gates = found["bias"].split(HIDDEN)
    assert [float(g.mean()) for g in gates] == [0, 1, 0, 0]  # input, forget, candidate, output
    assert (started("lstm", "glorot", forget_bias=0.0)["bias"] == 0).all()


@pytest.mark.parametrize("scheme", ["uniform", "orthogonal", "identity", "glorot", 0.1])
@pytest.mark.parametrize("cell", cells.names())
def test_initial_values_declared_by_a_cell_take_precedence(cell: str, scheme: float | str) -> None:
    found = started(cell, scheme)
    for parameter in cells.get(cell).program(24, HIDDEN).parameters:
        tensor = found[parameter.name.replace(".", "_")]
        assert tensor.isfinite().all()
        for part in parameter.parts:
            if part.initial is not None and not (scheme == "glorot" and part.gate == "forget"):
                assert (tensor[part.start : part.stop] == part.initial).all()


def gate_bias(cell: str, gate: str, **words: Any) -> torch.Tensor:
    program = cells.get(cell).program(24, HIDDEN)
    part = next(q for p in program.parameters if p.name == "bias" for q in p.parts if q.gate == gate)
    return started(cell, **words)["bias"][part.start : part.stop]


@pytest.mark.parametrize(
    ("cell", "gate", "sign"),
    [("lstm", "forget", 1), ("gru", "update", 1), ("mgu", "forget", -1), ("janet", "forget", 1),
     ("mingru", "update", -1), ("slstm", "forget", 1), ("lstm_coupled", "input", -1), ("ugrnn", "update", 1)],
)  # fmt: skip
def test_chrono_spreads_time_constants_uniformly(cell: str, gate: str, sign: int) -> None:
    """A gate with bias b keeps a unit for about 1 + exp(b) steps. This time must be uniformly distributed."""
    bias = sign * gate_bias(cell, gate, chrono=500)
    assert bias.min() >= 0
    assert bias.max() <= math.log(499)
    assert float(bias.exp().mean()) == pytest.approx(250, rel=0.25)  # 64 draws


def test_chrono_sets_the_input_gate_to_the_negative_forget_bias() -> None:
    assert torch.equal(gate_bias("lstm", "input", chrono=500), -gate_bias("lstm", "forget", chrono=500))
    assert not torch.equal(gate_bias("lstm", "output", chrono=500), -gate_bias("lstm", "forget", chrono=500))


def test_gates_that_keep_the_state_are_detected() -> None:
    assert gates_that_keep(cells.get("gru").program(3, 4)) == {"update": 1.0}
    assert gates_that_keep(cells.get("mgu").program(3, 4)) == {"forget": -1.0}
    assert gates_that_keep(cells.get("rnn").program(3, 4)) == {}


@pytest.mark.parametrize(
    ("cell", "words", "message"),
    [
        ("lstm", {"scheme": "orthogonl"}, "did you mean orthogonal"),
        ("rnn", {"chrono": 100}, "cell 'rnn' has none"),
        ("gru", {"forget_bias": 1.0}, "needs a gate named forget with a bias; cell 'gru' has none"),
        ("lstm", {"chrono": 100, "forget_bias": 1.0}, "pass only one of them"),
        ("lstm", {"chrono": 1}, "a number of steps greater than 2, got 1"),
    ],
)
def test_invalid_schemes_raise(cell: str, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recurrent(cell, 3, 4).reset_parameters(**words)


@pytest.mark.parametrize(
    ("cell", "given", "wanted"), [("lstm", None, 1.0), ("mgu", None, -1.0), ("lstm", 0.0, 0.0), ("mgu", 3.0, 3.0)]
)
def test_a_new_network_starts_with_gates_that_keep_the_state(cell: str, given: float | None, wanted: float) -> None:
    # The forget gate of the MGU lets the new value in when it is open (Zhou et al. 2016).
    layer = untrained_model(cell, hidden=4, forget_bias=given).recurrent
    (program,) = layer.programs
    (bias,) = (k for k, parameter in enumerate(program.parameters) if parameter.name == "bias")
    (gate,) = (part for part in program.parameters[bias].parts if part.gate == "forget")
    assert (list(layer.parameters())[bias][gate.start : gate.stop] == wanted).all()

"""A run is a torch operator: it compiles, exports, differentiates twice, and never returns a wrong tangent."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime
import throughtime.engines.operator  # registers the operator
from throughtime import cells
from throughtime.engines import choose, get, log_fallback

pytestmark = pytest.mark.skipif(
    get("native").refuses(cells.lstm.program(1, 1), torch.zeros(1)) is not None,
    reason="the native extension is not built",
)


def arguments(name: str, batch_sizes: list[int] | None = None) -> tuple[Any, ...]:
    program = cells.get(name).program(3, 2)
    torch.manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    inputs = [draw(4, 2, i.width) for i in program.inputs]
    states = [draw(2, s.width) for s in program.states]
    settings = ("native", program.text, 4, batch_sizes, False, None)
    return *settings, inputs, states, [draw(*p.shape) for p in program.parameters]


def operands(name: str) -> tuple[int, int, int]:
    """Return the numbers of inputs, states and parameters of a cell, which are all that differs in its graph."""
    program = cells.get(name).program(3, 2)
    return len(program.inputs), len(program.states), len(program.parameters)


@pytest.mark.parametrize("name", cells.names())
def test_the_operator_passes_opcheck(name: str) -> None:
    found = opcheck(name, "test_schema", "test_autograd_registration", "test_faketensor")
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", {operands(name): name for name in reversed(cells.names())}.values())
def test_graphs_of_the_operator_and_its_gradient_pass_opcheck(name: str) -> None:
    assert opcheck(name, "test_aot_dispatch_dynamic") == {"test_aot_dispatch_dynamic": "SUCCESS"}


def opcheck(name: str, *checks: str) -> dict[str, str]:
    return torch.library.opcheck(torch.ops.throughtime.run.default, arguments(name), test_utils=checks)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])  # a ReLU has no second derivative to compare
@pytest.mark.parametrize("batch_sizes", [None, [2, 1, 1, 0]])
def test_first_and_second_derivatives_match_finite_differences(name: str, batch_sizes: list[int] | None) -> None:
    *settings, _, _, _ = given = arguments(name, batch_sizes)
    groups = given[-3:]
    counts = [len(group) for group in groups]

    def run(*flat: Tensor) -> list[Tensor]:
        split = [list(flat[sum(counts[:k]) : sum(counts[: k + 1])]) for k in range(3)]
        return list(torch.ops.throughtime.run(*settings, *split))

    flat = [t for group in groups for t in group]
    assert torch.autograd.gradcheck(run, flat)
    assert torch.autograd.gradgradcheck(run, flat)


class Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer = nn.Linear(3, 3), layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.before(x))[0]
        return y.sin().sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        *((kind, None) for kind in ("RNN", "LSTM", "GRU", "Recurrent")),
        *((kind, "reference") for kind in ("LSTM", "Recurrent")),
    ],
)
def test_a_model_compiles_without_graph_breaks(kind: str, engine: str | None) -> None:
    layers = 1 if engine else 2  # a graph has every operation of the reference engine
    if kind == "Recurrent":
        layer: nn.Module = throughtime.Recurrent("gru", 3, 4, layers, bidirectional=True, engine=engine)
    else:
        layer = getattr(throughtime, kind)(3, 4, layers, engine=engine)
    net = Net(layer)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 2, 3, requires_grad=True)
    leaves = [x, *net.parameters()]
    expected = torch.autograd.grad(net(x), leaves)
    for ours, theirs in zip(torch.autograd.grad(compiled(x), leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_operator_itself_rejects_forward_mode() -> None:
    *settings, inputs, states, parameters = arguments("lstm")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs[0].detach(), torch.ones_like(inputs[0]))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            torch.ops.throughtime.run(*settings, [dual], states, parameters)


def test_a_fallback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    log_fallback.cache_clear()
    program = cells.get("lstm").program(3, 4)
    with caplog.at_level(logging.WARNING, "throughtime"):
        for _ in range(2):
            assert choose(None, program, torch.zeros(1, dtype=torch.bfloat16)).name == "reference"
    assert len(caplog.records) == 1
    assert "bfloat16" in caplog.text

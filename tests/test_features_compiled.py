"""Layers with options compile and export as one graph, and all combinations of options agree on all engines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from throughtime.engines import get
from throughtime.nn.options import MERGES, Options
from throughtime.nn.recurrent import Recurrent

native = pytest.mark.skipif(
    get("native").refuses(None, torch.zeros(1)) is not None,  # type: ignore[arg-type]
    reason="the native extension is not built",
)


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [tensor for part in result for tensor in flat(part)]


def values_and_gradients(layer: Any, x: Tensor, **words: Any) -> list[Tensor]:
    torch.manual_seed(5)
    results = flat(layer(x, **words))
    loss = sum((r.sin() * r).sum() for r in results)
    assert isinstance(loss, Tensor)
    return [*results, *torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True, materialize_grads=True)]


COMPILED = {
    "noise": {"recurrent_dropout": 0.2, "zoneout": 0.3, "weight_drop": 0.2, "dropout": 0.3},
    "variational": {"dropout": 0.3, "variational": True, "skip": "residual"},
    "merged": {"bidirectional": True, "merge": "mean", "skip": "dense", "heads": 2},
    "apart": {"bidirectional": True, "merge": "none", "returns": "last"},
    "states": {"returns": "states", "learn_initial": True, "zoneout": 0.1},
    "backward": {"reverse": True, "learn_initial": True, "clip": 1.0},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "training"), [*((name, True) for name in COMPILED), ("noise", False)])
def test_a_layer_compiles_without_graph_breaks(name: str, training: bool) -> None:
    torch._dynamo.reset()  # each layer is compiled again, and dynamo limits the number of recompilations
    torch.manual_seed(0)
    layer = Recurrent("lstm", 3, 4, 2, dtype=torch.float64, **COMPILED[name]).train(training)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    reset = torch.zeros(5, 2)
    reset[2, 1] = 1
    assert_close(values_and_gradients(compiled, x, reset=reset), values_and_gradients(layer, x, reset=reset))


def test_a_layer_exports_as_one_graph() -> None:
    layer = Recurrent("gru", 3, 4, 2, zoneout=0.3, skip="dense", learn_initial=True, returns="last").eval()
    x = torch.randn(5, 2, 3)
    program = torch.export.export(layer, (x,))
    assert_close(flat(program.module()(x)), flat(layer(x)), tolerance=1e-6)  # float32


probability = st.sampled_from([0.0, 0.0, 0.3, 1.0])


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid combination of options."""
    found: dict[str, Any] = {
        "batch_first": draw(st.booleans()),
        "dropout": draw(probability),
        "recurrent_dropout": draw(probability),
        "zoneout": draw(probability),
        "weight_drop": draw(probability),
        "learn_initial": draw(st.booleans()),
        "returns": draw(st.sampled_from(["steps", "last", "states"])),
        "skip": draw(st.sampled_from([None, "residual", "dense"])),
    }
    found["variational"] = found["dropout"] > 0 and draw(st.booleans())
    way = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    if way != "forward":
        found[way] = True
    if way == "bidirectional":
        apart = (found["skip"], found["returns"]) == ("residual", "last")  # there is no last input to add
        found["merge"] = draw(st.sampled_from(["none"] if apart else MERGES))
    return found


@native
@settings(max_examples=40)
@given(
    options(),
    st.sampled_from(["lstm", "gru", "rnn", "slstm", "gru_reset_before"]),
    st.sampled_from([{}, {"heads": 2}, {"clip": 0.3}]),
    st.lists(st.integers(0, 4), min_size=3, max_size=3) | st.none(),
    st.booleans(),
    st.booleans(),
)
def test_combined_options_agree_on_both_engines(
    words: dict[str, Any],
    cell: str,
    rewritten: dict[str, Any],
    lengths: list[int] | None,
    resets: bool,
    training: bool,
) -> None:
    """With the same seed, values and gradients of the native engine match the reference engine's."""
    torch.manual_seed(0)
    width = 8 if words.get("merge") == "concat" else 4  # so that a residual connection fits at least one layer
    layer = Recurrent(cell, width, 4, 2, dtype=torch.float64, **words, **rewritten).train(training)
    assert Options.of(words).data == layer.options.data
    x = torch.randn((3, 4) if layer.batch_first else (4, 3), dtype=torch.float64).unsqueeze(-1) * torch.ones(width)
    x = x.double().requires_grad_()
    reset = torch.rand(x.shape[:2]) < 0.3 if resets else None
    results = []
    for engine in ("native", "reference"):
        layer.engine = engine
        results.append(values_and_gradients(layer, x, lengths=lengths, reset=reset))
    # Float64 sums in a different order.
    assert_close(*results, tolerance=1e-10)

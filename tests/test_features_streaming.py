"""A stream matches a layer in evaluation mode step by step for all options, or rejects the layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from throughtime.engines import get
from throughtime.errors import UserError
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.recurrent import Recurrent
from throughtime.streaming import Stream

pytestmark = pytest.mark.skipif(
    get("native").refuses(None, torch.zeros(1)) is not None,  # type: ignore[arg-type]
    reason="the native extension is not built",
)


def randomize_initial_states(layer: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "initial" in name:
                parameter.normal_()


@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
@pytest.mark.parametrize(
    "options",
    [
        {"zoneout": 0.2, "dropout": 0.3, "recurrent_dropout": 0.1, "weight_drop": 0.2},
        {"skip": "residual"},
        {"skip": "dense"},
        {"learn_initial": True},
        {"heads": 2, "clip": 0.5},
        {"skip": "dense", "learn_initial": True, "zoneout": 0.1, "heads": 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_stream_matches_a_layer_with_options(cell: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, 5, 6, 3, engine="native", **options)
    randomize_initial_states(layer)
    x = torch.randn(7, 2, 5)
    stream = Stream(layer, 2)  # works in training mode too
    y = layer.eval()(x)[0]
    steps = torch.stack([torch.from_numpy(stream.step(x[t].numpy())) for t in range(7)])
    # If a skip connection is part of the program, one sum is rounded in a different order.
    torch.testing.assert_close(steps, y, rtol=1e-6, atol=1e-6)
    stream.reset()
    torch.testing.assert_close(torch.from_numpy(stream.step(x[0].numpy())), y[0], rtol=1e-6, atol=1e-6)


def test_a_stream_matches_a_language_model_with_options() -> None:
    torch.manual_seed(0)
    recurrent = Recurrent("gru", 4, 4, 2, engine="native", learn_initial=True, zoneout=0.3, skip="residual")
    model = LanguageModel(9, recurrent).eval()
    randomize_initial_states(model)
    tokens = torch.randint(9, (6, 1))
    wanted = model(tokens)[0][:, 0]
    stream = Stream(model)
    steps = torch.stack([torch.from_numpy(stream.step(int(s))) for s in tokens])
    torch.testing.assert_close(steps, wanted, rtol=1e-5, atol=1e-6)  # torch computes the scores


@pytest.mark.parametrize(
    ("option", "message"), [("bidirectional", "needs the whole sequence"), ("reverse", "last step")]
)
def test_layers_that_need_later_steps_are_rejected(option: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Stream(Recurrent("gru", 2, 3, **{option: True}))

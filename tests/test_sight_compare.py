"""Comparison of two networks, and the figures of analysis results."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tiny_training import train_tiny

from throughtime import Recurrent
from throughtime.errors import UserError
from throughtime.nn.language_model import LanguageModel
from throughtime.sight import (
    compare,
    connectivity,
    fixed_points,
    gradient_flow,
    lyapunov,
    match,
    saturation,
    timescale,
    untrained_model,
)
from throughtime.training import evaluate
from throughtime.training.evaluation import measured
from throughtime.training.reloading import data_of

SMALL = {"hidden": 8, "layers": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("run"), cell="gru")


def test_cells_are_compared_as_untrained_networks_on_the_same_tokens():
    found = compare("rnn", "lstm", window=30, **SMALL)
    assert (found.a.name, found.b.name) == ("rnn", "lstm")
    assert found.a.saturations == {}
    assert set(found.b.saturations) == {"layer0.input", "layer0.forget", "layer0.output"}
    assert found.a.loss == pytest.approx(np.log(64), abs=0.2)  # chance among 64 tokens
    rows = {what: (a, b) for what, a, b in found.rows()}
    assert rows["horizon of layer0"] == (str(found.a.flow.horizon("layer0")), str(found.b.flow.horizon("layer0")))
    assert rows["layer0.forget shut, open"][0] == ""
    assert str(found).splitlines()[0].split() == ["rnn", "lstm"]


def test_loss_of_runs_on_a_text_equals_evaluation(run, tmp_path):
    text = "time and again through time\n" * 4
    file = tmp_path / "text.txt"
    file.write_text(text)
    found = compare(run, str(run.path), text, window=10)
    figures = evaluate(run, file)
    assert found.a.loss == pytest.approx(figures["loss"], rel=1e-5)
    assert found.a.loss_per_character == pytest.approx(figures["loss"] * (len(text) - 1) / len(text), rel=1e-5)
    assert found.b.loss == found.a.loss
    assert found.a.flow.layers == ["layer0", "layer1"]


def test_run_reads_its_held_out_data_by_default(run):
    found = compare(run, "gru", window=10, **SMALL)
    held_out = measured(run.model(), run.task, data_of(run).valid)
    assert found.a.loss == pytest.approx(held_out["loss"], rel=0.2)


def test_arbitrary_models_are_compared_on_a_given_input():
    torch.manual_seed(0)
    x = torch.randn(20, 2, 3)
    found = compare(Recurrent("gru", 3, 4), Recurrent("lstm", 3, 4, 2), x, window=5)
    assert found.a.loss is None
    torch.testing.assert_close(
        torch.tensor(found.b.flow.norms["layer0"][:, 0]).isfinite(), torch.ones(20, dtype=torch.bool)
    )


def test_invalid_arguments_raise(run):
    with pytest.raises(UserError, match=r"'lstmm' is neither a run's directory nor a cell: .*did you mean lstm"):
        compare("lstmm", "rnn")
    with pytest.raises(UserError, match="got int"):
        compare(3, "rnn")
    with pytest.raises(UserError, match="does not read text"):
        compare("rnn", run, "some text")
    with pytest.raises(UserError, match="requires an input"):
        compare(Recurrent("gru", 3, 4), "rnn")
    with pytest.raises(UserError, match="at least 2 are needed"):
        compare(run, run, "t")


def test_untrained_model_depends_only_on_the_seed_and_keeps_the_generator_state():
    state = torch.get_rng_state()
    first, again, other = (untrained_model("lstm", seed=seed, **SMALL) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [dict(m.recurrent.named_parameters())["weight_h_l0"] for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LanguageModel(5, Recurrent("lstm", 4, 4, 2))


class TestFigures:
    """Every result has a plotly figure that contains its numbers."""

    @pytest.fixture(autouse=True)
    def _needs_plotly(self):
        pytest.importorskip("plotly")

    def test_flow_marks_the_horizon(self, model):
        flow = gradient_flow(model, torch.randint(5, (80, 2)), window=40)
        figure = flow.figure()
        lines = {trace.name.split(":")[0]: trace for trace in figure.data if trace.mode == "lines"}
        assert set(lines) == {"layer0", "layer1"}
        mean = flow.by_lag["layer1"]
        np.testing.assert_allclose(np.array(lines["layer1"].y), mean / mean[0])
        assert [trace.x[0] for trace in figure.data if trace.mode == "markers"] == [
            flow.horizon(name).lag for name in flow.layers
        ]
        assert figure.layout.yaxis.type == "log"

    def test_every_result_has_a_figure(self, model):
        tokens = torch.randint(5, (30, 1))
        gate = np.random.default_rng(0).uniform(size=(30, 1, 4))
        start = tuple(torch.zeros(2, 1, 4) for _ in range(2))
        for found in (
            connectivity(model, tokens, window=5), saturation(gate), timescale(gate), lyapunov(model, tokens),
            fixed_points(model, start, 2), match(gate, (2, 4)), compare("rnn", "gru", window=5, **SMALL),
        ):  # fmt: skip
            figure = found.figure()
            assert len(figure.data) >= 1
            assert len(figure.to_json()) > 100


def test_missing_plotly_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(UserError, match=r"plotly, from the extra `report`: run pip install '\.\[report\]'"):
        saturation(np.zeros((2, 3))).figure()

"""`throughtime horizon`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_training import train_tiny

from throughtime.cli.main import main
from throughtime.cli.plot import logarithmic_plot
from throughtime.sight import gradient_flow, untrained_model
from throughtime.sight.untrained import random_token_ids

SMALL = ["--hidden", "16", "--steps", "60", "--lags", "40", "--streams", "2", "--seeds", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("run"), cell="lstm")


def test_untrained_cells_are_plotted_together(capsys):
    assert main(["horizon", "--cell", "rnn", "--cell", "lstm", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "layer0.cell" in printed
    assert "1% left after" in printed
    assert "● rnn layer0: " in printed
    assert "lag" in printed


def test_numbers_are_the_mean_flow_over_seeds(capsys):
    assert main(["horizon", "--cell", "gru", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["gru"]["layer0"]
    flows = [
        gradient_flow(untrained_model("gru", hidden=16, seed=s), random_token_ids(61, 2, s), window=40).by_lag["layer0"]
        for s in range(2)
    ]
    np.testing.assert_allclose(found["by_lag"], np.mean(flows, 0), rtol=1e-6)
    assert found["horizon"] == int(np.argmax(np.mean(flows, 0) <= 0.01 * np.mean(flows, 0)[0]))


def test_textbook_claims_hold_for_untrained_networks(capsys):
    """A plain RNN's gradient vanishes within about ten steps; an LSTM's reaches further through its cell state."""
    small = ["--steps", "150", "--lags", "60", "--streams", "2", "--seeds", "1", "--json"]
    assert main(["horizon", "--cell", "rnn", "--cell", "gru", "--cell", "lstm", *small]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 3 <= found["rnn"]["layer0"]["horizon"] <= 15
    assert found["rnn"]["layer0"]["horizon"] < found["gru"]["layer0"]["horizon"] < found["lstm"]["layer0"]["horizon"]
    assert found["lstm"]["layer0.hidden"]["horizon"] < found["lstm"]["layer0.cell"]["horizon"]


def test_open_forget_gate_and_large_weights_extend_the_horizon(capsys):
    assert main(["horizon", "--cell", "lstm", *SMALL, "--forget-bias", "20"]) == 0
    assert "more than 40 steps" in capsys.readouterr().out
    assert main(["horizon", "--cell", "rnn_relu", *SMALL, "--init", "1.5"]) == 0
    assert "grows" in capsys.readouterr().out


def test_trained_network_reads_held_out_data_or_a_given_text(run, capsys, tmp_path):
    assert main(["horizon", str(run.path), "--json", "--lags", "20"]) == 0
    found = json.loads(capsys.readouterr().out)[str(run.path)]
    assert set(found) == {"layer0", "layer0.hidden", "layer0.cell", "layer1", "layer1.hidden", "layer1.cell", "input"}
    text = tmp_path / "other.txt"
    text.write_text("time and time again " * 10)
    assert main(["horizon", str(run.path), "--data", str(text), "--lags", "20"]) == 0
    assert "layer1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass either RUN"),
        (["somewhere", "--cell", "rnn"], "pass either RUN"),
        (["nowhere"], "no such file or directory"),
        (["--cell", "lstmm"], "did you mean lstm"),
        (["--cell", "rnn", "--lags", "0"], "--lags must be at least 1, got 0"),
        (["--cell", "rnn", "--data", "x"], "--data requires RUN"),
        (["--cell", "rnn", "--hidden", "0"], "hidden"),
        (["--cell", "rnn", "--init", "ortogonal"], "orthogonal"),
        (["--cell", "rnn", "--engine", "nativ"], "native"),
    ],
)
def test_mistakes_are_reported_in_one_message(arguments, message, capsys):
    assert main(["horizon", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


class TestPlot:
    def test_falling_line_crosses_the_level_at_the_right_place(self):
        lines = logarithmic_plot({"a": [10.0**-n for n in range(5)]}, decades=4, level=0.01, plain=True)
        marks = [line.replace("[blue]*[/]", "*") for line in lines]
        assert [line.index("*") - 8 for line in marks[:9:2]] == [0, 1, 2, 3, 4]
        assert marks[4] == "  1e-2 |--*--"
        assert marks[0] == "     1 |*    "
        assert marks[-1].strip() == "* a"

    def test_zeros_and_non_finite_values_are_omitted(self):
        lines = logarithmic_plot({"a": [1.0, 0.0, float("inf"), float("nan")]}, plain=True)
        assert sum("[blue]*" in line for line in lines) == 2  # the first value, and the legend

"""The exponential moving average of the weights: its values, where it is used, and that it resumes bit for bit."""

import numpy as np
import pytest
import torch
from test_train_resume import LONG, same, stop_at
from tiny_training import TINY, figures, train_tiny, write_text

from throughtime import tasks
from throughtime.runs import Run
from throughtime.training import TrainConfig, fit, resume
from throughtime.training.callbacks import Callback
from throughtime.training.evaluation import total
from throughtime.training.fitting import Fit
from throughtime.training.reloading import data_of

DECAY = 0.6  # the warm-up reaches it after 13 updates


def averaged(steps: list[np.ndarray], decay: float) -> np.ndarray:
    """Average the weights after each step according to the definition."""
    average = steps[0]
    for t, weights in enumerate(steps[1:], 1):
        kept = min(decay, (1 + t) / (10 + t))
        average = kept * average + (1 - kept) * weights
    return average


class Record(Callback):
    """Record the weights after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, np.ndarray]] = []

    def on_step(self, fit: Fit) -> None:
        self.steps.append({name: tensor.double().clone().numpy() for name, tensor in fit.model.state_dict().items()})


@pytest.mark.parametrize(("precision", "tolerance"), [("64", 1e-14), ("32", 1e-6)])
def test_the_average_matches_its_definition(tmp_path, precision, tolerance):
    given = {**TINY, "data": [write_text(tmp_path / "text.txt")], "steps": 20, "ema": DECAY, "precision": precision}
    config = TrainConfig.of("text", **given)
    record = Record()
    model = fit(tasks.get("text")(config.task), config=config, callbacks=[record], keep="last")
    assert len(record.steps) == 20
    for name, tensor in model.state_dict().items():
        expected = averaged([weights[name] for weights in record.steps], DECAY)
        np.testing.assert_allclose(tensor.double().numpy(), expected, rtol=0, atol=tolerance)
        assert np.abs(expected - record.steps[-1][name]).max() > 2 * tolerance


def test_half_precision_weights_are_averaged_in_single_precision(tmp_path):
    run = train_tiny(tmp_path, precision="bf16", ema=0.999)
    last = torch.load(run.checkpoint, weights_only=True)
    assert {tensor.dtype for tensor in last["model"].values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in run.weights().values()} == {torch.float32}
    assert run.model().per_step


def test_averaging_does_not_change_the_training(tmp_path):
    (tmp_path / "plain").mkdir()
    plain, run = train_tiny(tmp_path / "plain", **LONG), train_tiny(tmp_path, **LONG, ema=DECAY)
    losses = [[row["train_loss"] for row in each.metrics()] for each in (plain, run)]
    assert losses[0] == losses[1]
    last = [torch.load(each.checkpoint, weights_only=True) for each in (plain, run)]
    assert all(torch.equal(tensor, last[1]["model"][name]) for name, tensor in last[0]["model"].items())
    assert last[0]["average"] is None


def test_validation_report_and_saved_model_use_the_average(tmp_path):
    run = train_tiny(tmp_path, ema=DECAY)
    last = torch.load(run.checkpoint, weights_only=True)
    assert run.result["best_step"] == run.result["steps"]
    for name, tensor in run.weights().items():
        assert torch.equal(tensor, last["average"][f"module.{name}"])
        assert not torch.equal(tensor, last["model"][name])
    part = run.task.reading(data_of(run).valid, run.plan.batch, terms=run.plan.validate_terms)
    assert total(run.model(), part).figures["loss"] == pytest.approx(figures(run)[-1]["valid_loss"], rel=1e-6)


@pytest.mark.slow
def test_a_stopped_run_with_an_average_resumes_bit_for_bit(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = train_tiny(tmp_path / "whole", **LONG, ema=DECAY)
    with stop_at(31):
        train_tiny(tmp_path, **LONG, ema=DECAY)
    resumed = resume(tmp_path / "run", progress=False)
    assert same(resumed, whole)
    average = [torch.load(run.checkpoint, weights_only=True)["average"] for run in (resumed, whole)]
    assert average[0]["n_averaged"] == 60
    assert all(torch.equal(tensor, average[1][name]) for name, tensor in average[0].items())


def test_a_run_trained_further_continues_its_average(tmp_path):
    run = resume(train_tiny(tmp_path, ema=DECAY).path, steps=15, progress=False)
    assert torch.load(Run.open(run.path).checkpoint, weights_only=True)["average"]["n_averaged"] == 15

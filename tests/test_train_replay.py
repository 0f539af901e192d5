"""A run with a time budget can be repeated bit for bit, because each step's learning rate is recorded."""

import signal

import pytest
import torch
from tiny_training import figures, train_tiny

from throughtime.cli.main import main
from throughtime.errors import Interrupted, RunError, TrainingError
from throughtime.runs import Run
from throughtime.training import loop, replay, resume
from throughtime.training.fitting import Fit
from throughtime.training.planning import make_plan


def last_weights(run):
    return torch.load(run.checkpoint, weights_only=True)["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_at(monkeypatch, step):
    advance = Fit._advance

    def stopping(self, batch):
        if self.step == step:
            signal.raise_signal(signal.SIGINT)
        advance(self, batch)

    monkeypatch.setattr(Fit, "_advance", stopping)


@pytest.fixture(autouse=True)
def without_report(monkeypatch):
    monkeypatch.setattr("throughtime.training.loop.write_report", lambda run, data: None)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "make_plan", lambda *given: make_plan(*given, clock=lambda: given[-1]))
        return train_tiny(tmp_path_factory.mktemp("timed"), steps=None, minutes=0.02)


def test_a_run_with_a_time_budget_is_replayed_bit_for_bit(timed, tmp_path):
    again = replay(timed.path, out=tmp_path / "again", progress=False)
    assert again.result["steps"] == timed.result["steps"]
    assert (again.rates() == timed.rates()).all()
    assert same(last_weights(again), last_weights(timed))
    assert again.result["best_step"] == timed.result["best_step"]
    assert same(again.weights(), timed.weights())
    assert again.result["valid"] == timed.result["valid"]
    assert (again.plan.seconds, again.config.training.minutes) == (None, None)


def test_a_stopped_run_is_replayed_up_to_its_last_step(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_at(patched, 25)
        with pytest.raises(Interrupted):
            train_tiny(tmp_path, steps=None, minutes=1)
    stopped = Run.open(tmp_path / "run")
    again = replay(stopped.path, out=tmp_path / "again", progress=False)
    assert again.result["steps"] == 26
    assert same(last_weights(again), last_weights(stopped))


def test_a_stopped_replay_can_be_resumed_and_extended(timed, tmp_path, monkeypatch):
    steps = timed.result["steps"]
    with monkeypatch.context() as patched:
        stop_at(patched, steps // 2)
        with pytest.raises(Interrupted):
            replay(timed.path, out=tmp_path / "again", progress=False)
    again = resume(tmp_path / "again", progress=False)
    assert same(last_weights(again), last_weights(timed))
    further = resume(again.path, steps=steps + 10, progress=False)
    assert (further.rates()[:steps] == timed.rates()).all()
    assert max(further.rates()[steps:]) == pytest.approx(0.3 * timed.config.training.learning_rate)


def test_a_run_with_a_fixed_number_of_steps_is_replayed(tmp_path):
    run = train_tiny(tmp_path, steps=12)
    again = replay(run.path, out=tmp_path / "again", progress=False)
    assert figures(again) == figures(run)


def test_the_command_replays(timed, tmp_path, capsys):
    assert main(["train", "--replay", str(timed.path), "--out", str(tmp_path / "again")]) == 0
    assert f"replaying: {timed.path}" in capsys.readouterr().err
    assert main(["train", "--replay", str(timed.path), "--steps", "3"]) == 2
    assert "--replay reuses the run's options and accepts only --out; remove --steps" in capsys.readouterr().err
    assert main(["train", "--replay", str(timed.path), "--resume", str(timed.path)]) == 2


def test_runs_without_steps_cannot_be_replayed(timed, tmp_path):
    run = train_tiny(tmp_path, steps=2)
    run.rates_file.unlink()
    with pytest.raises(RunError, match="has no steps yet"):
        replay(run.path, progress=False)
    with pytest.raises((RunError, TrainingError), match=r"already exists|there already"):
        replay(timed.path, out=timed.path, progress=False)

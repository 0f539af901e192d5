"""A killed or stopped run resumes as if it had never been interrupted, bit for bit."""

import fcntl
import os
import signal
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from tiny_training import TINY, figures, train_and_kill, train_tiny, write_text

from throughtime.errors import Interrupted, RunError
from throughtime.runs import Run
from throughtime.training import resume
from throughtime.training.fitting import Fit
from throughtime.training.metrics import COLUMNS, MetricsFile

# An epoch has 40 windows, so one ends within the steps; dropout masks use torch's generator.
LONG = {"steps": 60, "dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.1, "weight_drop": 0.1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return train_tiny(tmp_path_factory.mktemp("whole"), **LONG)


def same(one: Run, other: Run) -> bool:
    """Return whether two runs have the same metrics and the same best and last weights."""
    last = [torch.load(run.checkpoint, weights_only=True) for run in (one, other)]
    return (
        figures(one) == figures(other)
        and all(torch.equal(tensor, other.weights()[name]) for name, tensor in one.weights().items())
        and all(torch.equal(tensor, last[1]["model"][name]) for name, tensor in last[0]["model"].items())
        and all(one.result[what] == other.result[what] for what in ("steps", "best_step", "valid"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("more_rows", [3, 38])
def test_a_run_killed_at_any_moment_resumes_bit_for_bit(tmp_path, whole, more_rows):
    write_text(tmp_path / "text.txt")
    options = {**TINY, **LONG, "data": str(tmp_path / "text.txt"), "out": str(tmp_path / "run"), "progress": False}
    killed = train_and_kill(more_rows, options)
    assert same(resume(killed.path, progress=False), whole)


@contextmanager
def stop_at(step, number=signal.SIGINT, *, agreed=False):
    """Send this process a signal at the start of a step or, once its requests are agreed, before the callbacks see it.

    Check that training says it was stopped after this step or the next.
    """
    advance, agree = Fit._advance, Fit._agree

    def stop_before(self, batch):
        if self.step == step - 1 and not agreed:
            signal.raise_signal(number)
        advance(self, batch)

    def stop_after(self):
        agree(self)
        if self.step == step and agreed:
            signal.raise_signal(number)

    last = min(step + agreed, 60)
    with (
        mock.patch.object(Fit, "_advance", stop_before),
        mock.patch.object(Fit, "_agree", stop_after),
        pytest.raises(Interrupted, match=rf"stopped at step {last} of 60.*--resume \S*run"),
    ):
        yield


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGINT), (29, signal.SIGTERM), (40, signal.SIGINT), (41, signal.SIGINT)]
)
def test_a_stopped_run_resumes_bit_for_bit(tmp_path, whole, step, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stop_at(step, number):
        train_tiny(tmp_path, **LONG)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert same(resume(tmp_path / "run", progress=False), whole)


@pytest.mark.parametrize("step", [1, 41, 60])
def test_a_signal_after_the_requests_of_a_step_is_not_lost(tmp_path, whole, step):
    with stop_at(step, agreed=True):
        train_tiny(tmp_path, **LONG)
    assert same(resume(tmp_path / "run", progress=False), whole)


def test_a_plateau_schedule_in_float64_resumes_bit_for_bit(tmp_path):
    options = {**LONG, "schedule": "plateau", "decay_after": 0, "lr": 0.2, "optimizer": "rmsprop", "precision": "64"}
    (tmp_path / "whole").mkdir()
    undisturbed = train_tiny(tmp_path / "whole", **options)
    assert len({row["lr"] for row in undisturbed.metrics()}) > 1
    with stop_at(31):
        train_tiny(tmp_path, **options)
    assert same(resume(tmp_path / "run", progress=False), undisturbed)


def test_a_run_without_a_checkpoint_restarts(tmp_path, whole):
    run = train_tiny(tmp_path, **LONG)
    run.checkpoint.unlink()
    (run.path / "result.json").unlink()
    assert same(resume(run.path, progress=False), whole)
    assert "no checkpoint yet: starting from step 0" in run.log.read_text()


def test_resuming_evaluates_a_fully_trained_run(tmp_path, whole):
    run = train_tiny(tmp_path, **LONG)
    (run.path / "result.json").unlink()
    assert same(resume(run.path, progress=False), whole)
    assert "resuming at step 60 of 60" in run.log.read_text()


def test_resuming_a_finished_run_changes_nothing(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")}
    assert resume(whole.path, progress=False).result == whole.result
    assert {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")} == before


def stopped(tmp_path) -> Run:
    with stop_at(20):
        train_tiny(tmp_path, **LONG)
    return Run.open(tmp_path / "run")


def test_a_changed_text_is_reported(tmp_path):
    run = stopped(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text(text.read_text().replace("and", "or"))
    with pytest.raises(RunError, match=r"has changed since .* was started"):
        resume(run.path, progress=False)


def test_two_processes_cannot_train_the_same_run(tmp_path):
    run = stopped(tmp_path)
    with run.log.open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="is being trained by another process"):
            resume(run.path, progress=False)
        assert run.state == "training"
        (run.path / "model.safetensors").unlink()
        with pytest.raises(RunError, match="has no weights yet: it is training"):
            run.weights()
    assert run.state == "not finished"
    assert resume(run.path, progress=False).state == "finished"


def test_a_damaged_checkpoint_is_reported(tmp_path):
    run = stopped(tmp_path)
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
        resume(run.path, progress=False)


def test_loading_a_checkpoint_runs_no_code(tmp_path):
    run = stopped(tmp_path)
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    torch.save(checkpoint | {"code": os.system}, run.checkpoint)
    with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
        resume(run.path, progress=False)


def test_rows_after_the_checkpoint_are_removed(tmp_path):
    path = tmp_path / "metrics.csv"
    header, row = ",".join(COLUMNS) + "\n", "{},0.1,2,0.1,3,1,\n"
    path.write_text(header + row.format(5) + row.format(10) + row.format(15) + "20,0.1,")
    MetricsFile(path, 10).close()
    assert path.read_text() == header + row.format(5) + row.format(10)

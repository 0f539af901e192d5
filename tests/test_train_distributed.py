"""Several processes train like one on the combined batch."""

import os
import subprocess
import sys

import pytest
import torch
from test_train_resume import same
from tiny_training import TINY, figures, train_tiny, write_text

from throughtime.runs import Run

# With plain gradient descent, the weight change is the sum of the gradients. More steps than windows in an epoch.
OPTIONS = {
    **TINY,
    "steps": 45,
    "dropout": 0.0,
    "optimizer": "sgd",
    "lr": 1.0,
    "schedule": "constant",
    "clip": 0.0,
    "ema": 0.9,
    "precision": "64",
}

SCRIPT = """
import signal, sys
from unittest import mock
from throughtime.errors import Interrupted
from throughtime.training import processes, resume, train
from throughtime.training.fitting import Fit

advance = Fit._advance

def then_stop(self, batch):
    if self.step == 42 and processes.rank() == 1:
        signal.raise_signal(signal.SIGINT)
    advance(self, batch)

if __name__ == "__main__":
    options, stopped = eval(sys.argv[1]), eval(sys.argv[2])
    train(**options)
    if stopped:
        with mock.patch.object(Fit, "_advance", then_stop):
            try:
                train(**(options | stopped))
            except Interrupted as error:
                assert "stopped at step 43" in str(error), error
        resume(stopped["out"], progress=False)
"""


def run_script(tmp_path, *launcher, stopped=None):
    """Train with two processes in `tmp_path/two`, and stop and resume one in `tmp_path/stopped`."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    data = write_text(tmp_path / "text.txt")
    options = {**OPTIONS, "data": str(data), "out": str(tmp_path / "two"), "devices": "cpu:2", "progress": False}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(script), repr(options), repr(stopped)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return Run.open(tmp_path / "two"), done


def assert_same_gradients(two, one):
    """The tolerance for a different order of summation in float64 over 45 steps; metrics.csv has 8 digits."""
    for name, tensor in one.weights().items():
        torch.testing.assert_close(two.weights()[name], tensor, rtol=0, atol=1e-12)
    for row, expected in zip(figures(two), figures(one), strict=True):
        assert row.keys() == expected.keys()
        assert [row[name] for name in row if row[name]] == pytest.approx([v for v in expected.values() if v], rel=1e-7)


@pytest.mark.slow
def test_two_processes_match_one_and_resume_bit_for_bit(tmp_path):
    stopped = {"out": str(tmp_path / "stopped")}
    two, done = run_script(tmp_path, stopped=stopped)
    assert_same_gradients(two, train_tiny(tmp_path, **OPTIONS))
    assert same(Run.open(stopped["out"]), two)
    assert done.stdout == ""


@pytest.mark.slow  # the launcher and both processes import torch
def test_torchrun_can_start_the_processes(tmp_path):
    two, _ = run_script(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert_same_gradients(two, train_tiny(tmp_path, **OPTIONS))

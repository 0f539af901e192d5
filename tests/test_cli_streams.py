"""Commands with closed standard streams or broken pipes."""

import os
import subprocess
import sys

import pytest
from tiny_training import write_text

from throughtime.runs import Run

SMALL = ["--hidden", "4", "--steps", "2", "--batch", "4", "--window", "10", "--threads", "1"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Make a directory with a text and a run trained without standard output and error."""
    path = tmp_path_factory.mktemp("streams")
    write_text(path / "text.txt")
    assert run("train", path / "text.txt", *SMALL, "--out", path / "run", closed=(0, 1, 2)).returncode == 0
    return path


def run(*arguments, closed=(), **options):
    def close():
        for number in closed:
            os.close(number)

    return subprocess.run(
        [sys.executable, "-m", "throughtime", *arguments],
        capture_output=True, check=False, preexec_fn=close, **options,
    )  # fmt: skip


def test_training_works_without_standard_streams(directory):
    assert Run.open(directory / "run").finished
    assert (directory / "run" / "report.html").read_text().startswith("<!")


# All commands open the streams in the same function, so that each command and each combination occurs once.
@pytest.mark.parametrize(
    ("command", "closed"),
    [
        ("--help", (1, 2)),
        ("cells lstm", (1,)),
        ("cells --json", (2,)),
        ("info RUN", (1, 2)),
        pytest.param("sample RUN --length 3", (1,), marks=pytest.mark.slow),
    ],
)
def test_closed_stream_is_not_an_error(command, closed, directory):
    done = run(*command.replace("RUN", str(directory / "run")).split(), closed=closed)
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if not line.startswith(b"run ")]  # the announced run
    assert told == []


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
def test_exit_code_of_a_mistake_is_kept(closed):
    done = run("cells", "lsmt", closed=closed)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert (b"did you mean" in done.stderr) == (2 not in closed)


@pytest.mark.slow
def test_closed_standard_input_is_an_empty_text(directory):
    done = run("evaluate", directory / "run", "-", closed=(0,))
    assert done.returncode == 2
    assert b"standard input is empty" in done.stderr


@pytest.mark.parametrize("streams", ["stdout", "stderr", "both"])
def test_broken_pipe_ends_a_command_without_a_traceback(streams, directory):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["cells", "lsmt"] if streams == "stderr" else ["info", str(directory / "run")]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "throughtime", *arguments],
            stdout=subprocess.PIPE if streams == "stderr" else writer,
            stderr=subprocess.PIPE if streams == "stdout" else writer,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == (2 if streams == "stderr" else 141)
    assert not done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    "command",
    ["--help", "train --help", "cells", "info RUN", pytest.param("sample RUN --length 9", marks=pytest.mark.slow)],
)
def test_every_command_ends_the_same_way_on_a_broken_pipe(command, directory):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = command.replace("RUN", str(directory / "run")).split()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "throughtime", *arguments], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr

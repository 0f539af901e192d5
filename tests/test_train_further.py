"""Training a finished run further, and starting from another run's weights."""

import json

import pytest
import torch
from tiny_training import TINY, figures, train_tiny

from throughtime.cli.main import main
from throughtime.errors import RunError, TrainingError
from throughtime.runs import Run
from throughtime.training import resume


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("first"), schedule="constant", steps=12)


def weights(run):
    return run.weights()


def test_training_further_matches_a_longer_run_bit_for_bit(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    # The same validation interval, because otherwise the best weights would come from different steps.
    whole = train_tiny(tmp_path / "a", schedule="constant", steps=20)
    short = train_tiny(tmp_path / "b", schedule="constant", steps=10)
    longer = resume(short.path, steps=20, progress=False)
    assert longer.finished
    assert longer.result["steps"] == 20
    assert longer.config.training.steps == longer.plan.steps == 20
    a, b = (torch.load(r.checkpoint, weights_only=True)["model"] for r in (whole, longer))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["step"] for row in figures(longer)] == [row["step"] for row in figures(whole)]
    assert [row["train_loss"] for row in figures(longer)] == [row["train_loss"] for row in figures(whole)]


def test_a_run_trains_further_for_epochs_and_minutes(tmp_path):
    run = train_tiny(tmp_path, steps=3)
    epochs = 6 / run.plan.epoch_steps
    run = resume(run.path, epochs=epochs, progress=False)
    assert run.result["steps"] == 6
    assert run.config.training.steps is None
    run = resume(run.path, minutes=100, steps=8, progress=False)
    assert run.result["steps"] == 8
    assert run.plan.seconds == 6000


@pytest.mark.parametrize("extended", [False, True])
def test_a_run_without_a_checkpoint_does_not_train_further(tmp_path, extended):
    run = train_tiny(tmp_path, steps=3)
    if extended:  # then interrupted
        run = resume(run.path, steps=5, progress=False)
        (run.path / "result.json").unlink()
    run.checkpoint.unlink()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    later = {"steps": 9} if extended is False else {}
    with pytest.raises(RunError, match=r"last\.ckpt is missing.*weights.*train DATA --init-from \S*run$"):
        resume(run.path, progress=False, **later)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_the_command_trains_further(tmp_path, capsys):
    run = train_tiny(tmp_path, steps=2)
    assert main(["train", "--resume", str(run.path), "--steps", "4"]) == 0
    assert Run.open(run.path).result["steps"] == 4
    assert main(["train", "--resume", str(run.path), "--steps", "4"]) == 2
    assert "--steps 4 is not a later end" in capsys.readouterr().err
    assert main(["train", "--resume", str(run.path), "--steps", "0"]) == 2
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err


def test_an_earlier_end_is_rejected_without_changes(run):
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(TrainingError, match=r"has already trained for 12 steps .*steps=5 is not a later end"):
        resume(run.path, steps=5, progress=False)
    assert (run.path / "config.json").read_bytes() == before
    assert Run.open(run.path).finished


def test_changed_data_are_rejected_before_writing(tmp_path):
    run = train_tiny(tmp_path, steps=2)
    (tmp_path / "text.txt").write_text("another text, " * 200)
    with pytest.raises(RunError, match="has changed"):
        resume(run.path, steps=4, progress=False)
    assert Run.open(run.path).result["steps"] == 2


def test_a_run_starts_from_the_weights_of_another(run, tmp_path):
    # The learning rate is too small to learn anything, so the new run keeps the weights of the first.
    data = run.config.task.data
    small = {name: TINY[name] for name in ("batch", "window", "threads")}
    from unittest.mock import patch

    import throughtime

    with patch("throughtime.training.loop.write_report"):
        new = throughtime.train(
            data=data, init_from=run.path, out=tmp_path / "new", steps=2, lr=1e-30, progress=False, **small
        )
    assert new.config.network.hidden_size == run.config.network.hidden_size
    assert new.config.network.num_layers == run.config.network.num_layers
    assert new.description.codecs.inputs.digest == run.description.codecs.inputs.digest
    for name, value in weights(run).items():
        torch.testing.assert_close(weights(new)[name], value, rtol=0, atol=1e-7)  # weight decay of 1e-32


def test_a_run_no_longer_needs_the_run_it_started_from(run, tmp_path):
    import shutil

    shutil.copytree(run.path, tmp_path / "copy")
    options = dict.fromkeys(("hidden_size", "num_layers", "cell"))
    new = train_tiny(tmp_path, data=run.config.task.data, init_from=tmp_path / "copy", steps=2, **options)
    shutil.rmtree(tmp_path / "copy")
    from throughtime.training.reloading import untrained

    for name, value in weights(run).items():
        assert torch.equal(untrained(new).state_dict()[name], value)
    assert resume(new.path, steps=3, progress=False).result["steps"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 5}, "hidden_size=5 doesn't match .*, the run to start from, with 12"),
        ({"cell": "gru"}, "cell=gru doesn't match"),
        ({"tie": True}, "tie=True doesn't match"),
        ({"level": "word"}, "level=word doesn't match"),
        ({"vocab_size": 30}, "vocab_size=30 does not apply: the vocabulary comes from"),
        ({"init": 0.1}, "init=0.1 does not apply: the weights come from"),
        ({"init_from": "nowhere"}, "no such file or directory"),
    ],
)
def test_options_that_conflict_with_the_other_run_are_rejected(options, message, run, tmp_path):
    with pytest.raises((TrainingError, RunError), match=message):
        train_tiny(tmp_path, **{"init_from": run.path, **options})
    assert not (tmp_path / "run").exists()


def test_the_command_starts_from_another_run(run, tmp_path, capsys):
    arguments = [*run.config.task.data, "--init-from", str(run.path), "--steps", "1", "--out", str(tmp_path / "new")]
    assert main(["train", *arguments, "--hidden", "7"]) == 2
    assert "--hidden 7 doesn't match" in capsys.readouterr().err
    assert main(["train", *arguments[1:]]) == 2
    assert "--init-from needs the data to train on" in capsys.readouterr().err
    assert main(["train", *arguments, "--batch", "8", "--window", "10", "--threads", "1"]) == 0
    config = json.loads((tmp_path / "new" / "config.json").read_text())["config"]
    assert config["init_from"] == str(run.path)
    assert config["hidden_size"] == 12

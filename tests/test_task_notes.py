"""The notes task: training on piano rolls, evaluation, prediction and generation."""

import mido
import numpy as np
import pytest
import torch
from tiny_training import train_and_kill
from torch.nn.functional import binary_cross_entropy_with_logits

from throughtime import tasks
from throughtime.data.midi import read_midi, write_midi
from throughtime.data.rolls import read_pieces
from throughtime.errors import DataError, TrainingError, UserError
from throughtime.tasks.generative import Sampling
from throughtime.tasks.notes import Notes, NotesOptions
from throughtime.training import evaluate, resume, train
from throughtime.training.inference import predict, sample

TINY = {
    "hidden_size": 8,
    "num_layers": 2,
    "batch": 4,
    "steps": 30,
    "threads": 1,
    "progress": False,
}
LENGTHS = {"train": (9, 12, 7, 15, 11, 8), "valid": (6, 10), "test": (5, 13, 1)}


def scale(length, first):
    """A rising scale above a held key."""
    roll = np.zeros((length, 88), np.uint8)
    roll[np.arange(length), (first + np.arange(length)) % 40 + 40] = 1
    roll[:, 20] = 1
    return roll


@pytest.fixture(scope="module")
def rolls(tmp_path_factory):
    """A file of piano rolls in three parts."""
    path = tmp_path_factory.mktemp("rolls") / "rolls.npz"
    parts = {f"{part}_{k}": scale(t, 3 * k) for part, lengths in LENGTHS.items() for k, t in enumerate(lengths)}
    np.savez(path, **parts)
    return path


@pytest.fixture(scope="module")
def run(rolls, tmp_path_factory):
    """A briefly trained network."""
    return train(
        data=rolls, out=tmp_path_factory.mktemp("notes") / "run", **{**TINY, "dropout": 0.0, "steps": 200, "lr": 0.03}
    )


def by_hand(run, pieces):
    """Compute nats per predicted step, with torch's own loss, and frame accuracy, one piece at a time."""
    model = run.model()
    nats, steps, hits, union = 0.0, 0, 0, 0
    for piece in map(torch.from_numpy, pieces):
        with torch.no_grad():
            raw, _ = model(piece[:-1, None].float())
        true = piece[1:, None].float()
        nats += binary_cross_entropy_with_logits(raw, true, reduction="sum").item()
        steps += len(true)
        hits += int(((raw > 0) & (true > 0)).sum())
        union += int(((raw > 0) | (true > 0)).sum())
    return nats / steps, hits / max(union, 1), steps


def test_the_loss_is_in_nats_per_predicted_step(run, rolls):
    # Bai et al. 2018: inputs x[:-1], targets x[1:], summed over keys and divided by the number of predicted steps.
    # A piece with one step has nothing to predict.
    nats, accuracy, steps = by_hand(run, [scale(5, 0), scale(13, 3)])
    found = run.result["test"]
    assert found["loss"] == pytest.approx(nats, rel=1e-5)  # float32 sums in a different order
    assert found["frame_accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert found["steps"] == steps == 16
    assert found["loss"] < found["baselines"]["keys by frequency"]["loss"]
    assert evaluate(run, rolls)["loss"] == found["loss"]  # the test part
    assert run.config.task.task == "notes"


def test_the_baseline_predicts_keys_by_frequency(run):
    train_targets = np.concatenate([scale(t, 3 * k)[1:] for k, t in enumerate(LENGTHS["train"])])
    targets = torch.from_numpy(np.concatenate([scale(5, 0)[1:], scale(13, 3)[1:]])).double()
    chances = torch.from_numpy((train_targets.sum(0) + 1) / (len(train_targets) + 2))
    expected = torch.nn.functional.binary_cross_entropy(chances.expand(16, 88), targets, reduction="sum").item() / 16
    found = run.result["test"]["baselines"]["keys by frequency"]
    assert found["loss"] == pytest.approx(expected, rel=1e-12)
    assert found["frame_accuracy"] == pytest.approx(16 / 32)  # only the held key


def test_frame_accuracy_matches_a_manual_count():
    from throughtime.tasks.metrics import FrameAccuracy

    metric = FrameAccuracy()
    metric.update(torch.full((1, 3), -1.0), torch.zeros(1, 3))
    assert metric.compute() == 0
    # All log-odds are within [0, 1], so torchmetrics' own metric would mistake them for probabilities.
    metric.update(torch.tensor([[0.4, 0.2, -0.1], [0.3, -0.2, -0.1]]), torch.tensor([[1.0, 0, 1], [1, 0, 0]]))
    assert metric.compute() == pytest.approx(2 / 4)
    metric.update(torch.tensor([[2.0, -3.0, 1.0]]), torch.tensor([[1.0, 1, 1]]))
    assert metric.compute() == pytest.approx(4 / 7)


def test_predictions_are_probabilities_of_each_key(run, tmp_path):
    write_midi(scale(6, 2), tmp_path / "a.mid", step_seconds=0.25)
    table = predict(run, tmp_path / "a.mid")
    assert table.columns == ("sequence", "step", *(f"key{k}" for k in range(21, 109)))
    rows = list(table.rows)
    assert [row[:2] for row in rows] == [["a.mid", step] for step in range(1, 6)]
    with torch.no_grad():
        raw, _ = run.model()(torch.from_numpy(scale(6, 2)[:-1, None]).float())
    assert np.allclose([row[2:] for row in rows], raw[:, 0].sigmoid(), atol=1e-6)


def test_all_parts_of_split_data_are_predicted(run, rolls):
    pieces = read_pieces(rolls)
    steps = sum(len(roll) - 1 for name in ("train", "valid", "test") for roll in pieces.part(name)[0])
    assert len(list(predict(run, rolls).rows)) == steps


def test_a_sample_continues_a_midi_file(run, tmp_path):
    write_midi(scale(6, 2), tmp_path / "a.mid", step_seconds=0.25)
    task, prompt = run.task, str(tmp_path / "a.mid")
    drawn = list(sample(run, prompt, length=20, seed=3))
    assert np.array_equal(drawn, list(sample(run, prompt, length=20, seed=3)))
    assert not np.array_equal(drawn, list(sample(run, prompt, length=20, seed=4)))
    task.write_sample(iter(drawn), tmp_path / "b.mid", prompt)
    whole = np.concatenate([scale(6, 2), drawn])
    last = np.flatnonzero(whole.any(1))[-1] + 1  # silence at the end has no note
    assert np.array_equal(read_midi(tmp_path / "b.mid")[0], whole[:last])
    assert mido.MidiFile(tmp_path / "b.mid").length == pytest.approx(26 * 0.25)  # 60 beats per minute
    task.write_sample(sample(run, length=5), tmp_path / "c.mid", "")
    assert mido.MidiFile(tmp_path / "c.mid").length == pytest.approx(5 * 0.25)


def test_samples_follow_the_network(run):
    model = run.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.head.bias.copy_(torch.linspace(-3, 3, 88))
    often = np.mean(list(run.task.sample(model, run.description.codecs, Sampling(4000))), 0)
    # Five standard errors of a frequency over 4,000 steps.
    assert np.abs(often - torch.linspace(-3, 3, 88).sigmoid().numpy()).max() < 5 * 0.5 / 4000**0.5
    most_likely = list(run.task.sample(model, run.description.codecs, Sampling(2, temperature=0)))
    assert np.array_equal(most_likely, [np.linspace(-3, 3, 88) > 0] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "{}"}, r"rolls\.npz has 11 pieces; expected a file with one piece to continue"),
        ({"length": -1}, "length must be at least 0, got -1"),
        ({"temperature": -1.0}, "temperature must be finite and at least 0, got -1"),
        ({"top_k": 3}, "top_k"),
    ],
)
def test_invalid_samples_are_rejected(run, rolls, options, message):
    given = {name: str(rolls) if value == "{}" else value for name, value in options.items()}
    with pytest.raises((UserError, DataError), match=message):
        sample(run, **{"length": 5, **given})


def test_samples_are_written_only_as_midi(run, tmp_path):
    with pytest.raises(UserError, match=r"b\.wav must end in \.mid"):
        run.task.write_sample(sample(run, length=5), tmp_path / "b.wav", "")


def test_the_notes_task_is_guessed_from_data(tmp_path, rolls):
    for part in ("train", "valid", "test"):
        (tmp_path / "midi" / part).mkdir(parents=True)
        write_midi(scale(5, 0), tmp_path / "midi" / part / "a.mid", step_seconds=0.25)
    (tmp_path / "labels" / "x").mkdir(parents=True)
    (tmp_path / "labels" / "x" / "a.txt").write_text("a")
    for data, name in [(rolls, "notes"), (tmp_path / "midi", "notes"), (tmp_path / "labels", "classify")]:
        assert tasks.chosen(None, {"data": data})[0].name == name
    assert (
        tasks.chosen(None, {"data": [tmp_path / "midi/train/a.mid", tmp_path / "midi/test/a.mid"]})[0].name == "notes"
    )


def test_a_directory_of_midi_files_is_split(tmp_path):
    (tmp_path / "data").mkdir()
    for k in range(10):
        write_midi(scale(5 + k, k), tmp_path / "data" / f"{k}.mid", step_seconds=0.25)
    write_midi(scale(30, 0), tmp_path / "valid.mid", step_seconds=0.25)
    data = Notes(NotesOptions(data=(str(tmp_path / "data"),))).prepare()
    assert [len(part) for part in (data.train, data.valid, data.test)] == [8, 1, 1]
    given = Notes(NotesOptions(data=(str(tmp_path / "data"),), valid=str(tmp_path / "valid.mid"))).prepare()
    assert [len(given.train), given.valid.lengths.tolist(), len(given.test)] == [9, [29], 1]
    quarter = Notes(NotesOptions(data=(str(tmp_path / "data"),), step=1.0)).prepare()  # four steps in one
    assert quarter.counts["steps"] < data.counts["steps"] / 3


def test_unusable_data_are_rejected(tmp_path):
    np.savez(tmp_path / "short.npz", train_0=scale(1, 0), valid_0=scale(3, 0), test_0=scale(3, 0))
    np.savez(tmp_path / "one.npz", scale(5, 0))
    for data, message in [
        (tmp_path / "short.npz", "no piece has at least 2 steps"),
        (tmp_path / "one.npz", "has 1 piece; at least 3 are needed, one each to train, validate and test"),
    ]:
        with pytest.raises(DataError, match=message):
            train(data=data, task="notes", out=tmp_path / "run", **TINY)
    with pytest.raises(TrainingError, match="step must be greater than 0"):
        train(data=tmp_path / "one.npz", task="notes", step=0, **TINY)
    with pytest.raises(TrainingError, match="step is an option of notes; this task is text"):
        train(data=tmp_path / "one.npz", task="text", step=1, **TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path, rolls):
    # An epoch has two batches, so the run is killed in a later one; dropout masks use torch's generator.
    options = {**TINY, "steps": 60, "dropout": 0.3, "recurrent_dropout": 0.2, "data": str(rolls)}
    whole = train(out=tmp_path / "whole", **options)
    path = tmp_path / "run"
    train_and_kill(20, {**options, "out": str(path)})
    resumed = resume(path, progress=False)
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[name])
    assert resumed.result["test"] == whole.result["test"]
    rows = [[{k: v for k, v in row.items() if k != "time"} for row in run.metrics()] for run in (whole, resumed)]
    assert rows[0] == rows[1]

"""The audio task: predicting the next sample, evaluation, and generation."""

import numpy as np
import pytest
import soundfile
import torch
from sounds import tone, write

import throughtime
from throughtime import tasks
from throughtime.cli.main import main
from throughtime.data.waveform import MuLaw, Waveform
from throughtime.errors import DataError, TrainingError
from throughtime.spelling import command_line
from throughtime.training import evaluate, train
from throughtime.training.inference import predict, sample

TINY = {
    "hidden_size": 12,
    "batch": 8,
    "window": 64,
    "steps": 60,
    "lr": 0.02,
    "levels": 32,
    "threads": 1,
    "progress": False,
}
CODEC = MuLaw(Waveform(8000), 32)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sound") / "tone.wav", tone(2.0))


@pytest.fixture(scope="module")
def run(recording, tmp_path_factory):
    return train(data=recording, out=tmp_path_factory.mktemp("audio") / "run", **TINY)


def test_the_loss_is_in_bits_per_sample_of_the_whole_file(run, recording, tmp_path):
    ids = torch.from_numpy(CODEC.encode(tone(2.0)).astype(np.int64))[:, None]
    with torch.no_grad():
        scores, _ = run.model()(ids[:-1])
    bits = -scores.log_softmax(-1).gather(-1, ids[1:, :, None]).mean().item() / np.log(2)
    found = evaluate(run, recording)
    assert found["bits_per_sample"] == pytest.approx(bits, rel=1e-5)  # float32, in a different order
    assert found["samples"] == len(ids) - 1
    rows = list(predict(run, recording).rows)
    assert np.mean([row[1] for row in rows]) == pytest.approx(bits, rel=1e-5)
    # Training holds out the last tenth.
    write(tmp_path / "end.wav", CODEC.decode(ids[14400:, 0].numpy())[:, 0])
    assert evaluate(run, tmp_path / "end.wav")["loss"] == pytest.approx(run.result["valid"]["loss"], rel=1e-5)


def test_other_sampling_rates_are_reported(run, recording, tmp_path, caplog):
    others = [write(tmp_path / f"{rate}.wav", tone(0.1, rate), rate) for rate in (16000, 4000)]
    evaluate(run, [recording, *others])
    message = "2 of 3 recordings are resampled from 4,000 and 16,000 to 8,000 samples per second, the rate in training"
    assert [record.getMessage() for record in caplog.records] == [message]
    caplog.clear()
    evaluate(run, recording)
    assert not caplog.records


def test_durations_below_a_second_are_in_milliseconds(run):
    counts = {"train": 2 * 36, "valid": 2 * 8000, "rate": 8000, "channels": 2}
    assert run.task.data_in_words(counts).startswith("4.5 ms for training, 1.0 s for validation; 8,000 samples")


def test_a_folder_of_sounds_suggests_labels_in_file_names(recording, tmp_path):
    assert tasks.chosen(None, {"data": recording})[1] == "sound files"
    assert "with paired the first is the input" in tasks.chosen(None, {"data": [recording, recording]})[1]
    for name in ("0_ann.wav", "1_ann.wav"):
        write(tmp_path / name, tone(0.1))
    with command_line():
        kind, why = tasks.chosen(None, {"data": tmp_path})
    assert (kind.name, why) == ("audio", "a folder of sound files; with --label-pattern their names give labels")


def test_baselines_are_linear_predictors(run, recording):
    found = run.result["valid"]["baselines"]
    assert list(found) == ["last sample", "linear predictor of order 2", "linear predictor of order 16"]
    last, second, sixteenth = (figures["bits_per_sample"] for figures in found.values())
    assert sixteenth < second < last < 5
    # By hand: the error distribution integrated over each level.
    fit = run.description.baselines["linear predictor of order 2"]
    ids = CODEC.encode(tone(2.0))[14400:].astype(int)
    x = CODEC.decode(ids)[:, 0].astype(float)
    bits = []
    for k in range(1, len(x)):
        center = fit["coefficients"][0] * x[k - 1] + (fit["coefficients"][1] * x[k - 2] if k > 1 else 0)
        low, high = CODEC.edges[ids[k]] - center, CODEC.edges[ids[k] + 1] - center
        scales = np.array(fit["scales"])
        chance = (np.tanh(high / scales / 2) - np.tanh(low / scales / 2)) @ fit["weights"] / 2
        bits.append(-np.log2(chance * (1 - 1e-6) + 1e-6 / 65536))
    assert second == pytest.approx(np.mean(bits), rel=1e-6)


def test_a_network_worse_than_a_baseline_is_compared_in_bits(recording, tmp_path):
    log = train(data=recording, out=tmp_path / "run", **{**TINY, "steps": 1}).log.read_text()
    assert "worse than the baseline 'linear predictor of order 16' (bits per sample" in log


def test_a_sample_continues_a_sound(run, recording, tmp_path):
    drawn = np.concatenate(list(sample(run, str(recording), length=300, seed=3)))
    assert drawn.shape == (300, 1)
    assert np.array_equal(drawn, np.concatenate(list(sample(run, str(recording), length=300, seed=3))))
    assert not np.array_equal(drawn, np.concatenate(list(sample(run, str(recording), length=300, seed=4))))
    out = tmp_path / "a.wav"
    arguments = ["--prompt", str(recording), "--length", "300", "--seed", "3", "--out", str(out)]
    assert main(["sample", str(run.path), *arguments]) == 0
    found, rate = soundfile.read(out)
    assert rate == 8000
    assert np.abs(found - np.concatenate([tone(2.0), drawn[:, 0]])).max() <= 2**-15
    assert sum(map(len, sample(run))) == 3 * 8000  # three seconds


def test_the_audio_task_is_guessed_from_data(tmp_path, recording):
    write(tmp_path / "flat" / "a.wav", tone())
    write(tmp_path / "labels" / "x" / "a.wav", tone())
    for data, name in [
        (recording, "audio"), ([recording, recording], "audio"), (tmp_path / "flat", "audio"),
        (tmp_path / "labels", "classify"),
    ]:  # fmt: skip
        assert tasks.chosen(None, {"data": data})[0].name == name


def test_recordings_are_resampled_and_held_out_by_file(tmp_path):
    for k in range(10):
        write(tmp_path / f"{k}.wav", tone(0.2, pitch=200 + k), subtype="PCM_16")
    task = tasks.get("audio")
    data = task(task.Options(data=(str(tmp_path),), rate=4000)).prepare()
    assert data.counts == {"train": 7200, "valid": 800, "rate": 4000, "channels": 1}
    again = task(task.Options(data=(str(tmp_path),), rate=4000)).prepare()  # from the cache
    assert again.digest == data.digest
    assert np.array_equal(again.train.ids, data.train.ids)


def test_channels_are_interleaved(tmp_path):
    both = np.stack([tone(), 0.25 * tone()], 1)
    path = write(tmp_path / "a.wav", both)
    run = train(data=path, out=tmp_path / "run", **{**TINY, "steps": 2})
    codec = run.description.codecs.inputs
    assert codec.waveform.channels == 2
    assert np.array_equal(run.task.read([path], run.description.codecs).ids[:4], codec.encode(both[:2]))
    assert next(iter(sample(run, length=10))).shape == (5, 2)
    with pytest.raises(DataError, match="has 1 channel, but stereo is expected"):
        evaluate(run, write(tmp_path / "mono.wav", tone()))
    mono = train(data=path, channels="mono", out=tmp_path / "mono", **{**TINY, "steps": 2})
    assert evaluate(mono, path)["samples"] == 7999


def test_unusable_data_are_rejected(tmp_path):
    write(tmp_path / "one.wav", np.zeros(1))
    write(tmp_path / "rates" / "a.wav", tone())
    write(tmp_path / "rates" / "b.wav", tone(), 16000)
    for data, message in [
        (tmp_path / "one.wav", "1 sample"),
        (tmp_path / "rates", r"the samples per second differ: a\.wav has 8000, b\.wav has 16000; rate resamples them"),
    ]:
        with pytest.raises(DataError, match=message):
            train(data=data, out=tmp_path / "run", **TINY)
    with pytest.raises(TrainingError, match="levels must be at least 2, got 1"):
        train(data=tmp_path / "rates", **{**TINY, "levels": 1})
    silence = write(tmp_path / "silence.wav", np.zeros(9000))
    run = train(data=silence, out=tmp_path / "silent", **{**TINY, "steps": 5})
    assert np.isfinite(run.result["valid"]["loss"])
    assert any("completely silent" in note for note in run.task.prepare().notes)


def test_clipped_samples_are_reported(tmp_path):
    x = tone()
    x[:3] = [2, -2, 1.5]
    data = tasks.get("audio")(tasks.get("audio").Options(data=write(tmp_path / "a.wav", x), levels=32)).prepare()
    assert "3 samples were outside [-1, 1] and were clipped." in data.notes
    assert data.train.ids[:3].tolist() == [31, 0, 31]


@pytest.mark.slow
def test_mixture_losses_use_the_same_levels(recording, tmp_path):
    run = train(data=recording, output="mixture", components=3, out=tmp_path / "run", **{**TINY, "steps": 200})
    output = run.model().head.output
    ids = torch.from_numpy(CODEC.encode(tone(2.0)).astype(np.int64))[:, None]
    with torch.no_grad():
        raw = run.model()(ids[:-1])[0][:, 0].double().numpy()
    logs = output.log_probabilities(raw)
    assert np.exp(logs).sum(-1) == pytest.approx(np.ones(len(logs)), abs=1e-9)
    bits = -logs[np.arange(len(logs)), ids[1:, 0].numpy()].mean() / np.log(2)
    found = evaluate(run, recording)
    assert found["bits_per_sample"] == pytest.approx(bits, rel=1e-4)  # float32
    # The untrained network spreads over the levels; five bits correspond to a uniform guess among 32 levels.
    assert found["bits_per_sample"] < 4.5
    assert np.mean([row[1] for row in predict(run, recording).rows]) == pytest.approx(bits, rel=1e-4)
    drawn = np.concatenate(list(sample(run, length=200, seed=1)))
    assert drawn.shape == (200, 1)
    assert np.array_equal(CODEC.decode(CODEC.encode(drawn)), drawn)
    again = throughtime.load(run.path)
    assert again.head.output == output

"""Classification of sounds by mel bands, with labels from directories or file names."""

import numpy as np
import pytest
from sounds import tone, write

from throughtime import tasks
from throughtime.cli.main import main
from throughtime.codecs import codec_from
from throughtime.data.labeled_sounds import read_labeled_sounds
from throughtime.data.log_mel import LogMel
from throughtime.errors import DataError, TrainingError
from throughtime.training import evaluate, train
from throughtime.training.inference import predict

TINY = {
    "hidden_size": 8,
    "batch": 8,
    "dropout": 0.0,
    "bands": 12,
    "lr": 0.02,
    "augment": 0,
    "threads": 1,
    "progress": False,
}
PITCHES = {"low": 150, "high": 900}
PATTERN = r"(?P<label>[a-z]+)_(?P<speaker>\w+)_\d"


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Tones of two pitches by four speakers."""
    folder = tmp_path_factory.mktemp("flat")
    for label, pitch in PITCHES.items():
        for speaker in range(4):
            for take in range(3):
                x = tone(0.2 + 0.02 * take, pitch=pitch + 20 * speaker)
                write(folder / f"{label}_s{speaker}_{take}.wav", x, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def run(flat, tmp_path_factory):
    out = tmp_path_factory.mktemp("classify") / "run"
    return train(data=flat, label_pattern=PATTERN, group_by="speaker", valid_share=0.25, epochs=15, out=out, **TINY)


def test_labels_and_groups_are_read_from_file_names(run, flat):
    assert run.result["valid"]["accuracy"] == 1
    assert run.record.data.counts == {"train": 18, "valid": 6, "labels": 2}
    data = run.task.prepare()
    assert len(set(data.valid.groups)) == 1
    assert not set(data.valid.groups) & set(data.train.groups)
    assert evaluate(run, flat)["accuracy"] == 1


def test_labels_are_read_from_directories(run, flat, tmp_path):
    for file in flat.iterdir():
        (tmp_path / "data" / file.name.split("_")[0]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / file.name.split("_")[0] / file.name).write_bytes(file.read_bytes())
    task, why = tasks.chosen(None, {"data": tmp_path / "data"})
    assert (task.name, why) == ("classify", "a folder with one folder per label")
    found = read_labeled_sounds([tmp_path / "data"])
    assert found.labels == ["high"] * 12 + ["low"] * 12
    again = train(data=tmp_path / "data", epochs=2, out=tmp_path / "run", **TINY)
    assert again.task.name == "classify"
    assert evaluate(again, tmp_path / "data")["sequences"] == 24


def test_predictions_need_no_labels(run, flat, tmp_path, capsys):
    write(tmp_path / "some.wav", tone(0.2, pitch=910), subtype="PCM_16")
    ((name, label, *probabilities),) = predict(run, tmp_path / "some.wav").rows
    assert (name, label) == ("some.wav", "high")
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    # Other rates and stereo are converted.
    x = tone(0.2, 16000, pitch=910)
    write(tmp_path / "other.flac", np.stack([x, x], 1), 16000)
    assert [row[1] for row in predict(run, tmp_path / "other.flac").rows] == ["high"]
    assert main(["predict", str(run.path), str(tmp_path / "some.wav")]) == 0
    assert "some.wav,high," in capsys.readouterr().out


def test_the_network_reads_standardized_mel_bands(run, flat):
    codec = run.description.codecs.inputs
    assert (codec.waveform.rate, codec.window, codec.hop, codec.bands) == (8000, 200, 80, 12)
    frames = np.concatenate(run.task.prepare().train.inputs)
    assert frames.mean(0) == pytest.approx(np.zeros(12), abs=1e-5)
    assert frames.std(0) == pytest.approx(np.ones(12), abs=1e-5)
    again = codec_from(codec.to_data())
    assert np.array_equal(again.encode(tone(0.1)), codec.encode(tone(0.1)))


@pytest.mark.parametrize("rate", [8000, 48000])
def test_mel_bands_match_htk(rate):
    mel = LogMel.at(rate, 20)
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), 22) / 2595) - 1)
    for band in (3, 10, 19):
        t = np.arange(rate) / rate
        energies = mel.energies(np.sin(2 * np.pi * corners[band + 1] * t))
        assert energies.shape == (1 + (rate - mel.window) // mel.hop, 20)
        assert (energies.argmax(1) == band).all()
    x = np.random.default_rng(0).normal(size=rate // 10)
    doubled = mel.energies(2 * x) - mel.energies(x)
    assert doubled == pytest.approx(np.full(doubled.shape, np.log(4)), abs=1e-9)


def test_short_sounds_and_silence_have_frames(tmp_path):
    mel = LogMel.at(8000)
    assert mel.energies(np.ones(1)).shape == (1, 40)
    assert (mel.energies(np.zeros(400)) == np.log(1e-8)).all()


def test_unusable_sounds_are_rejected(run, flat, tmp_path):
    given = {"data": flat, "out": tmp_path / "run", **TINY}
    for options, error, message in [
        ({"label_pattern": "["}, TrainingError, r"label_pattern '\[': expected a regular expression"),
        ({"label_pattern": "x"}, DataError, "must have a group named label, .* it has 0"),
        ({"label_pattern": "(low)"}, DataError, r"high_s0_0\.wav does not match label_pattern"),
        ({"label_pattern": "(.*)", "group_by": "speaker"}, DataError, "'speaker' is not a group in label_pattern"),
        ({"task": "classify", "group_by": "speaker"}, DataError, "must name a group in label_pattern for sounds"),
        ({"task": "classify"}, DataError, r"has 1 label \('flat0'\); at least 2 are needed"),
        (
            {"label_pattern": "(low|high)", "features": "raw", "normalize": "level"},
            DataError,
            "normalize level is only for log-mel",
        ),
        ({"label_pattern": "(low|high)", "columns": "a"}, DataError, "columns names a table column"),
    ]:
        with pytest.raises(error, match=message):
            train(**{**given, **options})
    (tmp_path / "text" / "low").mkdir(parents=True)
    (tmp_path / "text" / "low" / "a.txt").write_text("low")
    with pytest.raises(DataError, match="has no sound files"):
        list(predict(run, tmp_path / "text").rows)
    assert not (tmp_path / "run").exists()


def test_raw_samples_are_read_in_frames(flat, tmp_path):
    run = train(
        data=flat, label_pattern=PATTERN, features="raw", frame=20, valid_share=0.25, epochs=20,
        out=tmp_path / "run", **{**TINY, "lr": 0.01},
    )  # fmt: skip
    codec = run.description.codecs.inputs
    assert (codec.frame, codec.waveform.rate) == (20, 8000)
    x = tone(0.1)[:, None]
    assert codec.encode(x[:790]).shape == (40, 20)
    assert codec.encode(x[:790]).reshape(-1)[:790] == pytest.approx(x[:790, 0] / codec.scale, rel=1e-6)
    assert codec.encode(x[:790]).reshape(-1)[790:].tolist() == [0.0] * 10
    assert codec_from(codec.to_data()) == codec
    assert run.result["valid"]["accuracy"] > 0.8
    assert evaluate(run, flat)["sequences"] == 24
    assert main(["inspect", str(run.path), str(flat)]) == 0


def test_the_level_of_recordings_can_be_normalized():
    x = tone(0.3)[:, None]
    for level in (False, True):
        mel = LogMel.at(8000, 20, level=level).fit([x])
        same = np.abs(mel.encode(0.5 * x) - mel.encode(x)).max() < 1e-4
        assert same == level
        assert codec_from(mel.to_data()).level == level


@pytest.mark.slow
def test_few_recordings_are_augmented(flat, tmp_path):
    given = {"data": flat, "label_pattern": PATTERN, "valid_share": 0.25}
    plain, changed, again, more = (
        train(**given, epochs=1, out=tmp_path / str(k), **{**TINY, "augment": count}).task.prepare()
        for k, count in enumerate((0, 3, 3, None))
    )
    originals = len(plain.train)
    assert (len(changed.train), len(more.train)) == (4 * originals, 21 * originals)
    assert changed.counts == plain.counts
    assert changed.train.digest == again.train.digest != plain.train.digest
    assert np.array_equal(changed.train.targets[originals:], np.repeat(plain.train.targets, 3))
    lengths = changed.train.lengths[originals:] / np.repeat(plain.train.lengths, 3)
    assert ((lengths > 0.5) & (lengths < 1.6)).all()
    assert len(set(lengths)) > originals
    # Held-out data are never augmented, and neither are the data that fit the scaler.
    assert changed.valid.digest == plain.valid.digest
    assert "Training includes 3 augmented copies of each recording" in changed.notes[-1]


@pytest.mark.parametrize(("change", "message"), [
    ({"frame": 0}, "frame must be an integer from 1"), ({"scale": 0.0}, "expected a waveform and a positive scale"),
    ({"waveform": None}, "expected a waveform"),
])  # fmt: skip
def test_a_damaged_codec_of_samples_is_rejected(change, message):
    data = {"kind": "raw_samples", "waveform": {"rate": 8000, "channels": 1}, "frame": 4, "scale": 1.0}
    with pytest.raises(DataError, match=message):
        codec_from({**data, **change})

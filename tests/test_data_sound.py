"""Sound files are read in blocks and quantized by the standard mu-law."""

import numpy as np
import pytest
import soundfile
import soxr
from sounds import tone, write

from throughtime.codecs import codec_from
from throughtime.data.linear_prediction import Mixture, fit_predictor
from throughtime.data.sound import Recording, find_recordings, sound_writer
from throughtime.data.waveform import Linear, MuLaw, Waveform
from throughtime.errors import DataError, UserError

MONO = Waveform(8000)


def test_mu_law_follows_the_standard():
    codec = MuLaw(MONO, 256)
    x = np.linspace(-1, 1, 10_001)
    # As in torchaudio.functional.mu_law_encoding.
    expected = np.floor((np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256) + 1) / 2 * 255 + 0.5)
    assert np.array_equal(codec.encode(x), expected)
    assert codec.dtype == np.uint8
    assert np.array_equal(codec.encode(codec.decode(np.arange(256))), np.arange(256))
    assert codec.encode(np.array([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize("codec", [MuLaw(MONO, 256), Linear(MONO, 1024), MuLaw(Waveform(48000, 2), 16)])
def test_decoded_levels_are_within_their_edges(codec):
    x = np.random.default_rng(0).uniform(-1, 1, 5000)
    ids = codec.encode(x)
    assert (codec.edges[ids] <= x).all()
    assert (x < codec.edges[ids.astype(int) + 1]).all()
    again = codec_from(codec.to_data())
    assert again == codec
    assert codec.decode(ids[:10]).shape == (10 // codec.waveform.channels, codec.waveform.channels)


@pytest.mark.parametrize("change", [{"levels": 1}, {"levels": "8"}, {"waveform": None}, {"waveform": {"rate": 0}}])
def test_a_damaged_codec_is_rejected(change):
    with pytest.raises(DataError, match="must be an integer"):
        codec_from({**MuLaw(MONO, 256).to_data(), **change})


@pytest.mark.parametrize(("name", "subtype", "bound"), [
    ("a.wav", "PCM_16", 2**-15), ("a.wav", "PCM_24", 2**-23), ("a.wav", "FLOAT", 0), ("a.wav", "PCM_U8", 2**-7),
    ("a.flac", None, 2**-15),
])  # fmt: skip
def test_samples_match_the_file(tmp_path, name, subtype, bound):
    path = write(tmp_path / name, tone(), subtype=subtype)
    read = Recording.open(path)
    assert (read.rate, read.channels, read.frames, read.seconds) == (8000, 1, 8000, 1.0)
    assert np.abs(read.samples(MONO)[:, 0] - tone()).max() <= bound
    assert [len(block) for block in read.blocks(MONO, size=3000)] == [3000, 3000, 2000]


def test_ogg_files_are_read(tmp_path):
    found = Recording.open(write(tmp_path / "a.ogg", tone())).samples(MONO)[:, 0]
    assert np.corrcoef(found, tone())[0, 1] > 0.99


def test_resampling_in_blocks_matches_resampling_the_whole(tmp_path):
    x = tone(2.0, 44100)
    path = write(tmp_path / "a.wav", x, 44100)
    found = np.concatenate(list(Recording.open(path).blocks(Waveform(16000), size=1000)))[:, 0]
    assert len(found) == 32000
    assert np.abs(found - soxr.resample(x, 44100, 16000)).max() < 1e-5  # float32


def test_stereo_is_mixed_on_request(tmp_path):
    both = np.stack([tone(), -0.5 * tone()], 1)
    read = Recording.open(write(tmp_path / "a.wav", both))
    assert np.allclose(read.samples(MONO, mix=True)[:, 0], 0.25 * tone(), atol=1e-7)
    assert np.array_equal(read.samples(Waveform(8000, 2)), both)
    with pytest.raises(DataError, match=r"a\.wav has 2 channels, but mono is expected"):
        read.samples(MONO)
    with pytest.raises(DataError, match=r"a\.wav has 1 channel, but stereo is expected"):
        Recording.open(write(tmp_path / "a.wav", tone())).samples(Waveform(8000, 2))


def test_unreadable_files_are_rejected(tmp_path):
    (tmp_path / "text.wav").write_text("this is not a sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    whole = write(tmp_path / "whole.wav", tone()).read_bytes()
    (tmp_path / "short.wav").write_bytes(whole[: len(whole) // 2])
    flac = write(tmp_path / "whole.flac", np.random.default_rng(0).uniform(-1, 1, 200_000)).read_bytes()
    (tmp_path / "short.flac").write_bytes(flac[: len(flac) // 2])
    write(tmp_path / "none.wav", np.zeros(0))
    write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.0]))
    for name, message in [
        ("text.wav", "can't be read as sound"),
        ("empty.wav", "can't be read as sound"),
        ("short.wav", "is truncated: it is shorter than its header says"),
        ("short.flac", "is damaged|can't be read as sound"),
        ("none.wav", "has no samples"),
        ("nan.wav", r"has a non-finite sample at 0\.000 s"),
        ("nothing.wav", "no such file"),
    ]:
        with pytest.raises(DataError, match=message):
            Recording.open(tmp_path / name).samples(MONO)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="has no sound files"):
        find_recordings(tmp_path / "folder")


def test_sound_files_are_written_atomically(tmp_path):
    path = tmp_path / "a.wav"

    def interrupted():
        with sound_writer(path, MONO) as put:
            put(tone()[:, None])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with sound_writer(path, MONO) as put:
        put(np.array([[2.0], [-2.0], [0.25]]))
    assert soundfile.read(path)[0] == pytest.approx([1, -1, 0.25], abs=2**-15)
    with (
        pytest.raises(UserError, match=r"a\.mp3 is not a supported sound file name; use \.wav"),
        sound_writer(tmp_path / "a.mp3", MONO),
    ):
        pass


def test_the_predictor_is_the_least_squares_solution():
    x = tone().astype(float)
    expected, *_ = np.linalg.lstsq(np.stack([x[1:-1], x[:-2]], 1), x[2:], rcond=None)
    # The first sample has only one before it, and the ridge is 1e-9 of the energy.
    assert fit_predictor(lambda: [x], 2) == pytest.approx(expected, abs=1e-3)


def test_the_mixture_recovers_the_error_distribution():
    draw = np.random.default_rng(0)
    errors = draw.logistic(0, 0.01, 20_000)
    low, high = np.floor(errors * 1000) / 1000, np.floor(errors * 1000) / 1000 + 0.001
    nats = Mixture.fit(low, high).nats(low, high) / len(low)
    probabilities = 1 / (1 + np.exp(-high / 0.01)) - 1 / (1 + np.exp(-low / 0.01))
    assert nats == pytest.approx(-np.log(probabilities).mean(), abs=0.01)
    # The probabilities of all levels sum to 1.
    edges, mixture = np.concatenate([[-np.inf], np.linspace(-1, 1, 255), [np.inf]]), Mixture.fit(low, high)
    assert sum(np.exp(-mixture.nats(edges[k : k + 1], edges[k + 1 : k + 2])) for k in range(256)) == pytest.approx(
        1, abs=1e-5
    )

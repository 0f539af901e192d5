"""The effect task: learning a device from its input and output, evaluation, and processing other sounds."""

import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from sounds import clipper, plucks, tone, write

import throughtime
from throughtime import Stream
from throughtime.cli.main import main
from throughtime.data.knobs import DeviceInput
from throughtime.data.pairs import alignment, find_pairs, read_pairs
from throughtime.data.segments import Segments, WholeSignals
from throughtime.errors import DataError, TrainingError, UserError
from throughtime.outputs import Signal
from throughtime.training import evaluate, train
from throughtime.training.inference import Inference, predict

RATE = 8000
TINY = {
    "paired": True,
    "hidden_size": 8,
    "batch": 8,
    "window": 200,
    "burn_in": 40,
    "segment": 0.08,
    "steps": 120,
    "lr": 0.01,
    "threads": 1,
    "progress": False,
}


def device(dry):
    """Simulate a soft clipper followed by a one-pole low-pass."""
    clipped, found, state = np.tanh(4 * dry.astype(float)), np.empty(len(dry)), 0.0
    for k, value in enumerate(clipped.tolist()):
        state += 0.5 * (value - state)
        found[k] = state
    return (0.5 * found).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pair")
    dry = plucks(3.0, RATE)
    write(path / "dry.wav", dry, RATE)
    write(path / "wet.wav", np.concatenate([np.zeros(37, np.float32), device(dry)[:-37]]), RATE)
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train(
        data=[folder / "dry.wav", folder / "wet.wav"], out=tmp_path_factory.mktemp("effect") / "run",
        **{**TINY, "steps": 300}
    )  # fmt: skip


def pair():
    """Return the pair after alignment, with two samples of latency left."""
    dry = plucks(3.0, RATE)
    return dry[:-35], np.r_[np.zeros(2, np.float32), device(dry)[:-37]]


def by_hand(run, dry):
    with torch.no_grad():
        return run.model()(torch.from_numpy(dry)[:, None, None])[0][:, 0, 0].numpy()


@pytest.mark.slow
def test_a_device_is_learned(run, folder):
    dry, wet = pair()
    found = evaluate(run, [folder / "dry.wav", folder / "wet.wav"])
    error = (wet - by_hand(run, dry)).astype(float)
    # The signals and the network are float32.
    assert found["esr"] == pytest.approx((error**2).sum() / (wet.astype(float) ** 2).sum(), rel=1e-3)
    assert found["mae_db"] == pytest.approx(20 * np.log10(np.abs(error).mean()), abs=0.01)
    emphasized = [x[1:] - 0.85 * x[:-1] for x in (error, wet.astype(float))]
    # The emphasis filter starts at the second sample of each evaluated block.
    expected = (emphasized[0] ** 2).sum() / (emphasized[1] ** 2).sum()
    assert found["esr_pre_emphasized"] == pytest.approx(expected, rel=1e-2)
    assert found["real_time_factor"] > 1
    held_out = run.result["valid"]
    assert held_out["esr"] < 0.5 * min(figures["esr"] for figures in held_out["baselines"].values())


def test_the_loss_is_the_standard_one():
    draw = torch.Generator().manual_seed(0)
    true, found = (torch.randn(50, 4, 1, generator=draw, dtype=torch.float64) for _ in range(2))
    head = throughtime.nn.heads.Head.of(Signal(1), 3)
    emphasized = [x[1:] - 0.85 * x[:-1] for x in (true - found, true)]
    ratio = emphasized[0].square().mean() / (emphasized[1].square().mean() + 1e-5)
    dc = (true - found).mean(0).square().mean() / (true.square().mean() + 1e-5)
    assert head.loss_of(found, true).item() / 200 == pytest.approx((0.75 * ratio + 0.25 * dc).item(), rel=1e-12)
    weights = torch.ones(50, 4, dtype=torch.float64)
    weights[:10] = 0
    # The first weighted step is filtered with the one before it.
    ratio = emphasized[0][9:].square().mean() / (emphasized[1][9:].square().mean() + 1e-5)
    dc = (true - found)[10:].mean(0).square().mean() / (true[10:].square().mean() + 1e-5)
    loss = head.loss_of(found, true, weights).item() / 160
    assert loss == pytest.approx((0.75 * ratio + 0.25 * dc).item(), rel=1e-12)


def test_the_reported_loss_is_that_of_the_whole_sound(run, folder):
    signal = np.array(run.task.read([folder], run.description.codecs).signals[0])
    raw, wet = torch.from_numpy(by_hand(run, signal[:, 0]))[:, None, None], torch.from_numpy(signal[:, 1:])[:, None]
    head = run.model().head
    whole = float(head.loss_of(raw.float(), wet.float())) / len(signal)
    assert run.evaluate(folder)["loss"] == pytest.approx(whole, rel=1e-2)  # the head damps the ratio of quiet sounds


def test_baselines_have_no_memory(run):
    found = run.result["valid"]["baselines"]
    assert list(found) == ["scaled dry signal", "polynomial of order 7"]
    dry, wet = (x.astype(float) for x in pair())
    cut = round(0.9 * len(dry))
    scale = dry[:cut] @ wet[:cut] / (dry[:cut] @ dry[:cut])
    esr = ((wet - scale * dry)[cut:] ** 2).sum() / (wet[cut:] ** 2).sum()
    assert found["scaled dry signal"]["esr"] == pytest.approx(esr, rel=1e-9)
    powers = np.vander(dry, 8)
    fitted, *_ = np.linalg.lstsq(powers[:cut], wet[:cut], rcond=None)
    esr = ((wet - powers @ fitted)[cut:] ** 2).sum() / (wet[cut:] ** 2).sum()
    assert found["polynomial of order 7"]["esr"] == pytest.approx(esr, rel=1e-6)  # by normal equations


def test_memory_use_is_independent_of_sound_length(run, tmp_path):
    peaks = []
    for seconds in (20, 80):
        dry = np.tile(plucks(2.0, RATE), seconds // 2)
        path = write(tmp_path / f"{seconds}.wav", dry, RATE)
        tracemalloc.start()
        Inference.of(run, path).write_prediction(tmp_path / "out.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        found, rate = soundfile.read(tmp_path / "out.wav")
        assert rate == RATE
        assert np.abs(found - np.clip(by_hand(run, dry), -1, 1)).max() < 2**-14  # 16 bits
    assert peaks[1] < 1.2 * peaks[0]


def test_the_commands_predict_and_evaluate_sound_files(run, folder, tmp_path, capsys):
    out = tmp_path / "wet.wav"
    assert main(["predict", str(run.path), str(folder / "dry.wav"), "--out", str(out)]) == 0
    assert "Saved 3.00 s of sound, 8,000 samples per second, to" in capsys.readouterr().out
    assert soundfile.info(out).frames == 3 * RATE
    assert main(["evaluate", str(run.path), str(folder / "dry.wav"), str(folder / "wet.wav")]) == 0
    shown = capsys.readouterr().out
    assert "pre-emphasized" in shown
    assert "x real time" in shown
    assert main(["predict", str(run.path), str(folder / "dry.wav"), "--out", str(tmp_path / "a.mp3")]) != 0
    capsys.readouterr()
    assert main(["predict", str(run.path), str(folder / "dry.wav")]) == 2
    assert capsys.readouterr() == ("", "error: --out is required: pass a file to write (.wav, .flac, .ogg)\n")
    rows = list(predict(run, folder / "dry.wav").rows)
    assert np.array([row[1] for row in rows]) == pytest.approx(by_hand(run, plucks(3.0, RATE)), abs=1e-6)


def test_a_stream_processes_blocks(run):
    dry = plucks(0.5, RATE)
    stream = Stream(run.path)
    by_step = np.concatenate([stream.step(dry[k : k + 1]) for k in range(len(dry))])
    stream.reset()
    for sizes in ([4000], [1, 63, 64, 3872]):
        stream.reset()
        cuts = np.split(dry, np.cumsum(sizes)[:-1])
        assert np.array_equal(np.concatenate([stream.process(block) for block in cuts]), by_step)
    stream.reset()
    assert np.array_equal(stream.process(dry[:, None])[:, 0], by_step)
    # The module's engine rounds like the stream, except in the head.
    assert np.abs(by_step - by_hand(run, dry)).max() < 1e-6
    assert stream.process(dry[:0]).shape == (0,)
    for wrong in (dry.astype(float), dry[:, None, None], np.zeros((4, 2), np.float32), "x", None):
        with pytest.raises(UserError, match=r"a block must be a float32 array \[steps, 1\] or \[steps\], got"):
            stream.process(wrong)
    with pytest.raises(UserError, match="process takes a block of one stream, but there are 2 rows"):
        Stream(run.path, rows=2).process(dry)
    assert np.array_equal(stream.process(dry[::2]), stream_of(run, dry[::2], before=dry))  # strided


def stream_of(run, block, before):
    """Process a later block in single steps, from the state after two passes and an empty block."""
    stream = Stream(run.path)
    for x in before[:, None]:
        stream.step(x)
    return np.concatenate([stream.step(x) for x in block[:, None]])


def test_the_skip_connection_is_saved(run, tmp_path):
    model = run.model()
    assert model.skip
    throughtime.save(model, tmp_path / "model.safetensors")
    again = throughtime.load(tmp_path / "model.safetensors")
    x = torch.from_numpy(tone(0.05))[:, None, None]
    with torch.no_grad():
        assert torch.equal(again(x)[0], model(x)[0])
        model.skip = False
        assert torch.allclose(again(x)[0], model(x)[0] + x)


def test_onnx_exports_the_skip_connection(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert main(["export", str(run.path), str(tmp_path / "model.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    x = tone(0.05)[:, None, None]
    states = {i.name: np.zeros((1, 1, 8), np.float32) for i in session.get_inputs()[1:]}
    (found, *_) = session.run(None, {"input": x, **states})
    with torch.no_grad():
        assert found == pytest.approx(run.model()(torch.from_numpy(x))[0].numpy(), abs=1e-6)


def test_segments_are_windows_after_a_burn_in():
    signal = np.arange(100, dtype=np.float32)[:, None] * [1, 10]
    signal = signal.astype(np.float32)
    batches = Segments([signal, signal[:35]], 2, segment=30, window=8, burn_in=5)
    assert (len(batches), batches.terms) == (6, 6 * 8 * 2)  # 4 segments with 3 windows of 8 steps each
    seen, before = [], None
    for step in range(6):
        batch = batches.batch(step)
        first = step % 3 == 0
        assert batch.carry is not first
        assert batch.inputs.shape == (13 if first else 8, 2, 1)
        assert np.array_equal(batch.targets, 10 * batch.inputs)
        assert batch.terms == 16
        if first:
            assert batch.weights.sum(0).tolist() == [8, 8]
            seen += batch.inputs[0, :, 0].tolist()
        else:
            assert np.array_equal(batch.inputs[0], before + 1)
        before = batch.inputs[-1]
    assert sorted(seen) == [0, 0, 30, 60]
    whole = WholeSignals([signal, signal[:35]], 40)
    assert [(len(b.inputs), b.carry) for b in map(whole.batch, range(4))] == [
        (40, False), (40, True), (20, True), (35, False)
    ]  # fmt: skip
    assert WholeSignals([signal, signal[:35]], 40, 90).terms == 90


@pytest.mark.parametrize("latency", [0, 5, 441, -30])
def test_the_latency_is_estimated(latency):
    dry = plucks(1.0, 8000, seed=3)
    wet = np.roll(-device(dry), latency)  # with inverted polarity
    found = alignment(dry, wet, 800)
    assert found.latency == latency
    assert found.correlation < -0.8


def test_pairs_are_aligned_and_truncated(tmp_path):
    dry = plucks(2.0, RATE)
    paths = [
        write(tmp_path / "dry.wav", dry, RATE),
        write(tmp_path / "wet.wav", np.r_[np.zeros(100), dry][:15000], RATE),
    ]
    found = read_pairs(find_pairs(paths), "pair", DeviceInput(RATE))
    (signal,), (note,) = found.signals, found.notes
    assert np.array_equal(signal[2:, 1], signal[:-2, 0])  # the margin, so that no prediction needs a later sample
    assert len(signal) == 14902
    assert "wet.wav is late by 100 samples (12.5 ms); shifted by 98 to compensate, as predictions will be. Its" in note
    (plain,) = read_pairs(find_pairs(paths), "pair", DeviceInput(RATE), align=False).signals
    assert np.array_equal(plain[100:, 1], plain[:-100, 0])
    assert len(plain) == 15000


def test_pairs_are_read_from_folders(tmp_path):
    for k in range(3):
        dry = plucks(1.0, RATE, seed=k)
        write(tmp_path / "dry" / f"{k}.wav", dry, RATE)
        write(tmp_path / "wet" / f"{k}.wav", device(dry), RATE)
    run = train(data=[tmp_path / "dry", tmp_path / "wet"], test_share=0.2, out=tmp_path / "run", **{**TINY, "steps": 3})
    assert run.record.data.counts == {"train": 16800, "valid": 2400, "test": 4800, "rate": RATE}
    given = train(data=[tmp_path / "dry", tmp_path / "wet"], valid=tmp_path, out=tmp_path / "b", **{**TINY, "steps": 3})
    assert given.record.data.counts["valid"] == 24000
    (tmp_path / "wet" / "2.wav").unlink()
    with pytest.raises(DataError, match=r"dry/2\.wav has no partner in .*wet"):
        find_pairs([tmp_path / "dry", tmp_path / "wet"])


def test_unusable_pairs_are_rejected(tmp_path):
    dry = plucks(3.0, RATE)
    for name, samples, rate in [
        ("dry", dry, RATE), ("other", np.random.default_rng(0).normal(0, 0.1, len(dry)), RATE),
        ("rate", dry, 16000), ("short", dry[: RATE // 2], RATE), ("silence", np.zeros(len(dry)), RATE),
        ("late", np.r_[np.zeros(3000), dry][: len(dry)], RATE), ("stereo", np.stack([dry, dry], 1), RATE),
        ("one", dry[:1], RATE),
    ]:  # fmt: skip
        write(tmp_path / f"{name}.wav", samples, rate)
    for name, message in [
        ("other", r"seem unrelated: their correlation is at most -?0\.0\d+; align off"),
        ("rate", "has 8000 samples per second, but .*rate.wav has 16000; record or convert both at the same rate"),
        ("short", r"is 3\.00 s long, but .*short\.wav is 0\.50 s"),
        ("silence", r"silence\.wav is silent"),
        ("late", r"late\.wav is 375 ms late, beyond the maximum of 100 ms \(correlation 0\.\d\d\)\. Cut it"),
        ("stereo", r"stereo\.wav has 2 channels, but mono is expected"),
    ]:
        with pytest.raises(DataError, match=message):
            train(data=[tmp_path / "dry.wav", tmp_path / f"{name}.wav"], out=tmp_path / "run", **TINY)
    with pytest.raises(DataError, match="too short"):
        train(data=[tmp_path / "one.wav", tmp_path / "one.wav"], align="off", out=tmp_path / "run", **TINY)
    with pytest.raises(DataError, match="pairs need two files or two directories each, dry and wet; got 1 path"):
        train(data=tmp_path / "dry.wav", out=tmp_path / "run", **TINY)
    with pytest.raises(DataError, match="a segment of 240 steps is too short for 100 steps of burn-in"):
        train(data=[tmp_path / "dry.wav"] * 2, out=tmp_path / "run", **{**TINY, "segment": 0.03, "burn_in": 100})
    with pytest.raises(TrainingError, match="align must be one of auto, off, got 'on'"):
        train(data=[tmp_path / "dry.wav"] * 2, **{**TINY, "align": "on"})
    assert not (tmp_path / "run").exists()


def test_the_simulated_clipper_clips():
    dry = plucks(0.05, 48000)
    wet = clipper(dry)
    assert 0.2 < np.abs(wet).max() < 0.8  # the diodes conduct above about 0.5 V
    again = clipper(dry, oversampled=16)
    assert ((wet - again) ** 2).sum() / (again**2).sum() < 1e-3  # the time steps are short enough

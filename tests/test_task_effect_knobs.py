"""Effects with knobs, whose settings are constant inputs along with the sound."""

import numpy as np
import pytest
import torch
from sounds import plucks, write

import throughtime
from throughtime import Stream
from throughtime.cli.main import main
from throughtime.data.knobs import DeviceInput
from throughtime.data.pairs import find_pairs
from throughtime.errors import DataError, TrainingError, UserError
from throughtime.tasks.options.effect import knobs_from
from throughtime.training import evaluate, train
from throughtime.training.inference import Inference, predict

RATE = 8000
GAINS = (0.3, 0.9)
TINY = {
    "paired": True, "hidden_size": 6, "batch": 8, "window": 200, "burn_in": 40, "segment": 0.08, "steps": 180,
    "lr": 0.01, "threads": 1, "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A volume knob: the wet signal is the dry one multiplied by the setting."""
    path = tmp_path_factory.mktemp("knobs")
    dry = plucks(2.0, RATE)
    for gain in GAINS:
        write(path / "dry" / f"{gain}.wav", dry, RATE)
        write(path / "wet" / f"{gain}.wav", gain * dry, RATE)
    (path / "knobs.csv").write_text("file,gain\n" + "".join(f"{gain}.wav,{gain}\n" for gain in GAINS))
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train(data=folder, out=tmp_path_factory.mktemp("runs") / "run", **TINY)


def sides(folder, gain):
    return [folder / side / f"{gain}.wav" for side in ("dry", "wet")]


def by_hand(run, dry, gain):
    inputs = torch.from_numpy(np.stack([dry, np.full_like(dry, gain)], 1))[:, None]
    with torch.no_grad():
        return run.model()(inputs)[0][:, 0, 0].numpy()


@pytest.mark.slow
def test_a_network_follows_its_knob(run, folder):
    for gain in GAINS:
        found = evaluate(run, sides(folder, gain), knob={"gain": gain})
        other = evaluate(run, sides(folder, gain), knob=[f"gain={1.2 - gain:g}"])
        # A constant gain has an ESR of at least 0.25 on one of the two (0.45 on both).
        assert found["esr"] < 0.2
        assert other["esr"] > 5 * found["esr"]
    # A directory's table sets the knobs of each pair.
    assert evaluate(run, folder)["esr"] < 0.2


def test_predictions_depend_on_the_setting(run, folder, tmp_path, capsys):
    dry, _ = sides(folder, 0.3)
    expected = by_hand(run, plucks(2.0, RATE), 0.3)
    rows = list(predict(run, dry, knob={"gain": 0.3}).rows)
    assert np.array([wet for _, wet in rows]) == pytest.approx(expected, abs=1e-6)
    Inference.of(run, dry, knob={"gain": 0.3}).write_prediction(tmp_path / "a.wav")
    assert main(["predict", str(run.path), str(dry), "--knob", "gain=0.3", "--out", str(tmp_path / "b.wav")]) == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert main(["evaluate", str(run.path), *map(str, sides(folder, 0.9)), "--knob", "gain=0.9"]) == 0
    page = ["--out", str(tmp_path / "page.html")]
    assert main(["inspect", str(run.path), *map(str, sides(folder, 0.9)), "--knob", "gain=0.9", *page]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run.path), *map(str, sides(folder, 0.9))]) == 2
    assert "the network has knobs; --knob must set gain, from 0 to 1, such as gain=0.5" in capsys.readouterr().err


def test_a_stream_keeps_its_settings_and_can_change_them(run, tmp_path):
    dry = plucks(0.1, RATE)
    throughtime.save(run.model(), tmp_path / "model.safetensors")
    for model in (run.path, run.model(), tmp_path / "model.safetensors"):
        stream = Stream(model, knobs={"gain": 0.9})
        assert stream.process(dry) == pytest.approx(by_hand(run, dry, 0.9), abs=1e-6)
    by_step = Stream(run.path, knobs={"gain": 0.9})
    whole = Stream(run.path, knobs={"gain": 0.9}).process(dry)
    assert np.array_equal(np.concatenate([by_step.step(dry[k : k + 1]) for k in range(len(dry))]), whole)
    changed = Stream(run.path, knobs={"gain": 0.9})
    first = changed.process(dry[:400])
    changed.knobs = {"gain": 0.2}
    second = changed.process(dry[400:, None])[:, 0]
    inputs = np.stack([dry, np.repeat([0.9, 0.2], 400)], 1).astype(np.float32)
    with torch.no_grad():
        expected = run.model()(torch.from_numpy(inputs)[:, None])[0][:, 0, 0].numpy()
    assert np.concatenate([first, second]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match=r"a block must be a float32 array \[steps, 1\] or \[steps\], got float64 "):
        changed.process(dry.astype(float))


@pytest.mark.parametrize(("knobs", "message"), [
    (None, "the network has knobs; knob must set gain"),
    ({"gain": 2}, "knob gain must be from 0 to 1, got 2"),
    ({"gian": 0.5}, "no knob named 'gian' .its knobs are gain. .did you mean gain"),
])  # fmt: skip
def test_invalid_settings_are_rejected(run, knobs, message):
    with pytest.raises(UserError, match=message):
        Stream(run.path, knobs=knobs)


def test_each_pair_can_have_its_own_setting(folder):
    files = [path for gain in GAINS for path in sides(folder, gain)]
    pairs = find_pairs(files, knobs_from(["gain=0.3,0.9", "tone=0.5"]))
    assert [dict(pair.knobs) for pair in pairs] == [{"gain": 0.3, "tone": 0.5}, {"gain": 0.9, "tone": 0.5}]
    assert [dict(pair.knobs) for pair in find_pairs([folder / "dry", folder / "wet"], {"gain": GAINS})] == [
        {"gain": 0.3}, {"gain": 0.9}
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"knob gain must have one value, or one for each of the 2 pairs of .*, got 3"):
        find_pairs(files, {"gain": (0.1, 0.2, 0.3)})


@pytest.mark.parametrize(("given", "message"), [
    ("gain", "expected NAME=VALUE"), ("gain=loud", "expected NAME=VALUE"), ("gain=7", "must be from 0 to 1"),
    (["gain=0.1", "gain=0.2"], "each knob must be set only once"), ({"gain": []}, "expected NAME=VALUE"),
])  # fmt: skip
def test_unparsable_settings_are_rejected(folder, given, message):
    with pytest.raises(TrainingError, match=message):
        train(data=folder, knob=given, **TINY)


@pytest.mark.parametrize(("table", "message"), [
    ("name,gain\n0.3.wav,1\n", "must have a column named file and one column per knob"),
    ("file,gain\n0.3.wav,1\n", r"has no row for 0\.9\.wav"),
    ("file,gain\n0.3.wav,1\n0.9.wav,11\n", r"gain of 0\.9\.wav must be a number from 0 to 1"),
])  # fmt: skip
def test_invalid_tables_are_rejected(tmp_path, table, message):
    for gain in GAINS:
        for side in ("dry", "wet"):
            write(tmp_path / side / f"{gain}.wav", plucks(0.1, RATE), RATE)
    (tmp_path / "knobs.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        find_pairs([tmp_path])


@pytest.mark.parametrize("name", ["model.json", "model.nam", "model.guitarml.json"])
def test_plugin_formats_without_knobs_are_rejected(run, tmp_path, name, capsys):
    assert main(["export", str(run.path), str(tmp_path / name)]) == 2
    assert "also reads the knobs gain. Export it to ONNX or C instead: model.onnx" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_onnx_and_c_export_knobs(run, tmp_path):
    assert main(["export", str(run.path), str(tmp_path / "model.onnx")]) == 0
    assert main(["export", str(run.path), str(tmp_path / "net.c")]) == 0


def test_other_tasks_reject_knobs(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcabcabc\n" * 60)
    run = train(data=path, hidden_size=4, steps=2, window=10, batch=2, out=tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="is a run of task text, which has no option knob"):
        evaluate(run, path, knob={"gain": 1})


def test_a_damaged_description_is_rejected():
    with pytest.raises(DataError, match="expected a list of names"):
        DeviceInput.of_data({"rate": 8000, "channels": 1, "knobs": "gain"})

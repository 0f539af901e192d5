"""Piano rolls from MATLAB, NumPy and MIDI files, and written as MIDI."""

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from throughtime.data.midi import read_midi, write_midi
from throughtime.data.rolls import read_rolls
from throughtime.errors import DataError, UserError


def rolls(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [(generator.random((t, 88)) < 0.05).astype(np.uint8) for t in lengths]


def equal(found, expected):
    return len(found) == len(expected) and all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))


def as_cells(pieces):
    cells = np.empty((1, len(pieces)), object)
    cells[0] = pieces
    return cells


def saved(path, *messages, ticks_per_beat=480, kind=0):
    track = mido.MidiTrack(mido.Message(name, note=note, time=time, **more) for name, note, time, more in messages)
    mido.MidiFile(type=kind, ticks_per_beat=ticks_per_beat, tracks=[track]).save(path)
    return path


PARTS = {"traindata": rolls(5, 9, 7), "validdata": rolls(4, 6, seed=1), "testdata": rolls(3, 8, seed=2)}


def test_a_mat_file_keeps_its_own_split(tmp_path):
    savemat(tmp_path / "a.mat", {key: as_cells(pieces) for key, pieces in PARTS.items()})
    found = read_rolls(tmp_path / "a.mat")
    assert equal(found.train, PARTS["traindata"])
    assert equal(found.valid, PARTS["validdata"])
    assert equal(found.test, PARTS["testdata"])
    assert {x.dtype for x in found.train} == {np.dtype(np.uint8)}
    assert found.name == str(tmp_path / "a.mat")


def test_an_npz_file_is_split_by_array_names_or_by_piece(tmp_path):
    parts = {f"{key[:-4]}_{k}": roll for key, pieces in PARTS.items() for k, roll in enumerate(pieces)}
    np.savez(tmp_path / "a.npz", **parts)
    found = read_rolls(tmp_path / "a.npz")
    assert equal(found.train, PARTS["traindata"])
    assert equal(found.test, PARTS["testdata"])
    np.savez(tmp_path / "b.npz", **{key: np.stack([p[:3] for p in pieces]) for key, pieces in PARTS.items()})
    assert equal(read_rolls(tmp_path / "b.npz").valid, [p[:3] for p in PARTS["validdata"]])
    pieces = rolls(*range(2, 22))
    np.savez(tmp_path / "c.npz", *pieces)
    shared = read_rolls(tmp_path / "c.npz", seed=1)
    lengths = [[len(x) for x in part] for part in (shared.train, shared.valid, shared.test)]
    assert list(map(len, lengths)) == [16, 2, 2]
    assert sorted([*lengths[0], *lengths[1], *lengths[2]]) == list(range(2, 22))
    assert lengths[0] == sorted(lengths[0])  # arr_2 before arr_10
    again = read_rolls(tmp_path / "c.npz", seed=2)
    assert [len(x) for x in again.test] != lengths[2]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(1, 40), share=st.floats(0.01, 0.6))
def test_a_roll_survives_writing_and_reading(tmp_path_factory, seed, length, share):
    roll = np.random.default_rng(seed).random((length, 88)) < share
    roll[-1, 40] = True  # silence at the end has no note, so it isn't restored
    path = tmp_path_factory.mktemp("midi") / "a.mid"
    write_midi(roll, path, step_seconds=0.3)
    found, outside = read_midi(path)
    assert np.array_equal(found, roll)
    assert outside == 0
    # MIDI's tempo is a whole number of microseconds per beat of four steps.
    assert mido.MidiFile(path).length == pytest.approx(0.3 * length, abs=1e-6 * length)


def test_midi_note_21_is_column_0(tmp_path):
    roll = np.zeros((3, 88))
    roll[0, 0] = roll[1:, 87] = 1
    write_midi(roll, tmp_path / "a.mid", step_seconds=0.5)
    notes = [(m.type, m.note, m.time) for m in mido.MidiFile(tmp_path / "a.mid").tracks[0] if not m.is_meta]
    # 120 ticks per step; the held note of key 108 starts once.
    assert notes == [("note_on", 21, 0), ("note_off", 21, 120), ("note_on", 108, 0), ("note_off", 108, 240)]


def test_notes_are_quantized_to_steps(tmp_path):
    path = saved(
        tmp_path / "a.mid",
        ("note_on", 60, 50, {}),  # nearest to step 0
        ("note_on", 64, 20, {}),  # tick 70: to step 1
        ("note_on", 70, 0, {"channel": 9}),  # drums
        ("note_on", 10, 0, {}),  # below the piano's range
        ("note_on", 60, 170, {"velocity": 0}),  # tick 240: ends before step 2
        ("note_off", 64, 10, {}),
        ("note_off", 10, 0, {}),
        ("note_on", 62, 110, {}),  # step 3, for at least one step
        ("note_off", 62, 1, {}),
        ("note_on", 72, 119, {}),  # never ended: one step
    )
    roll, outside = read_midi(path)
    assert [np.flatnonzero(step).tolist() for step in roll] == [[39], [39, 43], [], [41], [51]]
    assert outside == 1
    assert [np.flatnonzero(step).tolist() for step in read_midi(path, step=1)[0]] == [[39, 43], [41, 51]]


def test_a_directory_of_midi_files_can_be_read(tmp_path):
    pieces = rolls(*range(5, 15))
    for piece in pieces:
        piece[-1, 0] = 1
    (tmp_path / "flat").mkdir()
    for part in ("train", "validation", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
    for k, piece in enumerate(pieces):
        write_midi(piece, tmp_path / "flat" / f"{k}.mid", step_seconds=0.3)
        write_midi(piece, tmp_path / "parts" / ["train", "validation", "test"][k % 3] / f"{k}.midi", step_seconds=0.3)
    flat = read_rolls(tmp_path / "flat")
    assert [len(flat.train), len(flat.valid), len(flat.test)] == [8, 1, 1]
    parts = read_rolls(tmp_path / "parts")
    assert equal(parts.train, pieces[::3])
    assert equal(parts.valid, pieces[1::3])
    assert equal(parts.test, pieces[2::3])
    assert parts.notes == []
    saved(tmp_path / "flat" / "10.mid", ("note_on", 10, 0, {}), ("note_on", 60, 0, {}), ("note_off", 60, 9, {}))
    assert read_rolls(tmp_path / "flat").notes == ["Dropped 1 note outside a piano's range (MIDI 21 to 108)."]


def test_files_that_are_not_rolls_are_rejected(tmp_path):
    np.savez(tmp_path / "objects.npz", traindata=as_cells(PARTS["traindata"]))
    np.savez(tmp_path / "wide.npz", np.zeros((3, 89)))
    np.savez(tmp_path / "counts.npz", np.full((3, 88), 2))
    np.savez(tmp_path / "short.npz", np.zeros((0, 88)))
    np.savez(tmp_path / "two.npz", *rolls(3, 4))
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "part.npz", train_0=rolls(3)[0], test_0=rolls(3)[0])
    for name in ("a.mat", "a.npz", "a.mid", "a.pickle"):
        (tmp_path / name).write_bytes(b"MThd damaged")
    (tmp_path / "empty").mkdir()
    write_midi(np.ones((2, 88)), tmp_path / "cut.mid", step_seconds=0.1)
    (tmp_path / "cut.mid").write_bytes((tmp_path / "cut.mid").read_bytes()[:60])
    write_midi(np.zeros((2, 88)), tmp_path / "silent.mid", step_seconds=0.1)
    saved(tmp_path / "long.mid", *[("note_on", 60, 2**27, {})] * 2, ("note_off", 60, 1, {}), ticks_per_beat=1)
    for name, message in [
        ("objects.npz", r"contains Python objects, which are not loaded.*np\.savez\(path"),
        ("wide.npz", r"wide\.npz, arr_0, piece 0: expected an array \[steps, 88\] of 0s and 1s, got \[3, 89\]"),
        ("counts.npz", "a piano roll must contain only 0 and 1, got 2"),
        ("short.npz", "piece 0 has no steps"),
        ("two.npz", "has 2 pieces; at least 3 are needed"),
        ("none.npz", "has no pieces"),
        ("part.npz", "in all of train, valid and test, or in none; it has test, train"),
        ("a.mat", r"is not a readable \.mat file"),
        ("a.npz", r"is not a readable \.npz file"),
        ("a.mid", "is not a readable MIDI file"),
        ("cut.mid", "is not a readable MIDI file: unexpected end of file"),
        ("silent.mid", "has no notes"),
        ("long.mid", "above the limit of 1,000,000"),
        ("a.pickle", r"has an unsupported type \(\.pickle\); expected \.mat or \.npz"),
        ("empty", r"has no \.mid files"),
        ("cut.midi", r"no such file or directory .did you mean cut\.mid"),
    ]:
        with pytest.raises(DataError, match=message):
            read_rolls(tmp_path / name)


def test_arguments_out_of_range_are_rejected(tmp_path):
    path = tmp_path / "a.mid"
    with pytest.raises(DataError, match=r"shape \[steps, 88\], got \[3, 87\]"):
        write_midi(np.zeros((3, 87)), path, step_seconds=0.1)
    with pytest.raises(DataError, match=r"step_seconds must be from 0\.001 to 4, got 0"):
        write_midi(np.zeros((3, 88)), path, step_seconds=0)
    write_midi(np.ones((3, 88)), path, step_seconds=0.1)
    with pytest.raises(DataError, match="step must be a positive number of beats, got 0"):
        read_midi(path, step=0)
    np.savez(tmp_path / "a.npz", *rolls(3, 4, 5))
    with pytest.raises(DataError, match=r"between 0 and 0\.5, got 0\.5"):
        read_rolls(tmp_path / "a.npz", share=0.5)


def test_missing_packages_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("throughtime.packages.find_spec", lambda name: None)
    for name, needed in [("a.mid", "reading MIDI files needs mido"), ("a.mat", r"reading \.mat files needs scipy")]:
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=rf"{needed}, from the extra `notes`: run pip install '\.\[notes\]'"):
            read_rolls(tmp_path / name)
    with pytest.raises(UserError, match="writing MIDI files needs mido"):
        write_midi(np.zeros((1, 88)), tmp_path / "b.mid", step_seconds=0.1)

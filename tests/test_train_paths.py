"""Paths: names that are not UTF-8, empty lists, dangling links, and runs that fail before their first step."""

import errno
import json
import os
from unittest.mock import patch

import pytest
from tiny_training import TINY, train_tiny, write_text

import throughtime
from throughtime.cli.main import main
from throughtime.data.corpus import encode_text
from throughtime.data.text import read_text
from throughtime.errors import DataError, RunError, TrainingError
from throughtime.paths import files_in, joint_name
from throughtime.runs import Run

SMALL = ["--hidden", "4", "--steps", "2", "--batch", "4", "--window", "10", "--threads", "1"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A directory with a text and a run, all three with Latin-1 names."""
    place = os.fsdecode(os.fsencode(tmp_path_factory.mktemp("odd")) + b"/d\xe9p\xf4t")
    os.mkdir(place)
    text = os.path.join(place, os.fsdecode(b"caf\xe9.txt"))
    write_text(tmp_path_factory.getbasetemp() / "plain.txt")
    os.replace(tmp_path_factory.getbasetemp() / "plain.txt", text)
    run = os.path.join(place, os.fsdecode(b"r\xfcn"))
    assert main(["train", text, *SMALL, "--out", run]) == 0
    return text, run


def test_names_that_are_not_utf8_are_kept_and_shown_escaped(odd):
    text, path = odd
    run = Run.open(path)
    assert run.config.task.data == (text,)
    assert run.record.data.name.endswith(r"d\xe9p\xf4t/caf\xe9.txt")
    assert (run.path / "report.html").is_file()
    (run.path / "config.json").read_bytes().decode("ascii")


@pytest.mark.parametrize(
    "command", ["info", "info --json", "sample", "evaluate", "evaluate --json", "inspect", "resume"]
)
def test_every_command_accepts_names_that_are_not_utf8(command, odd, capsys):
    text, run = odd
    name, *flags = command.split()
    arguments = {
        "evaluate": ["evaluate", run, text],
        "sample": ["sample", run, "--length", "3"],
        "inspect": ["inspect", run, text, "--length", "50"],
        "resume": ["train", "--resume", run, "--steps", "3"],
    }.get(name, [name, run])
    assert main([*arguments, *flags]) == 0
    if flags:
        json.loads(capsys.readouterr().out)


def test_an_empty_list_of_paths_is_rejected(tmp_path):
    run = train_tiny(tmp_path)
    with pytest.raises(TrainingError, match=r"data \[\]: the list is empty"):
        throughtime.train(data=[], out=tmp_path / "other", **TINY)
    with pytest.raises(DataError, match="list of paths is empty"):
        read_text([])
    with pytest.raises(DataError, match="list of paths is empty"):
        encode_text([], run.description.codecs.inputs)
    with pytest.raises(DataError, match="empty list"):
        throughtime.evaluate(run, [])
    with pytest.raises(DataError, match="a path is empty"):
        throughtime.evaluate(run, "")
    assert not (tmp_path / "other").exists()


def test_hints_never_repeat_the_given_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "t.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    assert main(["sample", "t.txt"]) == 2
    assert capsys.readouterr().err == "error: t.txt is a file; expected the directory of a run, or latest\n"
    for arguments in (["train", "gone.txt"], ["sample", "gone.txt"]):
        assert main(arguments) == 2
        assert "gone.txt is a link to nowhere, which does not exist" in capsys.readouterr().err


def test_a_directory_of_runs_lists_its_runs(tmp_path):
    run = train_tiny(tmp_path)
    with pytest.raises(RunError, match=rf"is not a run: it is a directory of 1 run; choose one: {run.path}"):
        Run.open(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").touch()
    with pytest.raises(RunError, match=r"it has no config\.json, only a\.txt"):
        Run.open(tmp_path / "other")


@pytest.mark.parametrize("failing", ["runs.list_to_json", "runs.Run.__init__", "training.loop._fit"])
@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_before_its_first_step_leaves_nothing(failing, there, tmp_path):
    out = tmp_path / "new" / "run"
    if there:
        out.mkdir(parents=True)
    with patch(f"throughtime.{failing}", side_effect=OSError(errno.EIO, "no")), pytest.raises(OSError, match="no"):
        train_tiny(tmp_path, out=out)
    if there:
        assert list(out.iterdir()) == []
    else:
        assert not out.parent.exists()


def test_a_run_that_fails_later_stays(tmp_path):
    with (
        patch("throughtime.training.loop.measure", side_effect=OSError(errno.EIO, "no")),
        pytest.raises(OSError, match="no"),
    ):
        train_tiny(tmp_path)
    assert Run.open(tmp_path / "run").checkpoint.is_file()


@pytest.mark.parametrize("prompt", ["some word", "some word "])
def test_tokenized_words_continue_a_prompt_after_one_space(prompt, tmp_path):
    (tmp_path / "text.txt").write_text("some <unk> word is here and more words are there\n" * 300)
    run = train_tiny(tmp_path, level="word")
    text = prompt + "".join(throughtime.sample(run, prompt=prompt, length=3))
    assert text.startswith(("some word ", "some word\n"))
    assert "  " not in text
    assert set(text.split()) <= {"some", "word", "is", "here", "and", "more", "words", "are", "there"}


def test_files_that_a_directory_is_read_without_are_named(tmp_path, caplog):
    for name in ("b.wav", "a.WAV", "._a.wav", ".cache/x.wav", "more/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_in(tmp_path, (".wav",)) == [tmp_path / name for name in ("a.WAV", "b.wav", "more/c.wav")]
    assert not caplog.messages
    (tmp_path / "labels.csv").touch()
    assert files_in(tmp_path, (".wav",), nested=False) == [tmp_path / "a.WAV", tmp_path / "b.wav"]
    for number in range(3):
        (tmp_path / "more" / f"{number}.txt").touch()
    files_in(tmp_path, (".wav", ".flac"))
    where = f"files are read from {tmp_path}, without labels.csv"
    assert caplog.messages == [
        f"only .wav {where}, more/",
        f"only .wav, .flac {where}, more/0.txt, more/1.txt and 1 more",
    ]
    assert files_in(tmp_path, (".mid",)) == []  # an error that names the types follows
    assert len(caplog.messages) == 2


def test_several_files_have_one_short_name():
    assert joint_name(["a/x.txt"]) == "a/x.txt"
    assert joint_name(["a/x.txt", "b/y.txt"]) == "a/x.txt and y.txt"
    assert joint_name(["a/x.txt", "b/y.txt", "z"]) == "a/x.txt and 2 more"

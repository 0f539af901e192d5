"""Preparing a corpus: its parts, its counts, and the cache."""

import errno
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from throughtime.data import cache
from throughtime.data import corpus as corpus_module
from throughtime.data.corpus import encode_text, prepare_text
from throughtime.data.text import default_text
from throughtime.errors import DataError

TEXT = "".join(f"line {n} of a text about {'cats' if n % 3 else 'dogs'}\n" for n in range(200))


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "throughtime"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def entries(directory: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in directory.iterdir()}


def test_the_last_tenth_is_held_out(text):
    corpus = prepare_text([text])
    cut = len(TEXT) * 9 // 10
    decode = corpus.vocabulary.decode
    assert decode(corpus.train.ids) == TEXT[:cut]
    assert decode(corpus.valid.ids) == TEXT[cut:]
    assert corpus.valid.token_count == corpus.valid.characters == len(TEXT) - cut
    assert corpus.test is None


@pytest.mark.parametrize("level", ["word", "bpe"])
def test_every_level_holds_out_the_same_text_up_to_a_word(text, level):
    corpus = prepare_text([text], level=level, min_count=1)
    train = corpus.vocabulary.decode(corpus.train.ids)
    assert train == TEXT[: len(train)]
    assert TEXT[len(train)].isspace()
    assert 0 <= len(train) - len(TEXT) * 9 // 10 < 6
    assert corpus.train.characters + corpus.valid.characters == len(TEXT)


def test_given_validation_and_test_texts_are_used_whole(text, tmp_path):
    (tmp_path / "valid.txt").write_text("a valid line\n")
    (tmp_path / "test.txt").write_text("a test line\n")
    corpus = prepare_text([text], valid=tmp_path / "valid.txt", test=tmp_path / "test.txt")
    assert corpus.train.token_count == len(TEXT)
    assert corpus.vocabulary.decode(corpus.test.ids) == "a test line\n"
    assert corpus.valid.name == str(tmp_path / "valid.txt")


def test_unknown_tokens_are_counted(text, tmp_path):
    (tmp_path / "valid.txt").write_text("ça va? ça va\n")
    corpus = prepare_text([text], valid=tmp_path / "valid.txt")
    assert corpus.train.unknown == 0
    assert corpus.valid.unknown == 5
    assert "ç" not in corpus.vocabulary.tokens
    part = encode_text([tmp_path / "valid.txt"], corpus.vocabulary)
    assert part.unknown == 5
    assert np.array_equal(part.ids, corpus.valid.ids)


def test_a_tokenized_file_keeps_its_words(tmp_path):
    lines = " the <unk> sat on the mat \n a cat was n't there \n"
    (tmp_path / "ptb.train.txt").write_text(lines * 5)
    (tmp_path / "ptb.valid.txt").write_text(" the cat <unk> purred \n")
    corpus = prepare_text([tmp_path / "ptb.train.txt"], level="word", valid=tmp_path / "ptb.valid.txt")
    words = (lines * 5).replace("\n", "<eos>").split()
    assert corpus.train.token_count == len(words)
    assert corpus.vocabulary.size == len(set(words))
    assert corpus.valid.token_count == 5
    assert corpus.valid.unknown == 1


def test_losses_are_comparable_across_levels(tmp_path):
    (tmp_path / "a").write_text("à bientôt\n" * 100)
    for level in ("char", "word", "bpe"):
        valid = prepare_text([tmp_path / "a"], level=level).valid
        # Ten lines are held out; the word "à" at the cut is among them only at level char.
        length, size = (100, 120) if level == "char" else (99, 118)
        nats = 2.0 * valid.token_count  # summed over the whole part
        assert valid.bits_per_character(2.0) == pytest.approx(nats / math.log(2) / length, rel=1e-12)
        assert valid.bits_per_byte(2.0) == pytest.approx(nats / math.log(2) / size, rel=1e-12)


def test_no_path_reads_the_default_text():
    corpus = prepare_text()
    assert corpus.train.token_count + corpus.valid.token_count == len(default_text())
    assert corpus.vocabulary.size < 256


def test_a_second_run_uses_the_cached_ids(text, tmp_path, cache_home):
    for level in ("char", "bpe"):
        first = prepare_text([text], level=level)
        before = entries(cache_home)
        (tmp_path / "copy.txt").write_text(TEXT)  # the same text under another name and date
        second = prepare_text([tmp_path / "copy.txt"], level=level)
        assert entries(cache_home) == before
        assert second.digest == first.digest
        assert np.array_equal(second.train.ids, first.train.ids)
        assert second.train.unknown == first.train.unknown
        assert second.train.bytes == first.train.bytes


def test_a_changed_text_or_vocabulary_misses_the_cache(text):
    first = prepare_text([text])
    status = text.stat()
    text.write_text(TEXT.replace("cats", "bats"))
    os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size and date
    second = prepare_text([text])
    assert second.digest != first.digest
    assert second.vocabulary.decode(second.train.ids).count("bats") > 50
    assert prepare_text([text], min_count=30).digest != second.digest


def test_a_given_vocabulary_is_used_unchanged(text, tmp_path):
    vocabulary = prepare_text([text]).vocabulary
    (tmp_path / "other").write_text("Other Text\n" * 20)
    corpus = prepare_text([tmp_path / "other"], level="bpe", vocabulary=vocabulary)
    assert corpus.vocabulary is vocabulary
    assert corpus.train.unknown > 0


def test_partial_files_of_killed_runs_are_not_cache_entries(text, cache_home):
    whole = np.array(prepare_text([text]).train.ids)
    for path in cache_home.iterdir():  # a partially written entry of every kind
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    (cache_home / "tmpabc.part").write_bytes(b"half")
    again = prepare_text([text])
    assert np.array_equal(again.train.ids, whole)
    before = entries(cache_home)
    prepare_text([text])
    assert entries(cache_home) == before


def test_only_old_partial_files_are_removed(text, cache_home):
    cache_home.mkdir(parents=True)
    old, young = cache_home / "old.part", cache_home / "young.part"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    prepare_text([text])
    assert not old.exists()
    assert young.exists()


def test_cache_entries_are_written_atomically(text, cache_home):
    def interrupt(doing, _done, _size):
        if doing == "writing tokens":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_text([text], progress=interrupt)
    assert [p.name for p in cache_home.iterdir() if not p.name.endswith("vocabulary.json")] == []


def test_a_memory_mapped_part_outlives_the_cache(text, cache_home):
    corpus = prepare_text([text])
    for path in cache_home.iterdir():
        path.unlink()
    assert corpus.vocabulary.decode(corpus.train.ids) == TEXT[: len(TEXT) * 9 // 10]


def test_ids_are_temporary_if_the_cache_is_not_writable(text, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way of a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    corpus = prepare_text([text])
    assert corpus.train.token_count == len(TEXT) * 9 // 10
    assert "is not writable" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported(text, cache_home, monkeypatch, code):
    def fail(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache.os, "fsync", fail)
    with pytest.raises(DataError, match=r"the disk is full.*XDG_CACHE_HOME"):
        prepare_text([text])
    assert list(cache_home.iterdir()) == []


def test_empty_texts_are_reported(tmp_path):
    (tmp_path / "blank").write_text("   \n" * 50)
    (tmp_path / "short").write_text("a")
    (tmp_path / "good").write_text("the <unk> is here\n" * 9)
    with pytest.raises(DataError, match="too short to hold out"):
        prepare_text([tmp_path / "short"])
    vocabulary = prepare_text([tmp_path / "good"], level="word").vocabulary
    (tmp_path / "spaces").write_text("    ")
    with pytest.raises(DataError, match="contains no words"):
        encode_text([tmp_path / "spaces"], vocabulary)


def test_bounds_are_checked_before_reading_the_text(tmp_path):
    with pytest.raises(DataError, match="did you mean word"):
        prepare_text([tmp_path / "missing"], level="words")


def test_a_text_that_changes_during_reading_is_reported(text, cache_home, monkeypatch):
    read = corpus_module.read_text

    def read_then_truncate(*args):
        found = read(*args)
        text.write_text(TEXT[:300])
        return found

    monkeypatch.setattr(corpus_module, "read_text", read_then_truncate)
    with pytest.raises(DataError, match="changed while it was being read"):
        prepare_text([text])


@pytest.mark.slow
@pytest.mark.parametrize(("level", "megabytes"), [("char", (5, 20)), ("word", (2, 6))])
def test_memory_use_is_independent_of_text_length(tmp_path, level, megabytes):
    path = tmp_path / "long.txt"
    peaks = []
    for size in megabytes:
        with path.open("w") as file:
            for _ in range(size):
                file.write((TEXT * (1 + (1 << 20) // len(TEXT)))[: 1 << 20])
        tracemalloc.start()
        corpus = prepare_text([path], level=level)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert corpus.train.characters + corpus.valid.characters == size << 20
    assert peaks[1] < peaks[0] + 1_000_000  # one megabyte of slack; the texts differ by many

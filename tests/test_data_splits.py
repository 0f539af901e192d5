"""Splits by label and by group, and unsplittable data."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from outcomes import COLLECTING

from throughtime.data.splits import split
from throughtime.errors import DataError, UserError


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=6),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 9),
)
def test_splits_keep_label_frequencies(counts, share, seed):
    ids = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    train, valid, notes = split(ids, None, share, seed)
    assert sorted([*train, *valid]) == list(range(len(ids)))
    assert notes == []
    size = min(max(round(share * len(ids)), len(counts)), len(ids) - len(counts))
    assert len(valid) == size
    # scikit-learn divides whole sequences, so a label is off by less than one.
    assert np.all(np.abs(np.bincount(ids[valid], minlength=len(counts)) - size * np.array(counts) / len(ids)) < 1)
    again = split(ids, None, share, seed)
    assert np.array_equal(again.valid, valid)


@settings(COLLECTING, max_examples=40)
@given(
    labels=st.lists(st.integers(0, 2), min_size=6, max_size=60),
    groups=st.integers(1, 3) | st.integers(4, 12),
    share=st.floats(0.1, 0.7),
    seed=st.integers(0, 9),
    known=st.booleans(),
)
@example(labels=[0, 1] * 3, groups=1, share=0.2, seed=0, known=True)
def test_groups_stay_on_one_side(outcomes, labels, groups, share, seed, known):
    ids = np.unique(labels, return_inverse=True)[1]
    names = [f"g{k}" for k in np.random.default_rng(seed).integers(0, groups, len(ids))]
    targets = ids if known else ids.astype(float)
    found = outcomes.of(split, targets, names, share, seed, refusal=DataError, match="group")  # too few groups
    if found is None:
        return
    train, valid, _ = found
    assert sorted([*train, *valid]) == list(range(len(ids)))
    assert len(train)
    assert len(valid)
    assert not {names[k] for k in train} & {names[k] for k in valid}
    if known:
        assert set(ids[train]) == set(ids)


def test_grouped_splits_keep_fractions_and_labels():
    generator = np.random.default_rng(0)
    groups = [f"speaker {k}" for k in generator.integers(0, 50, 1000)]
    ids = generator.choice(3, 1000, p=[0.7, 0.2, 0.1])
    _, valid, notes = split(ids, groups, 0.2, 0)
    assert notes == []
    assert len(valid) == pytest.approx(200, rel=0.1)  # whole groups of about 20
    assert np.bincount(ids[valid]) / len(valid) == pytest.approx([0.7, 0.2, 0.1], abs=0.05)
    assert split(ids, groups, 0.2, 1).valid.tolist() != valid.tolist()


def test_numeric_targets_are_split_at_random():
    train, valid, notes = split(np.zeros((50, 2)), None, 0.2, 0)
    assert (len(train), len(valid), notes) == (40, 10, [])
    assert valid.tolist() == sorted(valid)
    assert valid.tolist() != list(range(10))
    assert len(split([np.zeros(3)] * 2, None, 0.01, 0).valid) == 1


def test_a_label_with_one_sequence_is_used_for_training():
    ids = np.array([0] * 5 + [1] + [2] * 5)
    for seed in range(10):
        train, valid, notes = split(ids, None, 0.4, seed, ["a", "b", "c"])
        assert 5 in train
        assert len(valid) == 4
        assert notes == ["label 'b' has only one sequence, which is used for training: its accuracy is not validated."]


def test_a_label_with_one_group_is_used_for_training():
    ids = np.array([0, 0, 1, 1, 0, 0, 2, 2])
    for seed in range(10):
        train, _, notes = split(ids, list("abababcc"), 0.5, seed)
        assert {6, 7} <= set(train)
        assert [note.split(",")[0] for note in notes] == ["label 2 has only one group"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.array([0, 2, 0, 2]), None, 0.5, 0), "no sequence has the label 1"),
        ((np.array([0, 0]), None, 0.5, 0, ["a", "b"]), "no sequence has the label 'b'"),
        ((np.array([0, 1]), None, 0.5, 0), "no label has at least 2 sequences to split"),
        ((np.array([0, 1, 0]), ["a", "b", "a"], 0.5, 0), "no label has at least 2 groups to split"),
        ((np.array([0, 1, 0]), ["a", "a", "a"], 0.5, 0), "all sequences are in the same group"),
        ((np.array([0, 1, 0]), ["a"], 0.5, 0), "the number of groups must match the sequences, got 1 for 3"),
        ((np.array([0, 0]), None, 0, 0), "between 0 and 1, got 0"),
        ((np.array([0, 0]), None, 1.0, 0), "between 0 and 1, got 1"),
        ((np.array([0]), None, 0.5, 0), "at least 2 sequences, got 1"),
    ],
)
def test_unsplittable_data_are_rejected(arguments, message):
    with pytest.raises(DataError, match=message):
        split(*arguments)


def test_missing_scikit_learn_is_reported(monkeypatch):
    monkeypatch.setattr("throughtime.packages.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"a split by label needs sklearn, from the extra `train`: run pip install '\.\[train\]'"
    ):
        split(np.array([0, 0]), None, 0.5, 0)

"""Batches of separate sequences: each occurs once per epoch, among others of similar length."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from throughtime.data.buckets import Buckets
from throughtime.data.labels import Labels
from throughtime.data.scaler import Scaler
from throughtime.data.sequences import Sequences
from throughtime.errors import DataError


def numbered(lengths, **options):
    """Token sequences whose ids and targets equal their index."""
    return Sequences([np.full(t, k) for k, t in enumerate(lengths)], np.arange(len(lengths)), **options)


LENGTHS = st.lists(st.integers(1, 60), min_size=4, max_size=120)
SIZES = {"lengths": LENGTHS, "batch": st.integers(4, 20), "seed": st.integers(0, 5)}


@given(**SIZES, epoch=st.integers(0, 3), shuffle=st.booleans())
def test_each_sequence_occurs_once_per_epoch(lengths, batch, seed, epoch, shuffle):
    buckets = Buckets(numbered(lengths), batch, seed, shuffle=shuffle)
    steps = range(epoch * len(buckets), (epoch + 1) * len(buckets))
    batches = [buckets.batch(step) for step in steps]
    assert sorted(np.concatenate([b.targets for b in batches])) == list(range(len(lengths)))
    sizes = [len(b.targets) for b in batches]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    for step, found in zip(steps, batches, strict=True):
        assert np.array_equal(buckets.rows(step), found.targets)
        for column, number in enumerate(found.targets):
            length = lengths[number]
            assert found.inputs[:length, column].tolist() == [number] * length
            assert not found.inputs[length:, column].any()
        theirs = np.array(lengths)[found.targets]
        assert len(found.inputs) == theirs.max()
        assert np.array_equal(
            theirs, np.full(len(theirs), len(found.inputs)) if found.lengths is None else found.lengths
        )


@given(**SIZES, steps=st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_a_batch_does_not_depend_on_earlier_steps(lengths, batch, seed, steps):
    used = Buckets(numbered(lengths), batch, seed)
    for step in steps:
        found = used.batch(step)
        expected = Buckets(numbered(lengths), batch, seed).batch(step)
        assert np.array_equal(found.inputs, expected.inputs)
        assert np.array_equal(found.targets, expected.targets)


@given(**SIZES, ranks=st.integers(1, 4), step=st.integers(0, 100))
def test_processes_divide_the_batch(lengths, batch, seed, ranks, step):
    data = numbered(lengths, weights=np.linspace(0.5, 2, len(lengths)))
    shares = [Buckets(data, batch, seed, rank, ranks) for rank in range(ranks)]
    batches = [share.batch(step) for share in shares]
    assert all(len(b.targets) >= 1 for b in batches)
    assert len({len(share) for share in shares}) == len({b.terms for b in batches}) == 1
    joined = np.concatenate([b.targets for b in batches])
    # In float64: up to 20 float32 weights are summed in a different order.
    assert batches[0].terms * ranks == pytest.approx(data.weights[joined].astype(float).sum(), rel=1e-12)
    if len(shares[0]) == len(Buckets(data, batch, seed)):  # unless a process would have no row
        assert sorted(joined) == sorted(Buckets(data, batch, seed).batch(step).targets)


@given(**SIZES)
def test_padding_is_bounded(lengths, batch, seed):
    buckets = Buckets(numbered(lengths), batch, seed)
    padded = sum(buckets.batch(step).inputs.size for step in range(len(buckets)))
    # Batches divide the lengths, jittered by up to 5%, into disjoint ranges, which add up to at most the longest.
    assert padded - sum(lengths) <= 0.05 * sum(lengths) + batch * 1.05 * max(lengths)


def test_padding_of_short_names_is_small():
    lengths = np.random.default_rng(0).normal(7, 2, 20_000).round().clip(2, 20).astype(int)
    buckets = Buckets(numbered(lengths), 64)
    padded = sum(buckets.batch(step).inputs.size for step in range(len(buckets)))
    assert padded / lengths.sum() < 1.02  # the bound above: 5% jitter, and 64 * 21 steps of 140,000


def test_epochs_differ_in_order_and_members():
    lengths = np.random.default_rng(0).integers(100, 200, 300)  # few are equal, so jitter must mix them
    buckets = Buckets(numbered(lengths), 10)
    epochs = [[frozenset(buckets.rows(e * len(buckets) + k).tolist()) for k in range(len(buckets))] for e in (0, 1)]
    assert len(set(epochs[0]) & set(epochs[1])) <= 2
    longest = [[max(lengths[list(rows)]) for rows in epoch] for epoch in epochs]
    assert longest[0] != longest[1]
    assert longest[0] != sorted(longest[0])
    other = Buckets(numbered(lengths), 10, seed=1)
    assert other.rows(0).tolist() != buckets.rows(0).tolist()


def test_unshuffled_epochs_are_equal_and_sorted_by_length():
    buckets = Buckets(numbered([5, 2, 9, 4, 7, 1]), 2, shuffle=False)
    assert [buckets.rows(k).tolist() for k in range(6)] == [[1, 5], [0, 3], [2, 4]] * 2


def test_padded_steps_have_no_weight():
    features = [np.ones((2, 3)), np.ones((4, 3))]
    data = Sequences(features, [np.array([1, 2]), np.array([3, 4, 5, 6])], weights=[0.5, 2])
    batch = Buckets(data, 2).batch(0)
    assert batch.inputs.shape == (4, 2, 3)
    assert batch.inputs.dtype == batch.weights.dtype == np.float32
    assert batch.lengths.tolist() == [4, 2]
    assert batch.targets.T.tolist() == [[3, 4, 5, 6], [1, 2, 0, 0]]
    assert batch.weights.T.tolist() == [[2, 2, 2, 2], [0.5, 0.5, 0, 0]]
    assert batch.terms == 9
    assert batch.carry is False


def test_equal_lengths_omit_lengths_and_weights():
    batch = Buckets(Sequences([np.ones((3, 2))] * 2, [np.zeros((3, 4))] * 2), 2).batch(0)
    assert batch.lengths is None
    assert batch.weights is None
    assert batch.targets.shape == (3, 2, 4)
    assert batch.terms == 6  # one per step, each of 4 values


def test_every_process_has_a_row_in_uneven_batches():
    data = numbered([1] * 7)
    assert [len(Buckets(data, 4, 0, rank, 4).batch(0).targets) for rank in range(4)] == [2, 2, 2, 1]
    with pytest.raises(DataError, match="4 processes need a batch of at least 4 sequences, got a batch of 3"):
        Buckets(data, 3, 0, 0, 4)
    with pytest.raises(DataError, match="batch must be a positive integer, got 0"):
        Buckets(data, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], np.zeros(0, int)), "expected at least 1 sequence, got none"),
        (([[1], []], np.array([0, 1])), "sequence 1 has no steps; remove it"),
        (([[1], [2]], np.array([0])), "the number of targets must match the sequences, got 1 for 2"),
        (([[1, 2]], [[1]]), "2 steps and 1 targets"),
        (([[1.5]], np.array([0])), r"ids \[steps\] \(integers\) or values"),
        (([[[1.0]], [[1.0, 2.0]]], np.array([0, 1])), r"0 has shape \[1, 1\], 1 has \[1, 2\]"),
        (([[1], [[1.0]]], np.array([0, 1])), "the same inputs per step"),
        (([[[1.0, 2.0], [3.0, np.nan]]], np.array([0])), "got nan in row 1, column 1"),
        (([[[1.0]], [[np.inf]]], np.array([0, 1])), "got inf in sequence 1, in row 0, column 0"),
        (([[1]], np.array([[np.nan]])), "targets must be finite"),
        (([[[[1.0]]]], np.array([0])), r"got shape \[1, 1, 1\]"),
        (([[1]], np.array([0]), [0.0]), "positive; remove"),
        (([[1]], np.array([0]), None, ["a", "b"]), "the number of names must match the sequences"),
        (([[1]], np.array([0]), None, [], ["a", "b"]), "the number of groups must match the sequences"),
    ],
)
def test_mismatched_sequences_are_rejected(arguments, message):
    with pytest.raises(DataError, match=message):
        Sequences(*arguments)


def test_take_keeps_names_and_groups_with_their_sequences():
    data = numbered([3, 1, 2], weights=[1, 2, 3], names=["a", "b", "c"], groups=["x", "y", "x"])
    taken = data.take([2, 0])
    assert [x.tolist() for x in taken.inputs] == [[2, 2], [0, 0, 0]]
    assert taken.targets.tolist() == [2, 0]
    assert taken.weights.tolist() == [3, 1]
    assert (taken.names, taken.groups) == (["c", "a"], ["x", "x"])
    tagged = Sequences([[1, 2], [3]], [[4, 5], [6]]).take([1])
    assert tagged.targets[0].tolist() == [6]


def test_the_digest_identifies_the_data():
    data = numbered([3, 1, 2])
    assert data.digest == numbered([3, 1, 2], names=["a", "b", "c"]).digest
    others = [
        numbered([3, 1, 2], weights=[1, 1, 2]),
        data.take([0, 2, 1]),
        Sequences(data.inputs, data.targets[::-1].copy()),
        Sequences([[0], [1]], np.array([0, 1])),
        Sequences([[0], [1]], [[0], [1]]),
        Sequences([[[0, 1]], [[2, 3]]], np.array([0, 1])),
        Sequences([[[0], [1]], [[2], [3]]], np.array([0, 1])),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 8


def test_label_ids_follow_sorted_order():
    labels = Labels.of(["b", "a", "c", "a"])
    assert labels.names == ("a", "b", "c")
    assert labels.encode(["c", "a"]).tolist() == [2, 0]
    assert labels.decode(labels.encode(["c", "a"])) == ["c", "a"]
    assert Labels.of_data(json.loads(json.dumps(labels.to_data()))) == labels


def test_unknown_labels_are_reported_with_the_known_ones():
    labels = Labels(("Greek", "Irish"))
    with pytest.raises(DataError, match=r"unknown label 'Grek'; the known labels are 'Greek', 'Irish' .did you mean"):
        labels.encode(["Irish", "Grek"])
    with pytest.raises(DataError, match="unknown labels 'A', 'B'; the known"):
        labels.encode(["B", "A", "B"])
    with pytest.raises(DataError, match=r"unknown label 'notes' \(the file's name\); the known"):
        labels.encode(["notes"], "the file's name")


@pytest.mark.parametrize("data", [None, {}, {"names": "ab"}, {"names": []}, {"names": ["a", "a"]}, {"names": ["a", 1]}])
def test_damaged_labels_are_rejected(data):
    with pytest.raises(DataError, match="labels"):
        Labels.of_data(data)


@settings(max_examples=30)
@given(seed=st.integers(0, 100), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_scaler_matches_scikit_learn(seed, lengths):
    generator = np.random.default_rng(seed)
    series = [generator.normal([3, 1000, 7], [2, 50, 0], (t, 3)) for t in lengths]
    scaler, expected = Scaler.fit(series), StandardScaler().fit(np.concatenate(series))
    if sum(lengths) > 1:
        assert scaler.scale[2] == 1
    # Both sum about 50 float64 numbers in a different order; a mean far above the deviation costs two digits.
    np.testing.assert_allclose(scaler.mean, expected.mean_, rtol=1e-13)
    np.testing.assert_allclose(scaler.scale, expected.scale_, rtol=1e-10)
    scaled = scaler.encode(series[0])
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaler.decode(scaled), series[0], rtol=1e-5)  # float32 in between
    again = Scaler.of_data(json.loads(json.dumps(scaler.to_data())))
    assert np.array_equal(again.mean, scaler.mean)
    assert np.array_equal(again.scale, scaler.scale)


def test_a_constant_feature_has_scale_one():
    scaler = Scaler.fit([np.full((3, 1), 0.1), np.full((7, 1), 0.1)])
    assert scaler.scale.tolist() == [1]
    assert scaler.encode(np.full((2, 1), 0.1)) == pytest.approx(0, abs=1e-15)  # the rounding of the mean


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([], "got shapes"),
        ([np.zeros((2, 1)), np.zeros((2, 2))], r"got shapes \[\(2, 1\), \(2, 2\)\]"),
        ([np.zeros(3)], "got shapes"),
        ([np.zeros((0, 2))], "at least 1 step"),
        ([np.array([[1.0, np.nan]])], r"NaN or infinity in columns \[1\]"),
    ],
)
def test_arrays_without_a_scale_are_rejected(series, message):
    with pytest.raises(DataError, match=message):
        Scaler.fit(series)


@pytest.mark.parametrize(
    "data", [None, {}, {"mean": [0], "scale": [0]}, {"mean": [0, 1], "scale": [1]}, {"mean": ["a"], "scale": [1]}]
)
def test_a_damaged_scaler_is_rejected(data):
    with pytest.raises(DataError, match="damaged scaler"):
        Scaler.of_data(data)

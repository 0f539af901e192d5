"""Parallel streams: every token is a target once, in order, within one stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data.streams import Streams, fitting_batch
from throughtime.errors import DataError

SIZES = {
    "tokens": st.integers(20, 300),
    "batch": st.integers(1, 19),
    "window": st.integers(1, 40),
}


@given(**SIZES)
def test_every_token_except_the_first_is_a_target_once(tokens, batch, window):
    streams = Streams(np.arange(tokens, dtype=np.uint16), batch, window)
    targets = np.concatenate([target.ravel() for _, target in map(streams.__getitem__, range(len(streams)))])
    left_out = (tokens - 1) % batch
    assert sorted(targets) == list(range(1, tokens - left_out))
    assert streams.terms == len(targets)


@given(**SIZES)
def test_windows_in_order_add_up_to_the_streams(tokens, batch, window):
    ids = np.arange(tokens, dtype=np.uint16)
    streams = Streams(ids, batch, window)
    windows = [streams[k] for k in range(len(streams))]
    assert all(x.shape == y.shape == (window, batch) for x, y in windows[:-1])
    x = np.concatenate([x for x, _ in windows])
    y = np.concatenate([y for _, y in windows])
    assert x.dtype == y.dtype == np.int64
    steps = (tokens - 1) // batch
    assert x.T.ravel().tolist() == ids[: steps * batch].tolist()
    assert np.array_equal(y, x + 1)


@given(
    tokens=st.integers(50, 300),
    ranks=st.integers(1, 4),
    each=st.integers(1, 5),
    window=st.integers(1, 40),
)
def test_processes_divide_the_streams(tokens, ranks, each, window):
    ids = np.arange(tokens)
    whole = Streams(ids, ranks * each, window)
    shares = [Streams(ids, ranks * each, window, rank, ranks) for rank in range(ranks)]
    for k in range(len(whole)):
        for side in (0, 1):
            joined = np.concatenate([share[k][side] for share in shares], axis=1)
            assert np.array_equal(joined, whole[k][side])


def test_indexing_past_the_last_window_raises_index_error():
    streams = Streams(np.arange(10, dtype=np.uint8), 2, 3)
    assert len(list(streams)) == len(streams) == 2
    with pytest.raises(IndexError):
        streams[-1]


@pytest.mark.parametrize(
    ("batch", "window", "ranks", "message"),
    [
        (4, 5, 3, "can't be divided among 3 processes"),
        (10, 5, 1, "too short for 10 parallel streams; use at least 11 tokens"),
        (0, 5, 1, "must be positive integers"),
        (1, 0, 1, "must be positive integers"),
    ],
)
def test_impossible_streams_are_rejected(batch, window, ranks, message):
    with pytest.raises(DataError, match=message):
        Streams(np.arange(10), batch, window, 0, ranks)


def test_the_batch_shrinks_until_each_stream_fills_a_window():
    assert fitting_batch(10_001, 64, 50) == 64
    assert fitting_batch(1_001, 64, 50) == 20
    assert fitting_batch(1_001, 64, 50, ranks=8) == 16
    assert fitting_batch(51, 64, 50) == 1
    with pytest.raises(DataError, match=r"50 tokens, fewer than one window of 50 steps \(51\)"):
        fitting_batch(50, 64, 50)
    with pytest.raises(DataError, match="for each of 2 processes"):
        fitting_batch(80, 64, 50, ranks=2)

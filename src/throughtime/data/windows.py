"""Windows of series: what a network reads before a forecast's origin, and what it is to forecast after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.batch import Batch
from throughtime.data.series_codec import Encoded, SeriesCodec
from throughtime.data.timeline import Integers
from throughtime.errors import DataError

Array = NDArray[Any]

_ONE_HOT = 64  # steps of a horizon whose places are coded one-hot; those of longer ones as sines and cosines
_WAVES = 16


class Inputs(NamedTuple):
    """A window as the network reads it: context and horizon, last observed value subtracted.

    Attributes:
        steps: `[n + m, B, features]` (float32): n steps of context, then m of the horizon. Values after the origin are
            not among them.
        last: the last value before the origin `[B]`, at the series' common scale.
    """

    steps: NDArray[np.float32]
    last: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of encoded series: each has a series and an origin, the first row to forecast.

    A step of the network reads or writes `segment` rows, channel by channel, as in SegRNN (arXiv:2308.11200): the
    network first reads the context, then codes of the places in the horizon with what is known of them (future
    covariates, the calendar), and writes the horizon at the latter.

    Attributes:
        data: the series.
        codec: how they are encoded.
        horizon: how many rows to forecast.
        first: the first origin of each series, in rows from its start `[S]`.
        counts: how many origins there are, one row apart `[S]`.
        digest: tells the windows from others.
        later: windows of later rows, kept to calibrate intervals.
    """

    data: Encoded
    codec: SeriesCodec
    horizon: int
    first: Integers
    counts: Integers
    digest: str = ""
    later: Windows | None = None

    @property
    def steps(self) -> tuple[int, int]:
        """The network's steps in the context and in the horizon."""
        return -(-self.codec.context // self.codec.segment), -(-self.horizon // self.codec.segment)

    @property
    def features(self) -> int:
        """Numbers that the network reads at each step."""
        codec, (_, m) = self.codec, self.steps
        rows = 1 + codec.masked + len(codec.past) + len(codec.future)
        return int(codec.segment * rows + codec.static_width + 2 * len(codec.cycles) + _places(m).shape[1])

    def __len__(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def _ends(self) -> Integers:
        return np.cumsum(self.counts)

    def where(self, windows: Integers) -> tuple[Integers, Integers]:
        """Return the series `[B]` and the origin `[B]`, in rows from its start, of windows `[B]`."""
        series = np.searchsorted(self._ends, windows, side="right")
        return series, windows - self._ends[series] + self.counts[series] + self.first[series]

    def inputs(self, windows: Integers) -> Inputs:
        """Return what the network reads of windows `[B]`."""
        data, codec, s = self.data, self.codec, self.codec.segment
        series, origins = self.where(windows)
        n, m = self.steps
        at = data.offsets[series] + origins
        rows = at[:, None] + np.arange(-n * s, 0)
        values, observed = data.values[rows], data.observed[rows]
        if codec.context < n * s:
            observed[:, : n * s - codec.context] = False
        reversed_ = observed[:, ::-1]
        last = np.take_along_axis(values, n * s - 1 - reversed_.argmax(1)[:, None], 1)[:, 0] * observed.any(1)
        values = (values - last[:, None]) * observed
        steps = np.zeros((n + m, len(windows), self.features), np.float32)
        done = 0

        def fill(first: int, numbers: Array) -> None:
            """Put numbers `[B, rows, K]` at steps from `first` on."""
            nonlocal done
            count = numbers.shape[1] // s
            width = s * numbers.shape[2]
            found = numbers.reshape(len(windows), count, width).transpose(1, 0, 2)
            steps[first : first + count, :, done : done + width] = found
            done += width

        fill(0, values[..., None])
        if codec.masked:
            fill(0, observed[..., None])
        if codec.past:
            fill(0, data.past[rows])
        if codec.future:
            fill(0, data.future[at[:, None] + np.arange(-n * s, m * s)])
        steps[..., done : done + codec.static_width] = data.static[series]
        done += codec.static_width
        if codec.cycles:
            positions = (data.starts[series] + origins) + s * np.arange(-n, m)[:, None]
            steps[..., done : done + 2 * len(codec.cycles)] = codec.timeline.features(positions, codec.cycles)
        steps[n:, :, steps.shape[2] - _places(m).shape[1] :] = _places(m)[:, None]
        return Inputs(steps, last)

    def targets(self, windows: Integers) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the values to forecast `[B, horizon]`, at the common scale, and where they are observed."""
        series, origins = self.where(windows)
        rows = (self.data.offsets[series] + origins)[:, None] + np.arange(self.horizon)
        return self.data.values[rows], self.data.observed[rows]

    def contexts(self, windows: Integers, count: int) -> NDArray[np.float32]:
        """Return the last `count` values before the origin `[B, count]`, gaps filled with the value before them."""
        series, origins = self.where(windows)
        rows = (self.data.offsets[series] + origins)[:, None] + np.arange(-count, 0)
        values: NDArray[np.float32] = self.data.values[rows]
        observed = self.data.observed[rows]
        if observed.all():
            return values
        places = np.where(observed, np.arange(count), -1)
        filled = np.maximum.accumulate(places, 1)
        first = np.where(observed.any(1), observed.argmax(1), 0)
        found: NDArray[np.float32] = np.take_along_axis(values, np.where(filled < 0, first[:, None], filled), 1)
        return found

    def batch(self, windows: Integers, of_all: Integers | None = None, ranks: int = 1) -> Batch:
        """Return windows `[B]` as a batch.

        Args:
            windows: this process's.
            of_all: those of all processes; the same if not given.
            ranks: how many processes there are.
        """
        n, m = self.steps
        s = self.codec.segment
        inputs, last = self.inputs(windows)
        targets = np.zeros((n + m, len(windows), s), np.float32)
        weights = np.zeros_like(targets)
        values, observed = self.targets(windows)
        rest = m * s - self.horizon
        for out, numbers in ((targets, (values - last[:, None]) * observed), (weights, observed)):
            padded = np.pad(numbers, ((0, 0), (0, rest))) if rest else numbers
            out[n:] = padded.reshape(len(windows), m, s).transpose(1, 0, 2)
        terms = weights.sum(dtype=np.float64) if of_all is None else self.targets(of_all)[1].sum() / ranks
        return Batch(inputs, targets, None, weights, False, max(1.0, float(terms)))

    def spread(self, count: int) -> Integers:
        """Return the numbers of at most `count` windows, evenly spread."""
        if count >= len(self):
            return np.arange(len(self))
        return np.linspace(0, len(self) - 1, count).round().astype(np.int64)

    def chunks(self, windows: Integers | None = None, size: int = 1024) -> Iterator[Integers]:
        """Return windows, all if not given, in parts that fit in the memory."""
        windows = np.arange(len(self)) if windows is None else windows
        size = max(1, min(size, 2**24 // (self.features * sum(self.steps))))
        for first in range(0, len(windows), size):
            yield windows[first : first + size]


class WindowBatches:
    """Batches of windows: shuffled anew in each epoch, or in order.

    Args:
        windows: the windows.
        batch: how many windows a batch has, in all processes together.
        seed: of the shuffles.
        rank: which process this is.
        ranks: how many there are.
        chosen: the numbers of the windows to read in order; all are shuffled if not given.
    """

    def __init__(
        self, windows: Windows, batch: int, seed: int = 0, rank: int = 0, ranks: int = 1, chosen: Integers | None = None
    ) -> None:
        self.windows, self._seed, self._rank, self._ranks, self._chosen = windows, seed, rank, ranks, chosen
        total = len(windows) if chosen is None else len(chosen)
        if min(batch, total) < ranks:
            raise DataError(f"{ranks} processes need {ranks} windows or more, got batches of {batch} from {total}.")
        self._total = total
        self._count = min(-(-total // batch), total // ranks)
        self._order: tuple[int, Integers] = (-1, np.zeros(0, np.int64))

    @property
    def terms(self) -> int:
        """How many values are forecast in an epoch, for each process."""
        return self._total * self.windows.horizon // self._ranks

    def __len__(self) -> int:
        return self._count

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over all epochs."""
        members = self._members(step)
        alone = self._ranks == 1
        return self.windows.batch(members[self._rank :: self._ranks], None if alone else members, self._ranks)

    def _members(self, step: int) -> Integers:
        epoch, k = divmod(step, self._count)
        if self._chosen is not None:
            order = self._chosen
        else:
            if self._order[0] != epoch:
                self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._total)
            order = self._order[1]
        bounds = np.linspace(0, self._total, self._count + 1).round().astype(np.int64)
        return order[bounds[k] : bounds[k + 1]]


def _places(count: int) -> NDArray[np.float32]:
    """A code for each step of a horizon `[count, width]`."""
    if count <= _ONE_HOT:
        return np.eye(count, dtype=np.float32)
    angles = np.arange(count)[:, None] / (2.0 * count) ** (np.arange(_WAVES) / _WAVES)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)

"""Windows of time series: the network's inputs before a forecast origin, and the targets after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.batch import Batch
from throughtime.data.series_codec import Encoded, SeriesCodec
from throughtime.data.timeline import Integers
from throughtime.errors import DataError

Array = NDArray[Any]

_ONE_HOT = 64  # the maximum number of steps of a horizon with one-hot position codes; longer ones use sines and cosines
_WAVES = 16


class Inputs(NamedTuple):
    """The network's inputs for windows: context and horizon, with the last observed value subtracted.

    Attributes:
        steps: the inputs `[n + m, B, features]` (float32): n steps of context, then m of the horizon; recursive windows
            have one step fewer. Their values after the origin are 0 unless requested.
        last: the last value before the origin `[B]`, at the series' common scale.
    """

    steps: NDArray[np.float32]
    last: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of encoded series, each defined by a series and an origin, which is the first row to forecast.

    A step of the network reads or writes `segment` rows, channel by channel, as in SegRNN (arXiv:2308.11200). With
    direct windows, the network first reads the context, then position codes of the horizon along with its known
    covariates and calendar features, and outputs the horizon at those steps. With parallel windows, each of these steps
    continues from the state after the context instead of from the previous step. With recursive windows, each step
    reads the values of one segment along with the known covariates of the next, and outputs the next segment. In
    the horizon, these values are the true ones in training and the network's own forecasts otherwise.

    Attributes:
        data: the series.
        codec: the encoding.
        horizon: the number of rows to forecast.
        first: the first origin of each series, in rows from its start `[S]`.
        counts: the number of origins of each series, one row apart `[S]`.
        digest: a hash that identifies the windows.
        later: windows of later rows, reserved to calibrate intervals.
        recursive: whether each step reads the forecast of the previous one.
        parallel: whether each step of the horizon continues from the state after the context.
        chosen: the indices of a subset of the windows `[N]`; all if None.
    """

    data: Encoded
    codec: SeriesCodec
    horizon: int
    first: Integers
    counts: Integers
    digest: str = ""
    later: Windows | None = None
    recursive: bool = False
    parallel: bool = False
    chosen: Integers | None = None

    @property
    def steps(self) -> tuple[int, int]:
        """The number of segments of the context and of the horizon."""
        return -(-self.codec.context // self.codec.segment), -(-self.horizon // self.codec.segment)

    @property
    def decoding(self) -> int:
        """The index of the first step that outputs a part of the horizon."""
        return self.steps[0] - self.recursive

    @property
    def branches(self) -> int:
        """The number of steps that each continue from the state after the context (see `Batch`)."""
        m = self.steps[1]
        return m if self.parallel and m > 1 else 0  # a single step follows the context anyway

    @property
    def features(self) -> int:
        """The number of features per step."""
        codec = self.codec
        rows = 1 + codec.masked + len(codec.past) + len(codec.future)
        return int(codec.segment * rows + codec.static_width + 2 * len(codec.cycles) + self._position_codes.shape[1])

    @cached_property
    def _position_codes(self) -> NDArray[np.float32]:
        """The position code of each step of the horizon `[m, width]`."""
        m = self.steps[1]
        return np.zeros((m, 0), np.float32) if self.recursive else _position_codes(m)

    def __len__(self) -> int:
        return int(self.counts.sum()) if self.chosen is None else len(self.chosen)

    @cached_property
    def _ends(self) -> Integers:
        return np.cumsum(self.counts)

    def where(self, windows: Integers) -> tuple[Integers, Integers]:
        """Return the series `[B]` and the origin `[B]`, in rows from its start, of windows `[B]`."""
        if self.chosen is not None:
            windows = self.chosen[windows]
        series = np.searchsorted(self._ends, windows, side="right")
        return series, windows - self._ends[series] + self.counts[series] + self.first[series]

    def take(self, windows: Integers) -> Windows:
        """Return the windows at the given indices."""
        return replace(self, chosen=windows if self.chosen is None else self.chosen[windows])

    def evenly_spaced(self, count: int) -> Windows:
        """Return at most `count` evenly spaced windows."""
        if count >= len(self):
            return self
        return self.take(np.linspace(0, len(self) - 1, count).round().astype(np.int64))

    def rolling(self, count: int | None, step: int) -> Windows:
        """Return the last windows of each series, for a rolling-origin evaluation.

        Args:
            count: the maximum number of windows per series; all if None.
            step: the number of rows between consecutive origins.
        """
        kept = [
            end - 1 - step * np.arange(min((have - 1) // step + 1, have if count is None else count))[::-1]
            for end, have in zip(self._ends.tolist(), self.counts.tolist(), strict=True)
            if have
        ]
        return self.take(np.concatenate([np.zeros(0, np.int64), *kept]))

    def inputs(self, windows: Integers, *, teacher: bool = False) -> Inputs:
        """Return the network's inputs for windows `[B]`.

        Args:
            windows: the window indices.
            teacher: whether recursive windows include the true values of the horizon (teacher forcing) instead of 0.
        """
        data, codec, s = self.data, self.codec, self.codec.segment
        series, origins = self.where(windows)
        n, m = self.steps
        lead = int(self.recursive)  # a recursive step reads values of one segment and known covariates of the next
        at = data.offsets[series] + origins
        rows = at[:, None] + np.arange(-n * s, (m - 1) * s if self.recursive else 0)
        values, observed = data.values[rows], data.observed[rows]
        if codec.context < n * s:
            observed[:, : n * s - codec.context] = False
        past = data.past[rows] if codec.past else None
        seen = observed[:, : n * s]
        reversed_ = seen[:, ::-1]
        last = np.take_along_axis(values, n * s - 1 - reversed_.argmax(1)[:, None], 1)[:, 0] * seen.any(1)
        if not teacher:
            observed[:, n * s :] = True  # the network's own forecasts are never missing
        values = (values - last[:, None]) * observed
        if not teacher:
            values[:, n * s :] = 0
        steps = np.zeros((n + m - lead, len(windows), self.features), np.float32)
        done = 0

        def fill(numbers: Array) -> None:
            """Write features `[B, rows, K]` to the first steps."""
            nonlocal done
            count = numbers.shape[1] // s
            width = s * numbers.shape[2]
            found = numbers.reshape(len(windows), count, width).transpose(1, 0, 2)
            steps[:count, :, done : done + width] = found
            done += width

        fill(values[..., None])
        if codec.masked:
            fill(observed[..., None])
        if past is not None:
            fill(past[:, : n * s])  # unknown in the horizon
        if codec.future:
            fill(data.future[at[:, None] + np.arange((lead - n) * s, m * s)])
        steps[..., done : done + codec.static_width] = data.static[series]
        done += codec.static_width
        if codec.cycles:
            positions = (data.starts[series] + origins) + s * np.arange(lead - n, m)[:, None]
            steps[..., done : done + 2 * len(codec.cycles)] = codec.timeline.features(positions, codec.cycles)
        if not self.recursive:
            steps[n:, :, steps.shape[2] - self._position_codes.shape[1] :] = self._position_codes[:, None]
        return Inputs(steps, last)

    def targets(self, windows: Integers) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the values to forecast `[B, horizon]`, at the common scale, and where they are observed."""
        series, origins = self.where(windows)
        rows = (self.data.offsets[series] + origins)[:, None] + np.arange(self.horizon)
        return self.data.values[rows], self.data.observed[rows]

    def contexts(self, windows: Integers, count: int) -> NDArray[np.float32]:
        """Return the last `count` values before the origin `[B, count]`, with gaps filled.

        A gap is filled with the previous value, or at the start with the first value.
        """
        series, origins = self.where(windows)
        rows = (self.data.offsets[series] + origins)[:, None] + np.arange(-count, 0)
        values: NDArray[np.float32] = self.data.values[rows]
        observed = self.data.observed[rows]
        if observed.all():
            return values
        indices = np.where(observed, np.arange(count), -1)
        filled = np.maximum.accumulate(indices, 1)
        first = np.where(observed.any(1), observed.argmax(1), 0)
        found: NDArray[np.float32] = np.take_along_axis(values, np.where(filled < 0, first[:, None], filled), 1)
        return found

    def batch(self, windows: Integers, of_all: Integers | None = None, ranks: int = 1) -> Batch:
        """Return windows `[B]` as a batch.

        Args:
            windows: the window indices of this process.
            of_all: the window indices of all processes; the same if None.
            ranks: the number of processes.
        """
        m, s = self.steps[1], self.codec.segment
        inputs, last = self.inputs(windows, teacher=True)
        targets = np.zeros((len(inputs), len(windows), s), np.float32)
        weights = np.zeros_like(targets)
        values, observed = self.targets(windows)
        rest = m * s - self.horizon
        for out, numbers in ((targets, (values - last[:, None]) * observed), (weights, observed)):
            padded = np.pad(numbers, ((0, 0), (0, rest))) if rest else numbers
            out[self.decoding :] = padded.reshape(len(windows), m, s).transpose(1, 0, 2)
        terms = weights.sum(dtype=np.float64) if of_all is None else self.targets(of_all)[1].sum() / ranks
        return Batch(inputs, targets, None, weights, False, max(1.0, float(terms)), self.branches)

    @property
    def at_once(self) -> int:
        """The number of windows that fit in memory at once."""
        return max(1, min(1024, 2**24 // (self.features * sum(self.steps))))

    def chunks(self) -> Iterator[Integers]:
        """Yield the indices of all windows in chunks that fit in memory."""
        for first in range(0, len(self), self.at_once):
            yield np.arange(first, min(first + self.at_once, len(self)))


class WindowBatches:
    """Batches of windows, either reshuffled every epoch or in order.

    Args:
        windows: the windows.
        batch: the batch size, summed over all processes.
        seed: the seed of the shuffles.
        rank: the rank of this process.
        ranks: the number of processes.
        shuffled: whether to shuffle.
    """

    def __init__(
        self, windows: Windows, batch: int, seed: int = 0, rank: int = 0, ranks: int = 1, shuffled: bool = True
    ) -> None:
        self.windows, self._seed, self._rank, self._ranks, self._shuffled = windows, seed, rank, ranks, shuffled
        total = len(windows)
        if min(batch, total) < ranks:
            raise DataError(f"{ranks} processes need at least {ranks} windows, got batches of {batch} from {total}")
        self._total = total
        self._count = min(-(-total // batch), total // ranks)
        self._order: tuple[int, Integers] = (-1, np.zeros(0, np.int64))

    @property
    def terms(self) -> int:
        """The number of forecast values per epoch and process."""
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
        bounds = np.linspace(0, self._total, self._count + 1).round().astype(np.int64)
        if not self._shuffled:
            return np.arange(bounds[k], bounds[k + 1])
        if self._order[0] != epoch:
            drawn = np.random.default_rng((self._seed, epoch)).permutation(self._total)
            self._order = epoch, drawn.astype(np.min_scalar_type(self._total))
        return self._order[1][bounds[k] : bounds[k + 1]].astype(np.int64)


def _position_codes(count: int) -> NDArray[np.float32]:
    """Return the position code of each step of a horizon `[count, width]`."""
    if count <= _ONE_HOT:
        return np.eye(count, dtype=np.float32)
    angles = np.arange(count)[:, None] / (2.0 * count) ** (np.arange(_WAVES) / _WAVES)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)

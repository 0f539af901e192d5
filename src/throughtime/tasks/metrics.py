"""Metrics that torchmetrics lacks. This module imports torch, so tasks import it inside functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from throughtime.data.spans import spans


class _Sums(Metric):
    """A metric computed from sums over all batches and processes."""

    def add_sum(self, name: str, dtype: torch.dtype) -> None:
        """Create an attribute that starts from 0."""
        self.add_state(name, torch.zeros((), dtype=dtype), "sum")


class FrameAccuracy(_Sums):
    """Frame-level accuracy of note transcription, TP / (TP + FP + FN) over all steps and keys.

    A key is predicted if its probability is above one half. The accuracy is 0 if there are no notes to compare.

    Source:
        Bay, Ehmann & Downie 2009, "Evaluation of multiple-F0 estimation and tracking systems" (ISMIR), equation 5.
    """

    higher_is_better = True
    hits: Tensor
    union: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("hits", torch.int64)
        self.add_sum("union", torch.int64)

    def update(self, raw: Tensor, targets: Tensor) -> None:
        """Count true positives, and notes that are predicted or true, given log-odds and bits `[N, keys]`."""
        found, true = raw > 0, targets > 0.5
        self.hits += (found & true).sum()
        self.union += (found | true).sum()

    def compute(self) -> Tensor:
        """Return the accuracy so far."""
        return self.hits / self.union.clamp(min=1)


class StepAccuracy(_Sums):
    """Accuracy at certain steps of each sequence.

    Args:
        start, stop: the steps, as in a slice; negative ones count from the end.
    """

    higher_is_better = True
    right: Tensor
    total: Tensor

    def __init__(self, start: int, stop: int | None) -> None:
        super().__init__()
        self.steps = slice(start, stop)
        self.add_sum("right", torch.int64)
        self.add_sum("total", torch.int64)

    def update(self, raw: Tensor, targets: Tensor, lengths: Tensor) -> None:
        """Count correct predictions in scores `[N, classes]` and ids `[N]` of concatenated sequences."""
        for hits in torch.split(raw.argmax(-1) == targets, lengths.tolist()):
            self.right += hits[self.steps].sum()
            self.total += hits[self.steps].numel()

    def compute(self) -> Tensor:
        """Return the accuracy so far."""
        return self.right / self.total.clamp(min=1)


class SpanF1(_Sums):
    """F1 of the spans marked by tags, over all sequences and types (see `throughtime.data.spans`).

    Args:
        names: the tag of each id.
    """

    higher_is_better = True
    right: Tensor
    total: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_sum("right", torch.int64)
        self.add_sum("total", torch.int64)

    def update(self, raw: Tensor, targets: Tensor, lengths: Tensor) -> None:
        """Count spans in scores `[N, tags]` and ids `[N]` of concatenated sequences with the given lengths."""
        cuts = lengths.tolist()
        found, true = (torch.split(ids.cpu(), cuts) for ids in (raw.argmax(-1), targets))
        for sides in zip(found, true, strict=True):
            ours, theirs = (spans([self.names[k] for k in ids.tolist()]) for ids in sides)
            self.right += len(ours & theirs)
            self.total += len(ours) + len(theirs)

    def compute(self) -> Tensor:
        """Return the F1 score so far."""
        return 2 * self.right / self.total.clamp(min=1)


class ErrorToSignal(_Sums):
    """Error-to-signal ratio (ESR): the energy of the error divided by the energy of the target.

    Args:
        pre_emphasis: the coefficient a of the filter y[t] - a y[t-1], applied to both signals first. The first
            step of each sequence is then excluded.

    Source:
        Wright, Damskägg & Välimäki 2019, "Real-time black-box modelling with recurrent neural networks" (DAFx-19).
    """

    higher_is_better = False
    error: Tensor
    energy: Tensor

    def __init__(self, pre_emphasis: float = 0.0) -> None:
        super().__init__()
        self.pre_emphasis = pre_emphasis
        self.add_sum("error", torch.float64)
        self.add_sum("energy", torch.float64)

    def update(self, raw: Tensor, targets: Tensor, lengths: Tensor) -> None:
        """Add concatenated signals `[N, channels]` with the given lengths."""
        cuts = lengths.tolist()
        sequences = (torch.split(x.double(), cuts) for x in (raw, targets))
        for found, true in zip(*sequences, strict=True):
            error = true - found
            if self.pre_emphasis:
                error, true = (x[1:] - self.pre_emphasis * x[:-1] for x in (error, true))
            self.error += error.square().sum()
            self.energy += true.square().sum()

    def compute(self) -> Tensor:
        """Return the ratio so far."""
        return self.error / self.energy.clamp(min=1e-12)


class MeanError(_Sums):
    """The squared mean of the error divided by the mean square of the target, over all signals."""

    higher_is_better = False
    error: Tensor
    energy: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("error", torch.float64)
        self.add_sum("energy", torch.float64)
        self.add_sum("count", torch.int64)

    def update(self, raw: Tensor, targets: Tensor) -> None:
        """Add signals `[N, 1]`."""
        self.error += (targets.double() - raw).sum()
        self.energy += targets.double().square().sum()
        self.count += targets.numel()

    def compute(self) -> Tensor:
        """Return the ratio so far."""
        count = self.count.clamp(min=1)
        return (self.error / count).square() / (self.energy / count).clamp(min=1e-12)


class AbsoluteError(_Sums):
    """Mean absolute error of signals."""

    higher_is_better = False
    error: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("error", torch.float64)
        self.add_sum("count", torch.int64)

    def update(self, raw: Tensor, targets: Tensor) -> None:
        """Add signals `[N, channels]`."""
        self.error += (raw.double() - targets).abs().sum()
        self.count += targets.numel()

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return self.error / self.count.clamp(min=1)

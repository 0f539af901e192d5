"""Our own layers and streams."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import FORWARD, LONG, PACKED, STREAMING, TEXT, Case
from throughtime.bench.contestant import Ready
from throughtime.bench.modules import as_torchs, filled, ready_module, stored, torch_name
from throughtime.nn import dropin
from throughtime.nn.freezing import freeze
from throughtime.nn.recurrent import Recurrent


class _Ours:
    packages = ("throughtime._native",)
    is_ours = True


class Layer(_Ours):
    """The layer that a user has: the drop-in for torch's, or a `Recurrent` of their own cell; frozen for forward."""

    name = "throughtime"

    def takes(self, case: Case) -> bool:
        """Whole sequences."""
        return case.mode not in (STREAMING, LONG, TEXT)

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """As any module is run."""
        return ready_module(_layer(case, arguments), case, arguments)


class Thawed(_Ours):
    """That layer as it is where nobody has frozen it: its weights are made ready at every call."""

    name = "throughtime thawed"

    def takes(self, case: Case) -> bool:
        """Forward runs."""
        return case.mode == FORWARD

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """As any module is run."""
        return ready_module(_layer(case, arguments, frozen=False), case, arguments)


class Stepwise(_Ours):
    """A stream of that layer."""

    name = "throughtime"

    def takes(self, case: Case) -> bool:
        """Single steps."""
        return case.mode == STREAMING

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """The stream keeps the state."""
        from throughtime.streaming import Stream

        stream = Stream(_layer(case, arguments), rows=case.batch)
        steps = list(arguments.x.numpy())

        def run() -> object:
            stream.reset()
            for x in steps:
                y = stream.step(x)
            return y

        return Ready(run, lambda y: {"output": y})


class Checkpointed(_Ours):
    """A `Recurrent` of the cell that keeps some of its states, and no residuals, between forward and backward."""

    name = "throughtime"

    def takes(self, case: Case) -> bool:
        """Long sequences."""
        return case.mode == LONG

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """As any module is run."""
        layer = _recurrent(case, arguments, checkpoint_every=case.checkpoint_every)
        ready = ready_module(layer, case, arguments)
        read = ready.results
        assert read is not None
        return ready._replace(results=lambda given: as_torchs(case, arguments, read(given)))


class BuiltIn(_Ours):
    """Our built-in LSTM, beside a cell of the user's own of as many matrix products."""

    name = "throughtime lstm"

    def takes(self, case: Case) -> bool:
        """Cells of the user's own."""
        return not case.is_built_in

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """The same case of the other cell."""
        other = replace(case, cell="lstm")
        drawn = Arguments.of(other)
        return ready_module(_layer(other, drawn), other, drawn)._replace(results=None)


class Padded(_Ours):
    """Our layer on a batch that is padded, where the other runs are given it packed."""

    name = "throughtime padded"

    def takes(self, case: Case) -> bool:
        """Packed batches."""
        return case.mode == PACKED

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """The output's gradient is 0 in the padding, so the results are the same."""
        return ready_module(_layer(case, arguments), case, arguments, packed=False)


class AllResiduals(_Ours):
    """Our layer with all kept that the gradient needs, where the other run computes it again."""

    name = "throughtime, all kept"

    def takes(self, case: Case) -> bool:
        """Long sequences."""
        return case.mode == LONG

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """As any module is run."""
        return ready_module(_layer(case, arguments), case, arguments)


def _layer(case: Case, arguments: Arguments, *, frozen: bool = True) -> nn.Module:
    """The layer of a case; frozen, as far as that is for the case."""
    if case.is_built_in:
        kind = getattr(dropin, torch_name(case))
        layer = filled(kind(case.input_size, case.hidden, engine="native"), stored(case, arguments))
    else:
        layer = _recurrent(case, arguments)
    return freeze(layer) if frozen and case.mode == FORWARD else layer


def _recurrent(case: Case, arguments: Arguments, checkpoint_every: int | None = None) -> nn.Module:
    recurrent = Recurrent(
        case.definition, case.input_size, case.hidden, engine="native", checkpoint_every=checkpoint_every
    )
    return filled(recurrent, list(arguments.parameters.values()))

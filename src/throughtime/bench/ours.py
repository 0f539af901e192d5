"""This package's layers and streams."""

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
    """The usual layer: torch's drop-in, or `Recurrent` with a user-defined cell; frozen for forward passes."""

    name = "throughtime"

    def takes(self, case: Case) -> bool:
        """Return True only for whole sequences."""
        return case.mode not in (STREAMING, LONG, TEXT)

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare the module (see `ready_module`)."""
        return ready_module(_layer(case, arguments), case, arguments)


class Thawed(_Ours):
    """The same layer without freezing, which packs its weights on every call."""

    name = "throughtime thawed"

    def takes(self, case: Case) -> bool:
        """Return True only for forward passes."""
        return case.mode == FORWARD

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare the module (see `ready_module`)."""
        return ready_module(_layer(case, arguments, frozen=False), case, arguments)


class Stepwise(_Ours):
    """A stream of the same layer."""

    name = "throughtime"

    def takes(self, case: Case) -> bool:
        """Return True only for single steps."""
        return case.mode == STREAMING

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare a stream, which keeps the state between calls."""
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
    """A `Recurrent` layer that keeps some states and no residuals between forward and backward."""

    name = "throughtime"

    def takes(self, case: Case) -> bool:
        """Return True only for long sequences."""
        return case.mode == LONG

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare the module (see `ready_module`)."""
        layer = _recurrent(case, arguments, checkpoint_every=case.checkpoint_every)
        ready = ready_module(layer, case, arguments)
        read = ready.results
        assert read is not None
        return ready._replace(results=lambda given: as_torchs(case, arguments, read(given)))


class BuiltIn(_Ours):
    """Our built-in LSTM, for comparison with a user-defined cell that has as many matrix products."""

    name = "throughtime lstm"

    def takes(self, case: Case) -> bool:
        """Return True only for user-defined cells."""
        return not case.is_built_in

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare the same case for the LSTM."""
        other = replace(case, cell="lstm")
        drawn = Arguments.of(other)
        return ready_module(_layer(other, drawn), other, drawn)._replace(results=None)


class Padded(_Ours):
    """Our layer on a padded batch, for comparison with packed ones."""

    name = "throughtime padded"

    def takes(self, case: Case) -> bool:
        """Return True only for packed batches."""
        return case.mode == PACKED

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Use an output gradient that is 0 in the padding, so that the results are the same."""
        return ready_module(_layer(case, arguments), case, arguments, packed=False)


class AllResiduals(_Ours):
    """Our layer with all residuals kept, for comparison with recomputation."""

    name = "throughtime, all kept"

    def takes(self, case: Case) -> bool:
        """Return True only for long sequences."""
        return case.mode == LONG

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Prepare the module (see `ready_module`)."""
        return ready_module(_layer(case, arguments), case, arguments)


def _layer(case: Case, arguments: Arguments, *, frozen: bool = True) -> nn.Module:
    """Create a case's layer, frozen if the case allows it."""
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

"""Our own layers and streams."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import PACKED, STREAMING, TEXT, Case
from throughtime.bench.contestant import Ready
from throughtime.bench.modules import filled, ready_module, stored, torch_name
from throughtime.nn import dropin
from throughtime.nn.recurrent import Recurrent


class _Ours:
    packages = ("throughtime._native",)
    is_ours = True


class Layer(_Ours):
    """The layer that a user has: the drop-in for torch's, or a `Recurrent` of their own cell."""

    name = "throughtime"

    def takes(self, case: Case) -> bool:
        """Whole sequences."""
        return case.mode not in (STREAMING, TEXT)

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """As any module is run."""
        return ready_module(_layer(case, arguments), case, arguments)


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


def _layer(case: Case, arguments: Arguments) -> nn.Module:
    if case.is_built_in:
        kind = getattr(dropin, torch_name(case))
        return filled(kind(case.hidden, case.hidden, engine="native"), stored(case, arguments))
    recurrent = Recurrent(case.definition, case.hidden, case.hidden, engine="native")
    return filled(recurrent, list(arguments.parameters.values()))

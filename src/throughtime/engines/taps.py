"""Taps, which expose values of a run and their gradients in addition to its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughtime.program.recording import Found, ValueSlice

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tap:
    """Values that a run exposes without affecting its result or autograd's graph.

    Attributes:
        values: the slices of the program's values to expose.
        receive: a function called after the run with one `[T, B, width]` tensor per slice.
        gradients: the slices whose gradients are exposed too.
        receive_gradients: a function called after every backward pass with one `[T, B, width]` tensor per gradient.
    """

    values: tuple[ValueSlice, ...]
    receive: Callable[[list[Tensor]], None]
    gradients: tuple[ValueSlice, ...] = ()
    receive_gradients: Callable[[list[Tensor]], None] = lambda gradients: None

    def take(self, outputs: Sequence[Tensor], found: Sequence[Found]) -> None:
        """Pass values from a run's outputs to `receive`."""
        self.receive(
            [
                outputs[f.output].detach()[..., f.start : f.start + s.width]
                for s, f in zip(self.values, found, strict=True)
            ]
        )

    def mapped(self, form: Callable[[Tensor], Tensor]) -> Tap:
        """Return the same tap with a function applied to each tensor it receives."""

        def receive(values: list[Tensor]) -> None:
            self.receive([form(value) for value in values])

        def receive_gradients(gradients: list[Tensor]) -> None:
            self.receive_gradients([form(gradient) for gradient in gradients])

        return Tap(self.values, receive, self.gradients, receive_gradients)


def merged(taps: Sequence[Tap]) -> Tap | None:
    """Merge taps into a single tap that passes its values on to them; None if there are no taps."""
    if len(taps) < 2:
        return taps[0] if taps else None

    def receive(values: list[Tensor]) -> None:
        rest = iter(values)
        for tap in taps:
            tap.receive([next(rest) for _ in tap.values])

    def receive_gradients(gradients: list[Tensor]) -> None:
        rest = iter(gradients)
        for tap in taps:
            if tap.gradients:
                tap.receive_gradients([next(rest) for _ in tap.gradients])

    return Tap(
        tuple(part for tap in taps for part in tap.values),
        receive,
        tuple(part for tap in taps for part in tap.gradients),
        receive_gradients,
    )

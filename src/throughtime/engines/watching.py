"""Who watches a run: values, and their gradients, that are handed out beside what the run gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughtime.program.recording import Found, Stretch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Watch:
    """What is to be handed out of a run, without a trace in its results or in autograd's graph.

    Attributes:
        values: of the program that is run.
        receive: takes a `[T, B, width]` for each of them, when the run is over.
        gradients: whose gradients, too.
        receive_gradients: takes a `[T, B, width]` for each of those, whenever a gradient has gone through the run.
    """

    values: tuple[Stretch, ...]
    receive: Callable[[list[Tensor]], None]
    gradients: tuple[Stretch, ...] = ()
    receive_gradients: Callable[[list[Tensor]], None] = lambda gradients: None

    def take(self, outputs: Sequence[Tensor], found: Sequence[Found]) -> None:
        """Hands out the values from a run's outputs."""
        self.receive(
            [
                outputs[f.output].detach()[..., f.start : f.start + s.width]
                for s, f in zip(self.values, found, strict=True)
            ]
        )

    def seen_through(self, form: Callable[[Tensor], Tensor]) -> Watch:
        """The same watch, handed everything in another form."""

        def receive(values: list[Tensor]) -> None:
            self.receive([form(value) for value in values])

        def receive_gradients(gradients: list[Tensor]) -> None:
            self.receive_gradients([form(gradient) for gradient in gradients])

        return Watch(self.values, receive, self.gradients, receive_gradients)


def together(watches: Sequence[Watch]) -> Watch | None:
    """One watch that hands to each of these what it asks for; None if there is none."""
    if len(watches) < 2:
        return watches[0] if watches else None

    def receive(values: list[Tensor]) -> None:
        rest = iter(values)
        for watch in watches:
            watch.receive([next(rest) for _ in watch.values])

    def receive_gradients(gradients: list[Tensor]) -> None:
        rest = iter(gradients)
        for watch in watches:
            if watch.gradients:
                watch.receive_gradients([next(rest) for _ in watch.gradients])

    return Watch(
        tuple(stretch for watch in watches for stretch in watch.values),
        receive,
        tuple(stretch for watch in watches for stretch in watch.gradients),
        receive_gradients,
    )

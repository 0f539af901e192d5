"""Many backward runs as one: each row of the batch is the loss of another step, over a window of one tape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from throughtime.engines.base import Result
from throughtime.nn.options import output_width
from throughtime.sight.arrays import Array
from throughtime.sight.tape import LayerTape, Tape, gradient_outputs

INPUT = "input"
_ELEMENTS = 1 << 24  # of a chunk's arrays: some 64 MB in float32


def backward_by_lag(tape: Tape, cotangents: Tensor, steps: Array, window: int) -> dict[str, Array]:
    """The norms of the gradients of the losses of chosen steps, by lag.

    Args:
        tape: of a stack of layers.
        cotangents: the gradient of each step's loss with respect to that step's output, `[T, B, width]`.
        steps: the steps s whose losses are meant, `[S]`.
        window: the largest lag.

    Returns:
        For each layer and direction, for each of its states, and for the stack's input, `[S, window + 1]`: the mean
        over the rows that have a step s of the norm at s - lag, or s + lag where time runs backward; NaN where no row
        has such a step. The input of a stack that runs in both directions is left out.
    """
    stack = _Stack(tape.layers, tape.lengths, cotangents.detach(), window)
    found: dict[str, list[Array]] = {}
    for chunk in stack.chunks(torch.as_tensor(steps)):
        for name, mean in stack.means(chunk).items():
            found.setdefault(name, []).append(mean.T.cpu().numpy())
    return {name: np.concatenate(chunks) for name, chunks in found.items()}


class _Stack:
    def __init__(self, layers: list[list[LayerTape]], lengths: Tensor, cotangents: Tensor, window: int) -> None:
        self.layers, self.lengths, self.cotangents, self.window = layers, lengths, cotangents, window
        self.length = len(cotangents)
        # A gradient that runs in one direction of time stays in the window; one that turns round may come back into it.
        self.whole = any(layer.forward.reverse for ways in layers for layer in ways)

    def chunks(self, steps: Tensor) -> Iterator[Tensor]:
        """The steps, so many at a time that the arrays of a layer stay small."""
        widest = max(layer.width for ways in self.layers for layer in ways)
        stretch = self.length if self.whole else self.window + 1
        return iter(torch.split(steps, max(1, _ELEMENTS // (stretch * len(self.lengths) * widest))))

    def means(self, steps: Tensor) -> dict[str, Tensor]:
        """For each name the means over the rows, `[window + 1, S]`."""
        found: dict[str, Tensor] = {}
        finite = True
        for name, reverse, norms in self._norms(steps):
            there = self._there(steps, reverse)
            norms = self._by_lag(steps, norms, reverse)
            finite = finite and bool(norms[there].isfinite().all())
            found[name] = norms.where(there, 0.0).sum(-1) / there.sum(-1)
        if not finite and self.cotangents.dtype != torch.float64:  # the gradient explodes beyond float32
            layers = [[layer.double() for layer in ways] for ways in self.layers]
            return _Stack(layers, self.lengths, self.cotangents.double(), self.window).means(steps)
        return found

    def _norms(self, steps: Tensor) -> Iterator[tuple[str, bool, Tensor]]:
        """From the top layer down its name, whether it is of a reverse direction, and norms `[steps, S, B]`."""
        at = self._positions(steps)
        rows = len(self.lengths)
        given = self.cotangents.new_zeros(*at.shape, *self.cotangents.shape[1:])
        own = steps if self.whole else torch.full_like(steps, self.window)
        given[own, torch.arange(len(steps))] = self.cotangents[steps]
        given = given.flatten(1, 2)
        for ways in reversed(self.layers):
            below, start = given.new_zeros(()), 0
            for layer in ways:
                width = output_width(layer.forward)
                result, names = self._run(layer, at, given[..., start : start + width])
                start += width
                below = below + result.outputs[0]
                squares = [g.double().square().sum(-1).view(*at.shape, rows) for g in result.outputs[1:]]
                of_all = sum(squares, torch.zeros(*at.shape, rows, dtype=torch.float64, device=given.device))
                yield str(layer.place), layer.forward.reverse, of_all.sqrt()
                for name, square in zip(names, squares, strict=True):
                    yield f"{layer.place}.{name}", layer.forward.reverse, square.sqrt()
            given = below
            if self.whole:  # what is after a row's end has no gradient, and none may come back from there
                alive = (at.unsqueeze(-1) < self.lengths).flatten(1)
                given = given.where(alive.unsqueeze(-1).to(given.device), 0.0)
        if not self.whole:
            yield INPUT, False, given.double().square().sum(-1).view(*at.shape, rows).sqrt()

    def _positions(self, steps: Tensor) -> Tensor:
        """The steps of the tape that each row goes through, `[steps, S]`."""
        if self.whole:
            return torch.arange(self.length)[:, None].expand(-1, len(steps))
        # Before the first step there is nothing; what stands there is read by no result.
        return (steps - self.window + torch.arange(self.window + 1)[:, None]).clamp(min=0)

    def _run(self, layer: LayerTape, at: Tensor, given: Tensor) -> tuple[Result, list[str]]:
        program, names = gradient_outputs(layer)
        read = [tensor[at.to(tensor.device)].flatten(1, 2) for tensor in layer.read]
        states = [given.new_zeros(given.shape[1], state.width) for state in program.states]
        run = layer.engine.run(program, len(at), [*read, given.contiguous()], states, layer.parameters)
        return run, names

    def _there(self, steps: Tensor, reverse: bool) -> Tensor:
        """Which rows have both the step of the loss and the one at each lag from it, `[window + 1, S, B]`."""
        other = self._other(steps, reverse)
        latest = other.maximum(steps)[..., None]
        return (other >= 0)[..., None] & (latest < self.lengths)

    def _other(self, steps: Tensor, reverse: bool) -> Tensor:
        lags = torch.arange(self.window + 1)[:, None]
        return steps + lags if reverse else steps - lags

    def _by_lag(self, steps: Tensor, norms: Tensor, reverse: bool) -> Tensor:
        norms = norms.cpu()
        if not self.whole:
            return norms.flip(0)
        other = self._other(steps, reverse).clamp(0, self.length - 1)
        return norms[other, torch.arange(len(steps))]

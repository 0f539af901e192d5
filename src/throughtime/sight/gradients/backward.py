"""Batch many backward passes: each batch element is one step's loss, over a window of a single run's residuals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from throughtime.engines.base import Layout, Operands, Result
from throughtime.nn.stack import joined
from throughtime.sight.arrays import Array
from throughtime.sight.gradients.capture import CapturedRun
from throughtime.sight.hooks.residuals import LayerResiduals, gradient_outputs

INPUT = "input"
_ELEMENTS = 1 << 24  # per array of a chunk: about 64 MB in float32


def backward_by_lag(run: CapturedRun, steps: Array, window: int) -> dict[str, Array]:
    """Compute the gradient norms of the losses of the given steps, by lag.

    Args:
        run: a run of a stack of layers, with the gradients of the loss at its top layer.
        steps: the steps s, `[S]`.
        window: the largest lag.

    Returns:
        Arrays `[S, window + 1]` for each layer and direction, each of its states, and the stack's input: the norm at
        step s - lag (s + lag where time runs backward), averaged over the sequences that have a loss at step s; NaN
        where none has such a step. The input of a stack with a reverse direction is omitted.
    """
    stack = _Stack(run, window)
    found: dict[str, Array] = {}
    done = 0
    for chunk in stack.chunks(torch.as_tensor(steps)):
        for name, mean in stack.means(chunk).items():
            # Copy into one array at once: small arrays that stay alive would fragment the memory of large ones.
            rows = found[name] if name in found else found.setdefault(name, np.empty((len(steps), window + 1)))
            rows[done : done + len(chunk)] = mean.T.cpu().numpy()
        done += len(chunk)
    return found


def backward_to_inputs(run: CapturedRun, steps: Array | None) -> Array:
    """Compute the gradient norms of the losses of the given steps with respect to all inputs of the stack.

    Args:
        run: a run of a stack of layers, with the gradients of the loss at its top layer.
        steps: the steps s, `[S]`; None for the total loss, which counts as one step.

    Returns:
        `[S, T, B]`; NaN after a sequence's end, and where a sequence has no loss at a step.
    """
    stack = _Stack(run, run.residuals.steps - 1)
    stack.whole, stack.together = True, steps is None
    chosen = torch.zeros(1, dtype=torch.int64) if steps is None else torch.as_tensor(steps)
    parts = []
    for chunk in stack.chunks(chosen):
        *_, (_, _, norms) = stack._norms(chunk)
        there = (torch.arange(stack.length)[:, None, None] < stack.lengths) & (stack.together | stack.live[chunk])
        parts.append(norms.cpu().where(there, torch.nan).transpose(0, 1))
    found = torch.cat(parts).numpy()
    if np.isinf(found).any() and run.outputs[0].dtype != torch.float64:  # the gradient explodes beyond float32
        return backward_to_inputs(run.double(), steps)
    return found


def steps_with_a_loss(run: CapturedRun) -> Array:
    """Return the steps at which the loss depends on the output of any sequence."""
    return _live(run).any(1).nonzero().squeeze(1).cpu().numpy()


def _live(run: CapturedRun) -> Tensor:
    given = [*run.outputs, *run.passed]
    return torch.stack([(g != 0).any(-1) for g in given]).any(0).cpu()


class _Stack:
    def __init__(self, run: CapturedRun, window: int) -> None:
        self.captured, self.window = run, window
        self.layers, self.lengths, self.length = run.residuals.layers, run.residuals.lengths, run.residuals.steps
        self.live = _live(run)
        # Gradients in one time direction stay in the window; if directions mix, they may leave and re-enter it.
        self.whole = any(layer.forward.reverse for directions in self.layers for layer in directions)
        self.together = False  # whether all steps share one loss

    def chunks(self, steps: Tensor) -> Iterator[Tensor]:
        """Split the steps into chunks that keep a layer's arrays small."""
        widest = max(sum(layer.width for layer in directions) for directions in self.layers)
        covered = self.length if self.whole else self.window + 1
        return iter(torch.split(steps, max(1, _ELEMENTS // (covered * len(self.lengths) * widest))))

    def means(self, steps: Tensor) -> dict[str, Tensor]:
        """Return the means over the batch by name, `[window + 1, S]`."""
        found: dict[str, Tensor] = {}
        finite = True
        for name, reverse, norms in self._norms(steps):
            if name == INPUT and self.whole:
                continue
            there = self._valid_lags(steps, reverse)
            norms = self._by_lag(steps, norms, reverse)
            finite = finite and bool(norms[there].isfinite().all())
            found[name] = norms.where(there, 0.0).sum(-1) / there.sum(-1)
        if not finite and self.captured.outputs[0].dtype != torch.float64:  # the gradient explodes beyond float32
            return _Stack(self.captured.double(), self.window).means(steps)
        return found

    def _norms(self, steps: Tensor) -> Iterator[tuple[str, bool, Tensor]]:
        """Yield each name from the top layer down, whether its direction is reverse, and norms `[steps, S, B]`."""
        at, rows = self._positions(steps), len(self.lengths)
        given = [self._at_loss(steps, at, g) for g in self.captured.outputs]
        passed = [self._at_loss(steps, at, g) for g in self.captured.passed]
        for depth in reversed(range(len(self.layers))):
            below = passed
            for direction, layer in enumerate(self.layers[depth]):
                result, names = self._through_layer(layer, at, given[direction])
                lane = direction % len(below)
                below[lane] = below[lane] + result.outputs[0]
                squares = [g.double().square().sum(-1).view(*at.shape, rows) for g in result.outputs[1:]]
                of_all = sum(squares, torch.zeros(*at.shape, rows, dtype=torch.float64, device=below[lane].device))
                yield str(layer.direction), layer.forward.reverse, of_all.sqrt()
                for name, square in zip(names, squares, strict=True):
                    yield f"{layer.direction}.{name}", layer.forward.reverse, square.sqrt()
            if self.whole:  # steps after a sequence's end have no gradient and must not contribute any
                alive = (at.unsqueeze(-1) < self.lengths).flatten(1).unsqueeze(-1)
                below = [g.where(alive.to(g.device), 0.0) for g in below]
            if depth > 0:
                given, passed = self._through_joint(depth - 1, at, below)
        yield INPUT, False, below[0].double().square().sum(-1).view(*at.shape, rows).sqrt()

    def _at_loss(self, steps: Tensor, at: Tensor, gradients: Tensor) -> Tensor:
        """Batch a gradient of the losses so that each element is nonzero only at its own step."""
        if self.together:
            return gradients
        own = steps if self.whole else torch.full_like(steps, self.window)
        given = gradients.new_zeros(*at.shape, *gradients.shape[1:])
        given[own, torch.arange(len(steps))] = gradients[steps]
        return given.flatten(1, 2)

    def _through_joint(self, depth: int, at: Tensor, gradients: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Split a layer's output gradients into those of its directions' outputs and those of the skip connection."""
        residuals, directions = self.captured.residuals, self.layers[depth]
        separate = residuals.separate_inputs and depth > 0
        with torch.enable_grad():
            below = [self._gathered(layer.x, at).requires_grad_() for layer in directions[: 2 if separate else 1]]
            outputs = [self._gathered(layer.y, at).requires_grad_() for layer in directions]
            reverse = [layer.forward.reverse for layer in directions]
            results = joined(below, outputs, reverse, residuals.options, False)
            found = torch.autograd.grad(
                results, [*outputs, *below], gradients, allow_unused=True, materialize_grads=True
            )
        return list(found[: len(directions)]), list(found[len(directions) :])

    def _gathered(self, tensor: Tensor, at: Tensor) -> Tensor:
        """Gather the steps that each batch element covers, `[steps, S * B, width]`."""
        if self.captured.residuals.options.merge != "product":  # then the merge is linear, and only the shape matters
            return tensor.new_zeros(()).expand(len(at), at.shape[1] * tensor.shape[1], tensor.shape[2])
        return tensor[at.to(tensor.device)].flatten(1, 2)

    def _positions(self, steps: Tensor) -> Tensor:
        """Return the forward steps that each batch element covers, `[steps, S]`."""
        if self.whole:
            return torch.arange(self.length)[:, None].expand(-1, len(steps))
        # Positions before the first step are clamped; no result reads them.
        return (steps - self.window + torch.arange(self.window + 1)[:, None]).clamp(min=0)

    def _through_layer(self, layer: LayerResiduals, at: Tensor, given: Tensor) -> tuple[Result, list[str]]:
        """Run a layer's gradient program; return its result and the names of the outputs after the first."""
        program, names = gradient_outputs(layer)
        read = [tensor[at.to(tensor.device)].flatten(1, 2) for tensor in layer.read]
        states = [given.new_zeros(given.shape[1], state.width) for state in program.states]
        operands = Operands([*read, given.contiguous()], states, layer.parameters)
        return layer.engine.run(program, operands, Layout(len(at), given.shape[1])), names

    def _valid_lags(self, steps: Tensor, reverse: bool) -> Tensor:
        """Mark the sequences that have both a loss at the step and a step at each lag, `[window + 1, S, B]`."""
        other = self._other(steps, reverse)[..., None]
        return (other >= 0) & (other < self.lengths) & self.live[steps]

    def _other(self, steps: Tensor, reverse: bool) -> Tensor:
        lags = torch.arange(self.window + 1)[:, None]
        return steps + lags if reverse else steps - lags

    def _by_lag(self, steps: Tensor, norms: Tensor, reverse: bool) -> Tensor:
        norms = norms.cpu()
        if not self.whole:
            return norms.flip(0)
        other = self._other(steps, reverse).clamp(0, self.length - 1)
        return norms[other, torch.arange(len(steps))]

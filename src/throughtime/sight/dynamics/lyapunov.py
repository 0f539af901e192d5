"""Lyapunov exponents: how fast small differences between states grow or decay while a network runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughtime.engines.base import Layout, Operands
from throughtime.errors import UserError
from throughtime.sight.arrays import Array
from throughtime.sight.dynamics.running import one_way_residuals
from throughtime.sight.hooks.residuals import LayerResiduals, step_jacobian

_SMALLEST = 1e-300  # replaces a zero, so that a direction that a step erases has a finite exponent


@dataclass(frozen=True)
class Exponents:
    """The Lyapunov exponents of a network along a run, in nats per step, largest first.

    Attributes:
        layers: the exponents of each layer, over all its states, `[n]`, averaged over the batch.
        spread: the standard deviation over the batch, in the same order; NaN for a single sequence.
        steps: the number of steps averaged over.
    """

    layers: Mapping[str, Array]
    spread: Mapping[str, Array]
    steps: int

    @cached_property
    def all(self) -> Array:
        """The exponents of the whole stack, which are those of all layers together.

        A layer's step does not depend on the layers above it, so the stack's Jacobian is block triangular and its
        exponents are those of the diagonal blocks.
        """
        return np.sort(np.concatenate(list(self.layers.values())))[::-1]

    @property
    def largest(self) -> float:
        """The largest exponent: above 0 the network is chaotic, below 0 it forgets its initial state."""
        return float(self.all[0])

    @property
    def dimension(self) -> float:
        """The Kaplan-Yorke dimension of the attractor: the interpolated number of largest exponents whose sum is 0.

        It is a lower bound if only the largest exponents are known and their sum is positive.
        """
        sums = np.cumsum(self.all)
        below = np.flatnonzero(sums < 0)
        if not len(below):
            return float(len(sums))
        k = int(below[0])
        return k + (float(sums[k - 1]) / abs(float(self.all[k])) if k else 0.0)

    @property
    def entropy_rate(self) -> float:
        """The sum of the positive exponents, in nats per step: an upper bound on the entropy rate of the dynamics."""
        return float(self.all[self.all > 0].sum())

    def figure(self) -> Any:
        """Return a plotly figure of each layer's spectrum."""
        from throughtime.sight.figures import spectrum_lines

        return spectrum_lines(self.layers)


def lyapunov(
    model: Any, x: Any, *, count: int | None = None, interval: int = 1, skip: int = 0, state: Any = None
) -> Exponents:
    """Compute the Lyapunov exponents of a network driven by an input.

    The Jacobians of successive steps are applied to orthonormal vectors, which QR re-orthonormalizes. The exponents are
    the time averages of the logarithms of R's diagonal (Benettin et al. 1980; for recurrent networks Engelken, Wolf &
    Abbott 2020, arXiv:2006.02427; Vogt et al. 2022, arXiv:2006.14123). A step's Jacobian is the derivative of the new
    states with respect to the old ones. The cell's gradient program applies its transpose, from the last step to the
    first, which yields the same exponents because a product and its transpose have the same singular values. The
    computation uses float64 along a run in the model's own precision.

    Args:
        model: a model with one unidirectional recurrent module, a run, or a run's directory.
        x: the model's input, `[T, B, ...]`; for a language model token ids `[T, B]` or `[T]`. Longer runs are more
            accurate: the error decreases as 1 / T.
        count: the number of exponents per layer, largest first; all by default.
        interval: the number of steps between QR decompositions. Larger intervals are faster, but lose exponents that
            are smaller than the largest by more than about 36 / interval.
        skip: the number of steps to skip at the beginning, until transients have decayed, and at the end, where steps
            only align the vectors.
        state: the initial state; defaults to the cell's own.

    Returns:
        The exponents of each layer.

    Raises:
        UserError: if an argument is invalid, or the layers are bidirectional.
    """
    residuals = one_way_residuals(model, x, state, step_jacobian, "Lyapunov exponents require")
    for name, value, least in (("interval", interval, 1), ("skip", skip, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name} must be an integer >= {least}, got {value!r}")
    counted = residuals.steps - 2 * skip
    if counted < 1:
        raise UserError(
            f"skipping {skip} steps at the beginning and at the end of {residuals.steps} leaves none to measure: pass "
            "a longer input or a smaller skip"
        )
    if bool((residuals.lengths < residuals.steps).any()):
        raise UserError(f"all sequences must have the same length, got lengths {residuals.lengths.tolist()}")
    found, spread = {}, {}
    for (layer,) in residuals.layers:
        width = sum(s.width for s in layer.forward.states)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UserError(f"count must be a positive integer, got {count!r}")
        per_row = _of_layer(
            layer.double(), len(residuals.lengths), residuals.steps, min(count or width, width), interval, skip
        )
        mean = per_row.mean(0)
        order = torch.argsort(mean, descending=True)
        found[str(layer.direction)] = mean[order].numpy()
        rows = len(per_row)
        deviation = per_row.std(0) if rows > 1 else torch.full_like(mean, float("nan"))
        spread[str(layer.direction)] = deviation[order].numpy()
    return Exponents(found, spread, counted)


def _of_layer(layer: LayerResiduals, rows: int, steps: int, count: int, interval: int, skip: int) -> Tensor:
    """Compute the exponents of each sequence, `[B, count]`."""
    program = layer.plan.program
    widths = [state.width for state in program.states]
    generator = torch.Generator().manual_seed(0)  # the initial directions don't matter, only that they are fixed
    start = torch.randn(rows, sum(widths), count, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(start)[0].to(layer.device)
    total, counted = vectors.new_zeros(rows, count), 0
    # The layer's own order of time, last steps first.
    times = list(range(steps)) if not program.reverse else list(reversed(range(steps)))
    for at, counts in _intervals(times, interval, skip):
        begin, end = min(at), max(at) + 1
        # each vector of each sequence is one batch element
        states = vectors.transpose(1, 2).reshape(rows * count, -1).split(widths, -1)
        read = [v[begin:end].repeat_interleave(count, 1) for v in layer.read]
        operands = Operands(read, [s.contiguous() for s in states], layer.parameters)
        result = layer.engine.run(program, operands, Layout(end - begin, rows * count))
        moved = torch.cat(result.states, -1).view(rows, count, -1).transpose(1, 2)
        vectors, triangle = torch.linalg.qr(moved)
        if counts:
            total += triangle.diagonal(dim1=1, dim2=2).abs().clamp(min=_SMALLEST).log()
            counted += len(at)
    mean: Tensor = (total / counted).cpu()
    return mean


def _intervals(times: list[int], interval: int, skip: int) -> list[tuple[list[int], bool]]:
    """Split the steps into intervals and mark those to measure; the run's last steps only align the vectors."""
    found = []
    for part, counts in ((times[:skip], False), (times[skip : len(times) - skip], True)):
        found += [(part[k : k + interval], counts) for k in range(0, len(part), interval)]
    return found

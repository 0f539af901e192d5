"""Lyapunov exponents: how fast small differences of a state grow or die out while a network runs."""

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

_SMALLEST = 1e-300  # a direction that a step wipes out altogether has the exponent of this, not minus infinity


@dataclass(frozen=True)
class Exponents:
    """The Lyapunov exponents of a network along a run, in nats per step, from the largest.

    Attributes:
        layers: of each layer, all its states together, `[n]`: the mean over the rows.
        spread: the standard deviation over the rows, in the same order, NaN for one row.
        steps: how many steps they were averaged over.
    """

    layers: Mapping[str, Array]
    spread: Mapping[str, Array]
    steps: int

    @cached_property
    def all(self) -> Array:
        """Of the whole stack: those of all layers together.

        A layer takes nothing from the ones above it, so the stack's Jacobian is block triangular, and its exponents are
        those of the blocks on the diagonal.
        """
        return np.sort(np.concatenate(list(self.layers.values())))[::-1]

    @property
    def largest(self) -> float:
        """The largest: above 0 the network is chaotic, below 0 it forgets where it began."""
        return float(self.all[0])

    @property
    def dimension(self) -> float:
        """The Kaplan-Yorke dimension of the attractor: so many of the exponents add up to 0.

        A lower bound where only the largest exponents are known and they add up to more.
        """
        sums = np.cumsum(self.all)
        below = np.flatnonzero(sums < 0)
        if not len(below):
            return float(len(sums))
        k = int(below[0])
        return k + (float(sums[k - 1]) / abs(float(self.all[k])) if k else 0.0)

    @property
    def entropy_rate(self) -> float:
        """The sum of the exponents above 0, an upper bound of the entropy that chaos makes, in nats per step."""
        return float(self.all[self.all > 0].sum())

    def figure(self) -> Any:
        """The spectrum of each layer; a plotly figure."""
        from throughtime.sight.figures import spectrum_lines

        return spectrum_lines(self.layers)


def lyapunov(
    model: Any, x: Any, *, count: int | None = None, interval: int = 1, skip: int = 0, state: Any = None
) -> Exponents:
    """The Lyapunov exponents of a network driven by an input.

    The exponents are the means over time of the logarithms of R's diagonal, when the Jacobians of the steps are applied
    one after the other to orthonormal vectors that QR makes orthonormal again (Benettin et al. 1980; for recurrent
    networks Engelken, Wolf & Abbott 2020, arXiv:2006.02427; Vogt et al. 2022, arXiv:2006.14123). The Jacobian of a step
    is that of the new states with respect to the old ones. It is applied by the cell's gradient program, transposed and
    from the last step to the first; that gives the same exponents, as the singular values of a product are those of
    its transpose. Computed in float64 along a run in the model's own precision.

    Args:
        model: a model with one recurrent module in it, of one direction of time; a run or its directory.
        x: what the model takes, `[T, B, ...]`; for a language model ids `[T, B]` or `[T]`. The longer the run the
            better: the error falls like 1 / T.
        count: how many exponents of each layer, the largest; all if not given.
        interval: how many steps there are from one QR to the next; larger is quicker, and loses the exponents that are
            smaller than the largest by more than about 36 / interval.
        skip: how many steps at the beginning are left out, until the states have left where they started, and how many
            at the end are only used to turn the vectors to their directions.
        state: the initial state; the cell's own if not given.

    Returns:
        The exponents of each layer.

    Raises:
        UserError: if an argument does not fit, or the layers run in both directions of time.
    """
    residuals = one_way_residuals(model, x, state, step_jacobian, "Lyapunov exponents are of")
    for name, value, least in (("interval", interval, 1), ("skip", skip, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name} is a whole number of {least} or more; given {value!r}.")
    counted = residuals.steps - 2 * skip
    if counted < 1:
        raise UserError(
            f"{residuals.steps} steps, less {skip} at the beginning and at the end, leave none to measure: give more "
            "steps, or a smaller skip."
        )
    if bool((residuals.lengths < residuals.steps).any()):
        raise UserError(f"rows of one length are wanted; given lengths {residuals.lengths.tolist()}.")
    found, spread = {}, {}
    for (layer,) in residuals.layers:
        width = sum(s.width for s in layer.forward.states)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UserError(f"count is a whole number of 1 or more; given {count!r}.")
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
    """The exponents of each row, `[B, count]`."""
    program = layer.plan.program
    widths = [state.width for state in program.states]
    generator = torch.Generator().manual_seed(0)  # any directions do
    start = torch.randn(rows, sum(widths), count, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(start)[0].to(layer.device)
    total, counted = vectors.new_zeros(rows, count), 0
    # Time as the layer goes through it: its last steps first.
    times = list(range(steps)) if not program.reverse else list(reversed(range(steps)))
    for at, counts in _stretches(times, interval, skip):
        begin, end = min(at), max(at) + 1
        # each vector of each row is a row of the batch
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


def _stretches(times: list[int], interval: int, skip: int) -> list[tuple[list[int], bool]]:
    """The steps in stretches of the interval, and whether each counts; the last of the run are only for turning."""
    found = []
    for part, counts in ((times[:skip], False), (times[skip : len(times) - skip], True)):
        found += [(part[k : k + interval], counts) for k in range(0, len(part), interval)]
    return found

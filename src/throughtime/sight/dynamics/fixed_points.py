"""Fixed points: states that a step maps to themselves, and the dynamics near them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.errors import UserError
from throughtime.sight.arrays import Array
from throughtime.sight.dynamics.running import require_one_way
from throughtime.sight.models import language_model, only_recurrent, opened

_ROWS = 1 << 14  # batch size for Jacobians; bounds the memory
_DAMPING, _DECREASE, _INCREASE, _MAX_DAMPING = 1e-3, 0.2, 5.0, 1e12


@dataclass(frozen=True)
class FixedPoints:
    """Fixed or slow points of the step F with a constant input, slowest first.

    Attributes:
        states: the points, `[K, n]`: the states of all layers concatenated.
        parts: the slice of each state, by name such as `layer0.hidden`.
        speeds: |F(h) - h|^2 / 2 at each point, `[K]`.
        eigenvalues: the eigenvalues of F's Jacobian at each point, `[K, n]`, complex, largest modulus first.
        counts: the number of initial states whose search ended at each point, `[K]`.
    """

    states: Array
    parts: Mapping[str, slice]
    speeds: Array
    eigenvalues: Array
    counts: Array

    def __len__(self) -> int:
        return len(self.states)

    @property
    def unstable(self) -> Array:
        """The number of unstable directions of each point (eigenvalues outside the unit circle), `[K]`."""
        outside: Array = (np.abs(self.eigenvalues) > 1).sum(1)
        return outside

    @property
    def stable(self) -> Array:
        """Whether each point attracts nearby states, `[K]`."""
        stable: Array = self.unstable == 0
        return stable

    @property
    def timescales(self) -> Array:
        """The steps in which each direction grows or shrinks by a factor of e, 1 / |ln |eigenvalue||, `[K, n]`."""
        with np.errstate(divide="ignore"):
            return 1 / np.abs(np.log(np.abs(self.eigenvalues)))

    def figure(self) -> Any:
        """Return a plotly figure of each point's eigenvalues in the complex plane, with the unit circle."""
        from throughtime.sight.figures import eigenvalue_plane

        return eigenvalue_plane(self.eigenvalues)


def fixed_points(
    model: Any,
    states: Any,
    x: Any = None,
    *,
    speed: float = 1e-16,
    iterations: int = 200,
    min_distance: float = 1e-4,
) -> FixedPoints:
    """Find states that a step leaves unchanged, starting from recorded states.

    Minimizes the speed q(h) = |F(h) - h|^2 / 2 from each given state, as Sussillo & Barak do (2013, "Opening the black
    box", Neural Computation 25), here by the Levenberg-Marquardt method in float64 with Jacobians from the cell's
    gradient program. A search that ends at a minimum above `speed` has found no fixed point; raise `speed` to keep such
    slow points.

    Args:
        model: a model with one unidirectional recurrent module, a run, or a run's directory.
        states: the initial states: recorded values of every state by name, each `[T, B, H]` or `[N, H]` (as
            `throughtime.record` returns), or states as the module returns them, `[layers, N, H]`, in a tuple if the
            cell has several. About fifty states from different texts are a good start.
        x: the layers' constant input, `[input_size]`; for a language model a token id; 0 by default.
        speed: the largest q that counts as a fixed point.
        iterations: the maximum number of iterations.
        min_distance: points closer to each other than this, relative to the size of a unit's state, count as one.

    Returns:
        The points, and the eigenvalues of the Jacobian at each; empty if the search finds none.

    Raises:
        UserError: if an argument is invalid, or the layers are bidirectional.
    """
    whole = opened(model)
    step = _Step(whole, require_one_way(only_recurrent(whole), "fixed points require"), x)
    if not speed >= 0 or not min_distance >= 0 or not isinstance(iterations, int) or iterations < 1:
        raise UserError(
            f"speed and min_distance must be >= 0 and iterations a positive integer, got {speed!r}, {min_distance!r} "
            f"and {iterations!r}"
        )
    points = _search(step, step.flat(states), iterations)
    q = _speed(step(points) - points)
    found = q <= speed
    points, q = points[found], q[found]
    kept, counts = _distinct(points, q, min_distance)
    eigenvalues = torch.linalg.eigvals(step.jacobian(points[kept]))
    order = eigenvalues.abs().argsort(dim=1, descending=True)
    return FixedPoints(
        points[kept].numpy(),
        step.parts,
        q[kept].numpy(),
        eigenvalues.gather(1, order).numpy(),
        np.array(counts, dtype=np.int64),
    )


class _Step:
    """A stack's step with a constant input, as a function of all its states concatenated, in float64."""

    def __init__(self, model: nn.Module, recurrent: Any, x: Any) -> None:
        self.module = copy.deepcopy(recurrent).cpu().double().eval()
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        layers = recurrent.layers()
        self.states = [(f"layer{depth}", s) for depth, ((p, _),) in enumerate(layers) for s in p.states]
        self.depth, self.each = len(layers), len(layers[0][0][0].states)
        ends = list(accumulate(s.width for _, s in self.states))
        self.parts = {
            f"{layer}.{s.name}": slice(end - s.width, end) for (layer, s), end in zip(self.states, ends, strict=True)
        }
        self.size = ends[-1]
        width = layers[0][0][0].inputs[0].width
        self.x = _constant(model, x, width)

    def __call__(self, states: Tensor) -> Tensor:
        """Return the states after the step, `[N, n]`."""
        x = self.x.expand(1, len(states), -1)
        x = x.transpose(0, 1) if getattr(self.module, "batch_first", False) else x
        parts = torch.split(states, [s.width for _, s in self.states], -1)
        by_name = [torch.stack(parts[k :: self.each]) for k in range(self.each)]
        final = self.module(x, by_name[0] if self.each == 1 else tuple(by_name))[1]
        given = [final] if isinstance(final, Tensor) else list(final)
        return torch.cat([given[k][depth] for depth in range(self.depth) for k in range(self.each)], -1)

    def jacobian(self, states: Tensor) -> Tensor:
        """Return the derivative of each new element with respect to each old one, `[N, n, n]`."""
        found = states.new_zeros(len(states), self.size, self.size)
        unit = torch.eye(self.size, dtype=states.dtype)
        at_once = max(1, _ROWS // self.size)
        for k in range(0, len(states), at_once):
            some = states[k : k + at_once]
            rows = some.repeat_interleave(self.size, 0).requires_grad_()
            with torch.enable_grad():
                moved = self(rows)
            (rows_of,) = torch.autograd.grad(moved, rows, unit.repeat(len(some), 1))
            found[k : k + at_once] = rows_of.view(len(some), self.size, self.size)
        return found

    def flat(self, states: Any) -> Tensor:
        """Concatenate recorded or returned states to `[N, n]`."""
        wanted = {name: part.stop - part.start for name, part in self.parts.items()}
        if hasattr(states, "keys") or hasattr(states, "calls"):
            lacking = [name for name in wanted if hasattr(states, "keys") and name not in states]
            if lacking:
                raise UserError(
                    f"states must contain {', '.join(wanted)} from the same run; {', '.join(lacking)} is missing"
                )
            named = {name: torch.as_tensor(states[name]) for name in wanted}
        else:
            given = [states] if isinstance(states, Tensor) else list(states)
            if len(given) != self.each or any(s.dim() != 3 or len(s) != self.depth for s in given):
                shapes = [list(getattr(s, "shape", [])) for s in given]
                raise UserError(
                    f"states must be recorded values of {', '.join(wanted)}, or states as the module returns them, "
                    f"{self.each} of shape [{self.depth}, N, width]; got {shapes}"
                )
            order = [(depth, k) for depth in range(self.depth) for k in range(self.each)]
            named = {name: given[k][depth] for name, (depth, k) in zip(wanted, order, strict=True)}
        flat = {name: value.detach().cpu().double().flatten(0, -2) for name, value in named.items()}
        if any(v.shape[-1] != wanted[name] or len(v) < 1 for name, v in flat.items()) or (
            len({len(v) for v in flat.values()}) > 1
        ):
            shown = {name: list(value.shape) for name, value in named.items()}
            raise UserError(f"states must have widths {wanted} and the same, nonzero count; got {shown}")
        return torch.cat(list(flat.values()), -1)


def _constant(model: nn.Module, x: Any, width: int) -> Tensor:
    if x is None:
        return torch.zeros(width, dtype=torch.float64)
    language = language_model(model)
    if language is not None:
        if not isinstance(x, int) or not 0 <= x < language.vocabulary_size:
            raise UserError(f"x must be a token id from 0 to {language.vocabulary_size - 1}, got {x!r}")
        vector: Tensor = language.encoder.weight[x].detach()
    else:
        vector = torch.as_tensor(x).detach()
    if vector.shape != (width,):
        raise UserError(
            f"x must be a vector of shape [{width}], the layers' input at every step; got {list(vector.shape)}"
        )
    return vector.cpu().double()


def _speed(difference: Tensor) -> Tensor:
    return difference.square().sum(-1) / 2


@torch.no_grad()
def _search(step: _Step, points: Tensor, iterations: int) -> Tensor:
    """Move points to minima of the speed."""
    points = points.clone()
    difference = step(points) - points
    damping = torch.full((len(points),), _DAMPING, dtype=points.dtype)
    slopes = step.jacobian(points)
    unit = torch.eye(step.size, dtype=points.dtype)
    going = _speed(difference) > 0
    for _ in range(iterations):
        if not going.any():
            break
        at = going.nonzero().squeeze(1)
        a = slopes[at] - unit
        normal = a.mT @ a + damping[at, None, None] * unit
        move = torch.linalg.solve(normal, -(a.mT @ difference[at, :, None])).squeeze(-1)
        tried = points[at] + move
        moved = step(tried) - tried
        better = _speed(moved) < _speed(difference[at])
        good = at[better]
        points[good], difference[good] = tried[better], moved[better]
        slopes[good] = step.jacobian(points[good])
        damping[at] *= torch.where(better, _DECREASE, _INCREASE)
        # Stop when a move changes no digit or no move helps.
        resting = better & (move.norm(dim=-1) <= 1e-15 * (1 + tried.norm(dim=-1)))
        going[at] = ~resting & (damping[at] < _MAX_DAMPING) & (_speed(difference[at]) > 0)
    return points


def _distinct(points: Tensor, q: Tensor, min_distance: float) -> tuple[list[int], list[int]]:
    """Return the indices of the distinct points, slowest first, and the number of points merged into each."""
    kept: list[int] = []
    counts: list[int] = []
    for k in q.argsort().tolist():
        distances = [float((points[k] - points[other]).square().mean().sqrt()) for other in kept]
        nearest = int(np.argmin(distances)) if distances else -1
        if distances and distances[nearest] <= min_distance:
            counts[nearest] += 1
        else:
            kept.append(k)
            counts.append(1)
    return kept, counts

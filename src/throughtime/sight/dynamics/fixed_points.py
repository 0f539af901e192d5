"""Fixed points: states that a step leaves where they are, and what happens near them."""

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

_ROWS = 1 << 14  # of one run for Jacobians; bounds the memory
_DAMPING, _EASE, _STIFFEN, _MOST = 1e-3, 0.2, 5.0, 1e12


@dataclass(frozen=True)
class FixedPoints:
    """Fixed or slow points of the step F with a constant input, the slowest first.

    Attributes:
        states: the points, `[K, n]`: the states of all layers side by side.
        parts: where each state is in them, `layer0.hidden` and so on.
        speeds: |F(h) - h|^2 / 2 at each, `[K]`.
        eigenvalues: of the Jacobian of F at each, `[K, n]`, complex, the largest modulus first.
        counts: how many of the states that the search began from ended at each, `[K]`.
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
        """In how many directions each point pushes away: the number of eigenvalues outside the unit circle, `[K]`."""
        outside: Array = (np.abs(self.eigenvalues) > 1).sum(1)
        return outside

    @property
    def stable(self) -> Array:
        """Whether each point attracts what is near it, `[K]`."""
        stable: Array = self.unstable == 0
        return stable

    @property
    def timescales(self) -> Array:
        """In how many steps each direction grows or shrinks by e, 1 / |ln |eigenvalue||, `[K, n]`."""
        with np.errstate(divide="ignore"):
            return 1 / np.abs(np.log(np.abs(self.eigenvalues)))

    def figure(self) -> Any:
        """The eigenvalues of each point in the complex plane, with the unit circle; a plotly figure."""
        from throughtime.sight.figures import eigenvalue_plane

        return eigenvalue_plane(self.eigenvalues)


def fixed_points(
    model: Any,
    states: Any,
    x: Any = None,
    *,
    speed: float = 1e-16,
    iterations: int = 200,
    apart: float = 1e-4,
) -> FixedPoints:
    """States that a step leaves where they are, found from recorded ones.

    The speed q(h) = |F(h) - h|^2 / 2 is made small from each of the given states, as Sussillo & Barak (2013, "Opening
    the black box", Neural Computation 25) do, here by Levenberg's and Marquardt's method with the Jacobian of the
    cell's gradient program, in float64. Where q ends at a minimum above the speed that is allowed, there is no fixed
    point; allow more to keep such slow points.

    Args:
        model: a model with one recurrent module in it, of one direction of time; a run or its directory.
        states: where to begin: recorded values of every state by name, each `[T, B, H]` or `[N, H]` (what
            `throughtime.record` gives), or states as the module returns them, `[layers, N, H]`, for a cell of several a
            tuple of them. Fifty or so from different texts are a good beginning.
        x: the constant input of the layers, `[input_size]`; for a language model the id of a symbol; 0 if not given.
        speed: the largest q that counts as fixed.
        iterations: how many to make at most.
        apart: points nearer to each other than this, beside the size of a unit's state, are one.

    Returns:
        The points, and the eigenvalues of the Jacobian at each; none if the search found none.

    Raises:
        UserError: if an argument does not fit, or the layers run in both directions of time.
    """
    whole = opened(model)
    step = _Step(whole, require_one_way(only_recurrent(whole), "fixed points are of"), x)
    if not speed >= 0 or not apart >= 0 or not isinstance(iterations, int) or iterations < 1:
        raise UserError(
            f"speed and apart are 0 or more, iterations a whole number of 1 or more; given {speed!r}, {apart!r} and "
            f"{iterations!r}."
        )
    points = _search(step, step.flat(states), iterations)
    q = _speed(step(points) - points)
    found = q <= speed
    points, q = points[found], q[found]
    kept, counts = _distinct(points, q, apart)
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
    """A step of a stack with a constant input, as a function of all its states side by side, in float64."""

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
        """The states after the step, `[N, n]`."""
        x = self.x.expand(1, len(states), -1)
        x = x.transpose(0, 1) if getattr(self.module, "batch_first", False) else x
        parts = torch.split(states, [s.width for _, s in self.states], -1)
        by_name = [torch.stack(parts[k :: self.each]) for k in range(self.each)]
        final = self.module(x, by_name[0] if self.each == 1 else tuple(by_name))[1]
        given = [final] if isinstance(final, Tensor) else list(final)
        return torch.cat([given[k][depth] for depth in range(self.depth) for k in range(self.each)], -1)

    def jacobian(self, states: Tensor) -> Tensor:
        """`[N, n, n]`: of each new element with respect to each old one."""
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
        """Recorded or returned states as `[N, n]`."""
        wanted = {name: part.stop - part.start for name, part in self.parts.items()}
        if hasattr(states, "keys") or hasattr(states, "calls"):
            lacking = [name for name in wanted if hasattr(states, "keys") and name not in states]
            if lacking:
                raise UserError(
                    f"the states {', '.join(wanted)} are wanted, all of one run; {', '.join(lacking)} is not given."
                )
            named = {name: torch.as_tensor(states[name]) for name in wanted}
        else:
            given = [states] if isinstance(states, Tensor) else list(states)
            if len(given) != self.each or any(s.dim() != 3 or len(s) != self.depth for s in given):
                shapes = [list(getattr(s, "shape", [])) for s in given]
                raise UserError(
                    f"states are {', '.join(wanted)}, recorded, or as the module returns them, {self.each} of the "
                    f"shape [{self.depth}, N, width]; given {shapes}."
                )
            order = [(depth, k) for depth in range(self.depth) for k in range(self.each)]
            named = {name: given[k][depth] for name, (depth, k) in zip(wanted, order, strict=True)}
        flat = {name: value.detach().cpu().double().flatten(0, -2) for name, value in named.items()}
        if any(v.shape[-1] != wanted[name] or len(v) < 1 for name, v in flat.items()) or (
            len({len(v) for v in flat.values()}) > 1
        ):
            shown = {name: list(value.shape) for name, value in named.items()}
            raise UserError(f"states must be as wide as {wanted}, as many of each, and one at least; given {shown}.")
        return torch.cat(list(flat.values()), -1)


def _constant(model: nn.Module, x: Any, width: int) -> Tensor:
    if x is None:
        return torch.zeros(width, dtype=torch.float64)
    language = language_model(model)
    if language is not None:
        if not isinstance(x, int) or not 0 <= x < language.vocabulary_size:
            raise UserError(f"x is the id of a symbol, from 0 to {language.vocabulary_size - 1}; given {x!r}.")
        vector: Tensor = language.encoder.weight[x].detach()
    else:
        vector = torch.as_tensor(x).detach()
    if vector.shape != (width,):
        raise UserError(f"x is a vector [{width}], the input of the layers at all steps; given {list(vector.shape)}.")
    return vector.cpu().double()


def _speed(difference: Tensor) -> Tensor:
    return difference.square().sum(-1) / 2


@torch.no_grad()
def _search(step: _Step, points: Tensor, iterations: int) -> Tensor:
    """Moves points to minima of the speed."""
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
        damping[at] *= torch.where(better, _EASE, _STIFFEN)
        # A move that changes no digit, or no move that helps, is the end.
        resting = better & (move.norm(dim=-1) <= 1e-15 * (1 + tried.norm(dim=-1)))
        going[at] = ~resting & (damping[at] < _MOST) & (_speed(difference[at]) > 0)
    return points


def _distinct(points: Tensor, q: Tensor, apart: float) -> tuple[list[int], list[int]]:
    """The numbers of the points that differ, the slowest first, and how many points are at each."""
    kept: list[int] = []
    counts: list[int] = []
    for k in q.argsort().tolist():
        distances = [float((points[k] - points[other]).square().mean().sqrt()) for other in kept]
        nearest = int(np.argmin(distances)) if distances else -1
        if distances and distances[nearest] <= apart:
            counts[nearest] += 1
        else:
            kept.append(k)
            counts.append(1)
    return kept, counts

"""Real-time recurrent learning: update the sensitivities of a layer's state to its parameters at each step.

With state s, parameters p and a step s' = f(s, x, p), the sensitivities J = ds/dp satisfy J' = (df/ds) J + df/dp. Both
Jacobians come from the program's tangent. Only the elements of J that a parameter can reach are kept: within any
number of steps, which is exact (Williams & Zipser 1989), or within one, which is SnAp-1 (Menick et al. 2021,
arXiv:2006.07232).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError
from throughtime.program.core import Program
from throughtime.streaming.probing import probes
from throughtime.streaming.structure import Group, Structure

Array = NDArray[Any]

METHODS = RTRL, SNAP1 = "rtrl", "snap1"
SMALL = 16 << 20  # the maximum size in bytes of automatically chosen exact sensitivities
LARGEST = 4 << 30  # the maximum size in bytes of a layer's sensitivities


@dataclass(frozen=True)
class Method:
    """The learning method of a layer.

    Attributes:
        depth: the layer's number, from 0.
        cell: the name of its cell.
        name: "rtrl" for real-time recurrent learning, which is exact within the layer, or "snap1" for its
            approximation.
        bytes: the memory of the layer's sensitivities, in bytes.
    """

    depth: int
    cell: str
    name: str
    bytes: int

    def __str__(self) -> str:
        shown = {RTRL: "exact RTRL", SNAP1: "SnAp-1"}[self.name]
        return f"layer {self.depth} ({self.cell}): {shown}, {_size(self.bytes)} of sensitivities"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def choose(program: Program, wanted: str | None, rows: int, itemsize: int) -> tuple[Structure, str, list[Group]]:
    """Choose a layer's learning method.

    Args:
        program: the layer's program.
        wanted: the method's name. If None, "rtrl" is chosen where it costs no more than "snap1", because a unit's
            parameters reach only that unit, or where its sensitivities take at most `SMALL` bytes; otherwise "snap1".
        rows: the number of streams.
        itemsize: the size of a number in bytes.

    Returns:
        The program's structure, the method's name, and the groups of rows to keep sensitivities of.

    Raises:
        UserError: if the sensitivities would take more than `LARGEST` bytes.
    """
    structure = Structure.of(program)
    local = structure.direct[:, structure.states :]
    recurrent = structure.total[:, : structure.states].astype(np.float32)
    further = structure.total[:, structure.states :] | (recurrent @ local.astype(np.float32) > 0)
    if not (further & ~local).any():
        name, groups = RTRL, structure.groups(local)
    else:
        name, groups = RTRL, structure.groups(structure.reached)
        if wanted == SNAP1 or (wanted is None and structure.elements(groups) * rows * itemsize > SMALL):
            name, groups = SNAP1, structure.groups(local)
    if (count := structure.elements(groups) * rows * itemsize) > LARGEST:
        raise UserError(
            f"the sensitivities of a layer of {program.name!r} would take {_size(count)}, more than {_size(LARGEST)}: "
            "use learn='snap1', fewer rows or a smaller layer"
        )
    return structure, name, groups


class Sensitivities:
    """The sensitivities of one layer.

    Args:
        structure: the layer's structure.
        groups: the rows of parameters to keep sensitivities of, with the state elements that they reach.
        rows: the number of streams.
        dtype: the dtype of the sensitivities.
    """

    def __init__(self, structure: Structure, groups: Sequence[Group], rows: int, dtype: np.dtype[Any]) -> None:
        self.structure, self.rows = structure, rows
        self.probes = probes(structure, groups)
        self.blocks = [_block(structure, group, rows, dtype) for group in groups]
        seeds = np.tile(self.probes.seeds.astype(dtype), (rows, 1))
        places = np.split(seeds[:, structure.states :], np.array(structure.starts[1:-1]) - structure.states, 1)
        widths = np.cumsum([state.width for state in structure.program.states])[:-1]
        self.seeds_of_states = [np.ascontiguousarray(a) for a in np.split(seeds[:, : structure.states], widths, 1)]
        self.seeds_of_places = [np.ascontiguousarray(a)[None] for a in places]

    @property
    def bytes(self) -> int:
        """The memory of the sensitivities, in bytes."""
        return sum(block.values.nbytes for block in self.blocks)

    @property
    def directions(self) -> int:
        """The number of directions in which each step's tangent is computed."""
        return len(self.probes.seeds)

    def masked(self, k: int, weight: Array) -> Array:
        """Return a matrix with the elements that the tangent ignores set to 0."""
        return weight * self.probes.masks[k] if k in self.probes.masks else weight

    def advance(self, tangents: Array, args: Mapping[int, Array]) -> None:
        """Advance the sensitivities over a step.

        Args:
            tangents: the tangents of the new state in each direction, `[rows, directions, states]`.
            args: the input of each matrix product, `[rows, width]`, by its value id in the program.
        """
        for block in self.blocks:
            block.advance(tangents, self.probes.color, args)

    def add_gradients(self, gradients: Sequence[Array], of_states: Array) -> None:
        """Accumulate into `gradients` the gradients through the old state, given its own, `[rows, states]`."""
        for block in self.blocks:
            gradient = gradients[block.group.parameter]
            gradient[block.group.rows] += block.gradient(of_states).reshape(-1, *gradient.shape[1:])

    def forget(self, rows: Any) -> None:
        """Clear the sensitivities of some streams: their states no longer depend on the parameters."""
        for block in self.blocks:
            block.values[rows] = 0


class _Local:
    """Sensitivities of rows that reach part of the state, `[streams, n, r, columns]`."""

    def __init__(self, structure: Structure, group: Group, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.structure, self.group = structure, group
        self.values = np.zeros((*shape[:1], *group.reach.shape, *shape[1:]), dtype)

    def advance(self, tangents: Array, color: Array, args: Mapping[int, Array]) -> None:
        reach = self.group.reach
        recurrent = tangents[:, color[reach][:, None, :], reach[:, :, None]]  # [streams, n, r, r]
        if reach.shape[1] == 1:
            self.values *= recurrent
        else:
            self.values = recurrent @ self.values
        for use in self.structure.uses[self.group.parameter]:
            columns = color[self.structure.columns(use, self.group.rows)]
            immediate = tangents[:, columns[:, None], reach][..., None]
            self.values += immediate if use.arg is None else immediate * args[use.arg][:, None, None, :]

    def gradient(self, of_states: Array) -> Array:
        return np.asarray(np.einsum("bnr,bnrm->nm", of_states[:, self.group.reach], self.values))


class _Full:
    """Sensitivities of rows that reach the whole state, `[streams, states, n * columns]`: one GEMM per step."""

    def __init__(self, structure: Structure, group: Group, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.structure, self.group = structure, group
        rows, columns = shape
        self.values = np.zeros((rows, structure.states, len(group.rows) * columns), dtype)
        self.shape = (rows, len(group.rows), columns)
        # For each use, the few pairs of a state element and a row that reaches it within one step.
        reached = [structure.total[:, structure.columns(use, group.rows)] for use in structure.uses[group.parameter]]
        self.immediate = [np.nonzero(of_use) for of_use in reached]

    def advance(self, tangents: Array, color: Array, args: Mapping[int, Array]) -> None:
        recurrent = tangents[:, color[: self.structure.states], :].swapaxes(1, 2)
        self.values = recurrent @ self.values
        values = self.values.reshape(*self.values.shape[:2], *self.shape[1:])
        for use, (reached, rows) in zip(self.structure.uses[self.group.parameter], self.immediate, strict=True):
            columns = color[self.structure.columns(use, self.group.rows[rows])]
            added = tangents[:, columns, reached, None]
            values[:, reached, rows] += added if use.arg is None else added * args[use.arg][:, None, :]

    def gradient(self, of_states: Array) -> Array:
        return np.asarray((of_states[:, None, :] @ self.values).sum((0, 1)).reshape(self.shape[1:]))


def _block(structure: Structure, group: Group, rows: int, dtype: np.dtype[Any]) -> _Local | _Full:
    shape = structure.program.parameters[group.parameter].shape
    kind = _Full if group.reach.shape[1] == structure.states and structure.states > 1 else _Local
    return kind(structure, group, (rows, shape[1] if len(shape) == 2 else 1), dtype)

"""Find a small set of tangent directions from which the needed entries of a step's Jacobian can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from throughtime.streaming.structure import Bools, Group, Ints, Structure, dependencies


@dataclass(frozen=True)
class Probes:
    """Directions whose tangents contain the needed entries of a Jacobian, each separately.

    Columns that share no row also share a direction, called their color (Curtis, Powell & Reid 1974).

    Attributes:
        color: the direction of each column.
        seeds: the directions, `[colors, columns]`.
        masks: for parameters, by index, the elements that the needed entries depend on; the others count as 0.
    """

    color: Ints
    seeds: Bools
    masks: dict[int, Bools]

    def __deepcopy__(self, memo: object) -> Probes:
        return self


def probes(structure: Structure, groups: Sequence[Group]) -> Probes:
    """Find the directions for the sensitivities of the given groups of rows."""
    needed = _needed(structure, groups)
    masks = _masks(structure, needed)
    found = dependencies(structure, masks=masks)
    nonzero = np.concatenate([found[state.next] for state in structure.program.states])
    color = _colors(needed, nonzero)
    used = np.flatnonzero(needed.any(0))
    seeds = np.zeros((int(color.max(initial=-1)) + 1, needed.shape[1]), bool)
    seeds[color[used], used] = True
    return Probes(color, seeds, masks)


def _needed(structure: Structure, groups: Sequence[Group]) -> Bools:
    """Return which entries the sensitivities' update reads, `[S, columns]`."""
    needed = np.zeros((structure.states, structure.starts[-1]), bool)
    for group in groups:
        full = group.reach.shape[1] == structure.states
        if full:
            needed[:, : structure.states] = True
        else:
            needed[group.reach[:, :, None], group.reach[:, None, :]] = True
        for use in structure.uses[group.parameter]:
            columns = structure.columns(use, group.rows)
            if full:
                needed[:, columns] |= structure.total[:, columns]  # the only entries that are read
            else:
                needed[group.reach, columns[:, None]] = True
    return needed


def _masks(structure: Structure, needed: Bools) -> dict[int, Bools]:
    """Return masks of the elements that needed entries depend on, for matrices where these are less than half."""
    found = dependencies(structure)
    after = structure.total.astype(np.float32)
    masks: dict[int, Bools] = {}
    for k, uses in enumerate(structure.uses):
        relevant = np.zeros(structure.program.parameters[k].shape, bool)
        for use in uses:
            if use.arg is not None:
                columns = structure.columns(use, np.arange(len(relevant)))
                asked = (after[:, columns].T @ needed.astype(np.float32) > 0).astype(np.float32)
                relevant |= asked @ found[use.arg].T.astype(np.float32) > 0
        if len(structure.program.parameters[k].shape) == 2 and 2 * relevant.sum() < relevant.size:
            masks[k] = relevant
    return masks


def _colors(needed: Bools, nonzero: Bools) -> Ints:
    """Color columns so that each needed entry is the only nonzero one of its row and color."""
    color = np.full(needed.shape[1], -1)
    used = np.flatnonzero(needed.any(0))
    read = needed[:, used].astype(np.float32)
    overlaps = read.T @ nonzero[:, used].astype(np.float32) > 0
    overlaps |= overlaps.T
    for n, column in enumerate(used):
        taken = color[used[:n][overlaps[n, :n]]]
        free = np.flatnonzero(np.bincount(taken, minlength=n + 1) == 0) if len(taken) else np.zeros(1, int)
        color[column] = free[0]
    return color

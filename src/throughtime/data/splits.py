"""Split sequences into a training and a validation side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import DataError
from throughtime.packages import require
from throughtime.spelling import option

Indices = NDArray[np.int64]


class Split(NamedTuple):
    """The two sides of a split.

    Attributes:
        train: the indices of the training side, ascending.
        valid: the indices of the validation side, ascending.
        notes: remarks on the split for the user, one sentence each.
    """

    train: Indices
    valid: Indices
    notes: list[str]


def require_shares(valid: float, test: float) -> None:
    """Check that the fractions to hold out for validation and test leave data to train on.

    Raises:
        DataError: if they don't.
    """
    if valid + test >= 1:
        raise DataError(
            f"{option('valid_share')} and {option('test_share')} must sum to less than 1, got {valid:g} and {test:g}"
        )


def split(
    targets: NDArray[Any] | Sequence[Any],
    groups: Sequence[str] | None,
    share: float,
    seed: int,
    names: Sequence[str] | None = None,
) -> Split:
    """Split sequences into a training and a validation side.

    Args:
        targets: label ids, an integer array `[N]`, for a split in which each label has about the same fraction on both
            sides; anything else with one item per sequence is split at random.
        groups: the group of each sequence, so that each group is on one side; or None.
        share: the fraction to hold out for validation, between 0 and 1. With groups and labels, it is about
            `1 / round(1 / share)`.
        seed: the seed of the shuffle.
        names: the labels, for messages; their ids if None.

    Returns:
        The sides. A label with only one sequence or group is on the training side, and a note names it.

    Raises:
        DataError: if share is not between 0 and 1, a label has no sequence, or there are too few sequences or
            groups to split.
    """
    count = len(targets)
    if not 0 < share < 1:
        raise DataError(f"the validation fraction must be between 0 and 1, got {share}")
    if count < 2:
        raise DataError(f"a split needs at least 2 sequences, got {count}")
    if groups is not None and len(groups) != count:
        raise DataError(f"the number of groups must match the sequences, got {len(groups)} for {count} sequences")
    ids = targets if isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu" else None
    blocks = np.arange(count) if groups is None else np.unique(np.asarray(groups, str), return_inverse=True)[1]
    if blocks.max() == 0:
        raise DataError("all sequences are in the same group; a split needs at least 2 groups")
    if ids is None:
        valid = _random_blocks(blocks, share, seed)
        return Split(np.setdiff1d(np.arange(count), valid), valid, [])

    counts = np.bincount(ids, minlength=0 if names is None else len(names))

    def label(k: int) -> str:
        return str(k) if names is None else repr(names[k])

    if (counts == 0).any():
        empty = ", ".join(map(label, np.flatnonzero(counts == 0).tolist()))
        raise DataError(f"no sequence has the label {empty}; remove the label or add sequences")
    spread = np.unique(np.stack([ids, blocks]), axis=1)[0]  # one entry for each pair of label and group
    single = np.flatnonzero(np.bincount(spread, minlength=len(counts)) == 1)
    notes = [
        f"label {label(k)} has only one {'sequence' if groups is None else 'group'}, which is used for training: "
        "its accuracy is not validated."
        for k in single.tolist()
    ]
    rest = np.flatnonzero(~np.isin(blocks, blocks[np.isin(ids, single)]))
    if len(np.unique(blocks[rest])) < 2:
        raise DataError(
            f"no label has at least 2 {'sequences' if groups is None else 'groups'} to split; add data, or validate on "
            "separate files"
        )
    require("sklearn", "train", "a split by label")
    valid = rest[(_stratified if groups is None else _stratified_groups)(ids[rest], blocks[rest], share, seed)]
    return Split(np.setdiff1d(np.arange(count), valid), np.sort(valid), notes)


def _random_blocks(blocks: Indices, share: float, seed: int) -> Indices:
    """Draw whole blocks at random until the number of sequences is as close to the fraction as possible."""
    sizes = np.bincount(blocks)
    order = np.random.default_rng(seed).permutation(len(sizes))
    total = np.cumsum(sizes[order])
    taken = int(np.argmin(np.abs(total[:-1] - share * len(blocks)))) + 1  # leaves at least one block for training
    return np.flatnonzero(np.isin(blocks, order[:taken]))


def _stratified(ids: Indices, blocks: Indices, share: float, seed: int) -> Indices:
    from sklearn.model_selection import StratifiedShuffleSplit

    labels = len(np.unique(ids))
    size = min(max(round(share * len(ids)), labels), len(ids) - labels)  # leaves room for each label on both sides
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
    valid: Indices = next(splitter.split(ids, ids))[1]
    return valid


def _stratified_groups(ids: Indices, blocks: Indices, share: float, seed: int) -> Indices:
    from sklearn.model_selection import StratifiedGroupKFold

    if np.bincount(ids).max() < 2:
        return _random_blocks(np.unique(blocks, return_inverse=True)[1], share, seed)
    small = share <= 0.5
    folds = max(2, round(1 / (share if small else 1 - share)))
    folds = min(folds, len(np.unique(blocks)), int(np.bincount(ids).max()))
    labels = len(np.unique(ids))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Only one fold is used, so a label may have fewer sequences than there are folds.
        warnings.simplefilter("ignore", UserWarning)
        for rest, fold in splitter.split(ids, ids, blocks):
            train, valid = (rest, fold) if small else (fold, rest)
            if len(valid) and len(np.unique(ids[train])) == labels:
                found: Indices = valid
                return found
    raise DataError("no split by group keeps every label in training; use more data, or validate on other files")

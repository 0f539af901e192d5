"""Choose the interesting units that a report lists."""

from __future__ import annotations

from collections.abc import Sequence

from throughtime.sight.report.data import Values

LISTED = 12  # units
_ALIKE = 2  # the maximum number of listed units that follow the same feature
_MIN_INTEREST = 0.0005  # the page shows less as 0.0%


def interesting(values: Sequence[Values]) -> list[tuple[int, int]]:
    """Choose the most interesting units that differ.

    Each unit of a layer is listed once, since its state, gates and output often follow the same feature, and at most
    two units follow the same feature. Units that follow no feature are not listed.

    Returns:
        The index of the value and the unit's number, most interesting first.
    """
    found: list[tuple[int, int]] = []
    seen: set[tuple[str, int]] = set()
    followers: dict[str, int] = {}
    scored = ((float(v.interest[u]), k, int(u)) for k, v in enumerate(values) for u in v.units)
    for interest, k, unit in sorted(scored, key=lambda each: -each[0]):
        note = values[k].notes[unit]
        feature = note.partition(" ")[2]  # without its first word, "high", "low", "rises" or "falls"
        if interest < _MIN_INTEREST or not note or (values[k].layer, unit) in seen:
            continue
        if followers.get(feature, 0) == _ALIKE:
            continue
        seen.add((values[k].layer, unit))
        followers[feature] = followers.get(feature, 0) + 1
        found.append((k, unit))
        if len(found) == LISTED:
            break
    return found

"""Find sounds with one label each, read from directory names or file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from throughtime.data.labeled import Labeled
from throughtime.data.sound import SOUND_FILES, Recording
from throughtime.errors import DataError
from throughtime.paths import display_path, files_in, joint_name, missing
from throughtime.spelling import option


def hold_sounds(paths: Sequence[str | Path]) -> bool:
    """Return whether all paths are sound files or directories that contain sound files."""

    def is_sound(path: Path) -> bool:
        return path.suffix.lower() in SOUND_FILES

    return bool(paths) and all(
        any(map(is_sound, path.rglob("*"))) if path.is_dir() else is_sound(path) for path in map(Path, paths)
    )


def read_labeled_sounds(
    paths: Sequence[str | Path], *, label_pattern: str | None = None, group_by: str | None = None, min_labels: int = 2
) -> Labeled:
    """Find sounds with one label each.

    Args:
        paths: directories and sound files. Without a pattern, the label is the name of the directory that a file is in.
        label_pattern: a regular expression to search for in file names, with a group named label (or a single
            group).
        group_by: the name of another group in the pattern, whose values a split must keep on one side.
        min_labels: the minimum number of distinct labels. With 0, no label is read if any file name doesn't match.

    Raises:
        DataError: if a path is missing, a file can't be read, a name doesn't match, or there are too few labels.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(missing(path))
        files += [(file, path) for file in (files_in(path, SOUND_FILES) if path.is_dir() else [path])]
    name = joint_name(paths)
    if not files:
        raise DataError(f"{name} has no sound files ({', '.join(SOUND_FILES)})")
    labels, groups = _from_names(files, label_pattern, group_by, min_labels == 0)
    if label_pattern is None:
        if group_by is not None:
            raise DataError(
                f"{option('group_by')} must name a group in {option('label_pattern')} for sounds; set that option too"
            )
        if all(file.parent != path for file, path in files) or min_labels:
            labels = [display_path(file.parent.name) for file, _ in files]
    distinct = sorted(set(labels))
    if len(distinct) < min_labels:
        only = f" ({distinct[0]!r})" if distinct else ""
        raise DataError(
            f"{name} has {len(distinct)} label{only}; at least {min_labels} are needed. Use one directory per label, "
            f"or {option('label_pattern')} to read labels from file names"
        )
    names = [display_path(file.relative_to(path) if file != path else file.name) for file, path in files]
    recordings = [Recording.open(file, shown) for (file, _), shown in zip(files, names, strict=True)]
    source = "the directory's name" if label_pattern is None else "the file's name"
    return Labeled(name, labels, names, recordings=recordings, groups=groups, source=source)


def _from_names(
    files: Sequence[tuple[Path, Path]], pattern: str | None, group_by: str | None, optional: bool
) -> tuple[list[str], list[str] | None]:
    """Extract labels and groups from file names."""
    if pattern is None:
        return [], None
    compiled = re.compile(pattern)
    if "label" not in compiled.groupindex and compiled.groups != 1:
        raise DataError(
            f"{option('label_pattern')} {pattern!r} must have a group named label, such as (?P<label>[0-9]+), or a "
            f"single group; it has {compiled.groups}"
        )
    if group_by is not None and group_by not in compiled.groupindex:
        raise DataError(
            f"{option('group_by')} {group_by!r} is not a group in {option('label_pattern')}; its groups are "
            f"{', '.join(compiled.groupindex) or 'none'}"
        )
    matches = [(file, compiled.search(file.name)) for file, _ in files]
    for file, match in matches:
        if match is None:
            if optional:
                return [], None
            raise DataError(f"{display_path(file.name)} does not match {option('label_pattern')} {pattern!r}")
    label = "label" if "label" in compiled.groupindex else 1
    found = [match for _, match in matches if match is not None]
    return [match[label] or "" for match in found], None if group_by is None else [match[group_by] for match in found]

"""Spans marked by BIO tags and their F1 score, as defined by conlleval and seqeval (in its default mode)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Span = tuple[int, int, str]
"""The start, end (exclusive) and type of a span."""

_PREFIXES = "BIES"


class SpanScores(NamedTuple):
    """Precision, recall and F1 score of spans over all sequences and types (micro average)."""

    precision: float
    recall: float
    f1: float


def is_tagging(labels: Iterable[str]) -> bool:
    """Return whether labels are span tags: `O` and at least one `B-TYPE`, `I-TYPE`, `E-TYPE` or `S-TYPE`."""
    others = {label for label in labels if label != "O"}
    return bool(others) and all(label[0] in _PREFIXES and label[1:2] == "-" and label[2:] for label in others if label)


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans of a sequence of tags.

    A span starts at `B-` or `S-`, after an `O` or `E-`, or where the type changes, so an `I-` tag starts a span if
    there is none to continue. It ends before the next one starts, before `O`, and after `E-` or `S-`. A tag without a
    prefix and a type, such as `B`, has the type `_`.

    Args:
        tags: tags that are `O` or a prefix with a type, such as `B-PER` and `I-PER`.

    Returns:
        The start, end (exclusive) and type of each span.

    Source:
        conlleval, the script of the CoNLL-2000 shared task.
    """
    found = set()
    start = 0
    before, kind_before = "O", "_"
    for k, tag in enumerate([*tags, "O"]):
        prefix = tag[:1] or "O"
        kind = tag[1:].split("-", 1)[-1] or "_"
        inside = prefix != "O"
        if before != "O" and (before in "ES" or prefix in "BSO" or kind != kind_before):
            found.add((start, k, kind_before))
        if inside and (prefix in "BS" or before in "ESO" or kind != kind_before):
            start = k
        before, kind_before = prefix, kind
    return found


def span_scores(true: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> SpanScores:
    """Compare predicted with true spans; a span is correct if its start, end and type are.

    Args:
        true: the true tags of each sequence.
        found: the predicted tags of each sequence.

    Returns:
        Micro averages over all spans, with 0 for divisions by zero.

    Raises:
        ValueError: if the numbers of tags differ.
    """
    right = wanted = given = 0
    for expected, predicted in zip(true, found, strict=True):
        if len(expected) != len(predicted):
            raise ValueError(f"the numbers of predicted and true tags differ: {len(predicted)} and {len(expected)}")
        ours, theirs = spans(predicted), spans(expected)
        right, wanted, given = right + len(ours & theirs), wanted + len(theirs), given + len(ours)
    return SpanScores(
        right / given if given else 0.0, right / wanted if wanted else 0.0, 2 * right / max(wanted + given, 1)
    )


def span_f1(true: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Return the F1 score from `span_scores`."""
    return span_scores(true, found).f1

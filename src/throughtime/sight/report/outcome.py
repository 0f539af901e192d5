"""How well labels were told, as a report shows it: the confusion matrix, a row for each label, the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from throughtime.sight.report.data import Array, ConfusionMatrix, Table

MISTAKES = 20
_LABELS = 40  # of a confusion matrix that can be read
_OTHERS = "(others)"


def label_results(
    labels: Sequence[str],
    true: Array,
    probabilities: Array,
    texts: Sequence[Any],
    of: str,
    about: str = "",
) -> dict[str, Any]:
    """The results of a network that tells labels, as fields of `ReportData`.

    Args:
        labels: the names of the labels.
        true: the right label of each case, ids `[N]`.
        probabilities: what the network gave each label, `[N, labels]`.
        texts: what to show of each case; needed only of the worst, so it may be computed on demand.
        of: what a case is, in the plural.
        about: what the texts show.
    """
    predicted = probabilities.argmax(1)
    return {
        "confusion": confusion(labels, true, predicted, of),
        "tables": [by_label(labels, true, predicted, of), mistakes(labels, true, probabilities, texts, of, about)],
    }


def confusion(labels: Sequence[str], true: Array, predicted: Array, of: str) -> ConfusionMatrix:
    """The confusion matrix; where there are too many labels to read, the rarest are taken together."""
    size = len(labels)
    counts = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    if size <= _LABELS:
        return ConfusionMatrix(labels, counts, of)
    frequency = counts.sum(1) + counts.sum(0)
    kept = np.sort(np.argsort(-frequency, kind="stable")[: _LABELS - 1])
    place = np.full(size, len(kept))
    place[kept] = np.arange(len(kept))
    merged = np.zeros((len(kept) + 1, len(kept) + 1), counts.dtype)
    np.add.at(merged, (place[:, None], place[None]), counts)
    return ConfusionMatrix([*(labels[k] for k in kept), _OTHERS], merged, of)


def by_label(labels: Sequence[str], true: Array, predicted: Array, of: str) -> Table:
    """Precision, recall and F1 of each label, the most frequent first."""
    size = len(labels)
    right = np.bincount(true[true == predicted], minlength=size)
    support, said = np.bincount(true, minlength=size), np.bincount(predicted, minlength=size)

    def share(part: Array, whole: Array) -> Array:
        found: Array = np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
        return found

    precision, recall, f1 = share(right, said), share(right, support), share(2 * right, said + support)
    rows = [
        (labels[k], float(precision[k]), float(recall[k]), float(f1[k]), int(support[k]))
        for k in np.argsort(-support, kind="stable")
        if support[k] or said[k]
    ]
    return Table(
        "Label by label",
        "Precision is the share of its predictions that are right, recall the share of its cases that are found, and "
        f"F1 their harmonic mean; support counts the {of} that have the label. A rare label with a low recall is one "
        "that the network has hardly learned.",
        ("label", "precision", "recall", "F1", "support"),
        rows,
    )


def mistakes(
    labels: Sequence[str], true: Array, probabilities: Array, texts: Sequence[Any], of: str, about: str = ""
) -> Table:
    """The cases that the network got most wrong, those with the highest loss first."""
    cases = np.arange(len(true))
    of_true = probabilities[cases, true]
    predicted = probabilities.argmax(1)
    order = np.argsort(of_true, kind="stable")
    wrong = order[predicted[order] != true[order]]
    rows = [
        (
            texts[int(k)],
            labels[true[k]],
            labels[predicted[k]],
            float(probabilities[k, predicted[k]]),
            float(of_true[k]),
        )
        for k in wrong[:MISTAKES]
    ]
    return Table(
        "Worst mistakes",
        f"The {of} with the highest loss of the {len(wrong):,} that got a wrong label, of {len(true):,}{about}. Look "
        "here for labels that are wrong in the data, and for what the network can't know.",
        (of.removesuffix("s"), "true label", "predicted", "probability", "of the true one"),
        rows,
    )

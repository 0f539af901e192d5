"""Classification results for a report: the confusion matrix, a table of labels, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from throughtime.sight.report.data import Array, ConfusionMatrix, Table

MISTAKES = 20
_LABELS = 40  # the maximum number of labels, so that a confusion matrix stays readable
_OTHERS = "(others)"


def label_results(
    labels: Sequence[str],
    true: Array,
    probabilities: Array,
    texts: Sequence[Any],
    of: str,
    about: str = "",
) -> dict[str, Any]:
    """Return a classifier's results as fields of `ReportData`.

    Args:
        labels: the names of the labels.
        true: the true label of each case, ids `[N]`.
        probabilities: the predicted probability of each label, `[N, labels]`.
        texts: returns the text to show for each case; called only for the worst ones.
        of: the name of the cases, in the plural.
        about: a description of the texts.
    """
    predicted = probabilities.argmax(1)
    return {
        "confusion": confusion(labels, true, predicted, of),
        "tables": [by_label(labels, true, predicted, of), mistakes(labels, true, probabilities, texts, of, about)],
    }


def confusion(labels: Sequence[str], true: Array, predicted: Array, of: str) -> ConfusionMatrix:
    """Compute the confusion matrix, merging the rarest labels if there are too many to read."""
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
    """Compute precision, recall and F1 of each label, most frequent first."""
    size = len(labels)
    right = np.bincount(true[true == predicted], minlength=size)
    support, claimed = np.bincount(true, minlength=size), np.bincount(predicted, minlength=size)

    def share(part: Array, whole: Array) -> Array:
        found: Array = np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
        return found

    precision, recall, f1 = share(right, claimed), share(right, support), share(2 * right, claimed + support)
    rows = [
        (labels[k], float(precision[k]), float(recall[k]), float(f1[k]), int(support[k]))
        for k in np.argsort(-support, kind="stable")
        if support[k] or claimed[k]
    ]
    return Table(
        "Results by label",
        "Precision is the fraction of predictions of a label that are right, recall the fraction of its cases that are "
        f"found, and F1 their harmonic mean; support is the number of {of} with the label. A rare label with low "
        "recall is one that the network has barely learned.",
        ("label", "precision", "recall", "F1", "support"),
        rows,
    )


def mistakes(
    labels: Sequence[str], true: Array, probabilities: Array, texts: Sequence[Any], of: str, about: str = ""
) -> Table:
    """List the cases with the highest loss, worst first."""
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
        f"The {of} with the highest loss among the {len(wrong):,} of {len(true):,} with a wrong prediction{about}. "
        "Look for wrong labels in the data, and for cases that can't be decided from the input.",
        (of.removesuffix("s"), "true label", "predicted", "probability", "of the true label"),
        rows,
    )
